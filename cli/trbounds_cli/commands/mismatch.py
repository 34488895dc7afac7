"""Show what a logit error allows, or what traces say of it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    Example,
    OnError,
    RewardRange,
    TokenTraces,
    TraceFormat,
)
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trbounds.mismatch import MismatchBin, MismatchSummary
    from trbounds.traces import TraceBatch

# 1 - p and its logarithm decide the envelope near p = 1, p and its logarithm near 0.
_TAIL = (1e-12, 1e-6, 1e-3, 0.1)


def command(
    traces: TokenTraces = None,
    logit_error: Annotated[
        float | None,
        typer.Option(metavar="A", help="Largest error of any logit, up to a common constant."),
    ] = None,
    T: Annotated[
        int | None, typer.Option("--T", metavar="N", help="Horizon: the longest response.")
    ] = None,
    solve: Annotated[
        bool, typer.Option("--solve", help="Find the largest logit error within --budget.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(metavar="X", help="With --solve: largest tolerated |Error|.")
    ] = None,
    reward_var: Annotated[
        float | None, typer.Option(metavar="V", help="Within-prompt variance of the reward.")
    ] = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    conversion: ConversionOption = "pinsker",
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With traces: draw them; .png, .svg or .pdf."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Join the log-probability mismatch of two policies to the bounds on |Error|.

    With a logit error and a horizon: the exact envelope of a token's mismatch, caps on the
    divergences, and every bound that follows. With `--solve`: the largest logit error that a budget
    allows, per bound. With traces: the measured mismatch against 1 - p, the logit error that
    explains it, and the bias of sampled tokens against its prediction.

    Example: `trbounds mismatch --logit-error 0.01 --T 8192`

    Example: `trbounds mismatch --solve --T 8192 --budget 0.1`

    Example: `trbounds mismatch run.parquet --logit-error 0.5 --figure mismatch.png`
    """
    known: dict[str, Any] = {"reward_range": reward_range, "conversion": conversion}
    if reward_var is not None:
        known["reward_var"] = reward_var
    if (budget is not None) != solve:
        raise InputError("give --solve and --budget together")
    if traces or example:
        if solve or T is not None or reward_var is not None or conversion != "pinsker":
            raise InputError(
                "traces go with --logit-error only, not with --T, --solve, --reward-var or "
                "--conversion"
            )
        from trbounds.traces import TraceSummary
        from trbounds_cli.tracing import read_batches, trace_paths

        paths = trace_paths(traces, example=example)
        batches = read_batches(
            paths,
            form=form,
            reward_range=reward_range,
            on_error=on_error,
            summary=TraceSummary(reward_range=reward_range),
        )
        if figure is None:
            summary = _measure(batches, logit_error)
        else:
            summary = _draw(figure, paths, batches, logit_error)
        _show_trace(summary, figure, as_json=json)
        return
    for option, given in (
        ("--figure", figure is not None),
        ("--format", form is not None),
        ("--on-error", on_error != "fail"),
    ):
        if given:
            raise InputError(f"{option} needs traces")
    if T is None:
        raise InputError("give traces, or a horizon --T with --logit-error or --solve")
    if solve == (logit_error is not None):
        raise InputError("give either --logit-error or --solve with --T")
    if budget is not None:
        _solve(T, budget, known, as_json=json)
    elif logit_error is not None:
        _show(logit_error, T, known, as_json=json)


# -- from a logit error ------------------------------------------------------------------------


def _show(logit_error: float, T: int, known: dict[str, Any], *, as_json: bool) -> None:
    from trbounds import assess_all
    from trbounds.mismatch import profile_from_logit_error
    from trbounds.solve import LONGEST_SPREAD
    from trbounds_cli.assessments import print_assessments, profile_document

    # The adaptive bounds need positions.
    spread = T <= LONGEST_SPREAD
    profile = profile_from_logit_error(logit_error, T, positions=spread, **known)
    envelope = _envelope(logit_error)
    names = ("tv_max", "kl_max", "chi2_max", "log_ratio_max")
    caps = {name: float(getattr(profile, name)) for name in names}
    completed = profile.complete()
    found = list(assess_all(completed).values())
    if as_json:
        document = profile_document(completed, found)
        del document["profile"]  # thousands of equal positions; the caps say it all
        print_json(
            {
                "logit_error": logit_error,
                "T": T,
                "envelope": envelope,
                "caps": caps,
                **document,
            }
        )
        return
    print_table(
        f"Envelope of a token's mismatch, logit error {logit_error:g}",
        ["p>", "1 - p>", "smallest>", "largest>", "2a(1-p)>"],
        [[number(value) for value in row.values()] for row in envelope],
        ["mismatch: change of the token's log-probability in nats; both ends are attained"],
    )
    print_table(
        "Caps on the divergences of one step",
        ["quantity", "cap>", "formula"],
        [
            [name, number(caps[name]), formula]
            for name, formula in zip(names, ("tanh(a/2)", "a^2/2", "sinh(a)^2", "2a"), strict=True)
        ],
    )
    print_assessments(completed, found)


def _envelope(logit_error: float) -> list[dict[str, float]]:
    from trbounds.mismatch import MismatchCase, get_law

    points = [(p, 1.0 - p, math.log(p), math.log1p(-p)) for p in (*_TAIL, 0.5)]
    points += [(1.0 - rest, rest, math.log1p(-rest), math.log(rest)) for rest in _TAIL[::-1]]
    rows = []
    for p, rest, logp, log1mp in points:
        case = MismatchCase(logit_error=logit_error, logp=logp, log1mp=log1mp)
        law = get_law("envelope")
        rows.append(
            {
                "p": p,
                "one_minus_p": rest,
                "smallest": law.evaluate_lower(case),
                "largest": law.evaluate(case),
                "first_order": get_law("first_order").evaluate(case),
            }
        )
    return rows


# -- back from a budget ------------------------------------------------------------------------


def _solve(T: int, budget: float, known: dict[str, Any], *, as_json: bool) -> None:
    from trbounds.bounds import get_bound
    from trbounds.mismatch import largest_logit_error

    found = largest_logit_error(T, budget, **known)
    rows = [(key, a, str(get_bound(key).source)) for key, a in found.by_bound.items()]
    if as_json:
        print_json(
            {
                "T": T,
                "budget": budget,
                "bounds": [{"key": k, "logit_error": a, "source": s} for k, a, s in rows],
                "best": {"key": found.bound, "logit_error": found.logit_error},
            }
        )
        return
    print_table(
        f"Largest logit error that keeps |Error| within {budget:g}, T = {T}",
        ["bound", "logit error>", "source"],
        [[k, number(a), s] for k, a, s in sorted(rows, key=lambda row: -row[1])],
        [
            f"best: {found.bound} allows {number(found.logit_error)}",
            "logit error: the largest of any logit, up to a common constant (nats); the least that "
            "your logs need is a_hat of trbounds mismatch LOGS",
        ],
    )


# -- from traces -------------------------------------------------------------------------------


def _measure(
    batches: Iterator[TraceBatch],
    logit_error: float | None,
    on_batch: Callable[[TraceBatch], None] | None = None,
) -> MismatchSummary:
    from trbounds.mismatch import summarize_batches

    summary = summarize_batches(batches, logit_error=logit_error, on_batch=on_batch)
    if not summary.n_tokens:
        raise InputError("the traces hold no token")
    return summary


def _draw(
    figure: Path, paths: list[str], batches: Iterator[TraceBatch], logit_error: float | None
) -> MismatchSummary:
    """Measure, and draw in the same pass."""
    from trbounds_figures import check_target, save
    from trbounds_figures.mismatch import MismatchData, TokenCells

    check_target(figure)
    cells = TokenCells()
    summary = _measure(batches, logit_error, cells.add)
    name = Path(paths[0]).name if len(paths) == 1 else f"{len(paths)} paths"
    save("mismatch", figure, MismatchData((cells.trace(name, summary),)))
    return summary


def _exceeding(summary: MismatchSummary) -> list[dict[str, Any]]:
    """Return the tokens that need most; with a common logit error those that exceed it."""
    least = -math.inf if summary.logit_error is None else summary.logit_error
    return [extreme._asdict() for extreme in summary.worst if extreme.value > least]


def _show_trace(summary: MismatchSummary, figure: Path | None, *, as_json: bool) -> None:
    noise = summary.noise_variance
    quantiles = {str(q): summary.logit_error_quantile(q) for q in (0.5, 0.9, 0.99, 0.999)}
    if as_json:
        print_json(
            {
                "sequences": summary.n_sequences,
                "tokens": summary.n_tokens,
                "a_hat": summary.logit_error_max,
                "logit_error_quantiles": quantiles,
                "noise_variance": {"value": noise.value, "standard_error": noise.standard_error},
                "logit_error": summary.logit_error,
                "exceeding_tokens": (
                    None if summary.logit_error is None else summary.exceeding_tokens
                ),
                "certain_tokens": summary.certain_tokens,
                "largest": _exceeding(summary),
                "bins": [asdict(row) for row in summary.bins()],
                "figure": None if figure is None else str(figure),
            }
        )
        return
    _print_bins(summary)
    _print_tokens(summary)
    if figure is not None:
        typer.echo(str(figure))


def _print_bins(summary: MismatchSummary) -> None:
    noise = summary.noise_variance
    half, most = (summary.logit_error_quantile(q) for q in (0.5, 0.99))
    print_table(
        f"Mismatch |log rollout - log train| of {summary.n_tokens} sampled tokens in "
        f"{summary.n_sequences} sequences, by probability under the training policy",
        [
            "p",
            "tokens>",
            "mean 1-p>",
            "mean>",
            "s.e.>",
            "largest>",
            "a>",
            "bias>",
            "s.e.>",
            "predicted>",
        ],
        [
            [
                _range_of(row),
                str(row.tokens),
                f"{row.one_minus_p:.3g}",
                f"{row.abs_mismatch.value:.3g}",
                _short(row.abs_mismatch.standard_error),
                f"{row.abs_mismatch_max:.3g}",
                f"{row.logit_error_max:.3g}",
                _short(row.bias.value),
                _short(row.bias.standard_error),
                f"{_short(row.predicted_low)} to {_short(row.predicted_high)}",
            ]
            for row in summary.bins()
        ],
        [
            f"a_hat = {number(summary.logit_error_max)}: the smallest logit error that explains "
            f"every sampled token (observed; other tokens may need more). Half of the tokens "
            f"need at most {number(half)}, 99 % at most {number(most)}",
            "a: the same within a bin; bias: mean of log rollout - log train; predicted: by the "
            f"selection bias at noise variance {number(noise.value)}, "
            f"s.e. {_short(noise.standard_error)}, matched to the KL",
        ],
    )


def _range_of(row: MismatchBin) -> str:
    """Write the range of p of a bin; an end above one half by what is missing to 1."""
    low = f"{row.p_low:.2g}" if row.p_low < 0.5 else f"1-{row.rest_high:.2g}"
    high = f"{row.p_high:.2g}" if row.p_high <= 0.5 else f"1-{row.rest_low:.2g}"
    return f"{low} to {high.removesuffix('-0')}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _print_tokens(summary: MismatchSummary) -> None:
    shown = _exceeding(summary)
    notes = []
    if summary.logit_error is not None:
        share = summary.exceeding_tokens / summary.n_tokens
        notes.append(
            f"{summary.exceeding_tokens} of {summary.n_tokens} tokens ({share:.3%}) need more "
            f"than {summary.logit_error:g}"
        )
    if summary.certain_tokens:
        notes.append(
            f"{summary.certain_tokens} tokens have probability 1 under one policy alone: "
            "rounding; no logit error explains them"
        )
    if not shown:
        typer.echo("\n".join(notes))
        return
    which = "need most" if summary.logit_error is None else f"exceed {summary.logit_error:g}"
    print_table(
        f"Tokens that {which}: the {len(shown)} largest",
        ["logit error>", "file", "record>", "position>"],
        [[number(t["value"]), t["file"], str(t["record"]), str(t["position"])] for t in shown],
        notes,
    )
