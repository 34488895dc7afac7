"""Compute metrics, our own or by the formulas of a framework."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, Example, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trbounds.metrics import FrameworkMetrics
    from trbounds.traces import TraceSummary


def command(
    traces: Traces = None,
    framework: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="NAME",
            help="verl, nemo-rl, prime-rl, slime or trl; or trbounds, our own.",
        ),
    ] = "trbounds",
    by_step: Annotated[
        bool, typer.Option("--by-step", help="One result per training step, as dashboards show.")
    ] = False,
    cap: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="verl's rollout_is_threshold, slime's tis_clip, TRL's clip_max of importance "
            "ratios, NeMo-RL's truncated_importance_sampling_ratio.",
        ),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Lower number of verl's threshold, as for IcePop; slime's tis_clip_low, TRL's "
            "clip_min, NeMo-RL's ratio_min.",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="verl's rollout_is (token, sequence, none), TRL's mode (sequence_mask, "
            "sequence_truncate, token_mask, token_truncate), NeMo-RL's "
            "truncated_importance_sampling_type (none, tis, icepop, seq-mask-tis).",
        ),
    ] = None,
    rejection: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="verl's rollout_rs, for its rollout_rs_* metrics, such as seq_max_k2.",
        ),
    ] = None,
    rejection_threshold: Annotated[
        str | None,
        typer.Option(metavar="X", help="verl's rollout_rs_threshold, such as 0.05 or 0.5_2."),
    ] = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Compute what a framework's dashboard shows, from logged log-probabilities.

    Names, formulas and clamps are the framework's; values are computed in float64 and carry a
    standard error (jackknife over prompts) that dashboards do not have.

    The default is our own metrics, which the other commands start from: the objective, the
    surrogate, the error and their standard errors, limits on bounded means, and how far the weights
    can be trusted.

    Example: `trbounds metrics --example --as verl`

    Example: `trbounds metrics LOGS --as verl --rejection seq_max_k2 --rejection-threshold 0.05`

    Example: `trbounds metrics runs/step_*.parquet --as trl --by-step --json`
    """
    from trbounds.metrics import FRAMEWORKS, framework_metrics
    from trbounds.traces import TraceSummary
    from trbounds_cli.tracing import read_batches, read_summary

    settings: dict[str, Any] = {
        "cap": cap,
        "floor": floor,
        "level": level,
        "rejection": rejection,
        "rejection_threshold": rejection_threshold,
    }
    if framework == "trbounds":
        for name, given in {"by_step": by_step or None, **settings}.items():
            if given is not None:
                where = ": see trbounds steps" if name == "by_step" else ""
                problem = f"goes with a framework's metrics alone{where}"
                raise InputError(problem, field=_option(name))
        summary = read_summary(
            traces, example=example, form=form, reward_range=reward_range, on_error=on_error
        )
        _show_own(summary, as_json=json)
        return
    if framework not in FRAMEWORKS:
        names = ", ".join((*FRAMEWORKS, "trbounds"))
        raise InputError(f"found {framework!r}, expected one of {names}", field="--as")
    batches = read_batches(
        traces,
        example=example,
        form=form,
        reward_range=reward_range,
        on_error=on_error,
        summary=TraceSummary(reward_range=reward_range),
    )
    try:
        found = framework_metrics(batches, framework, by_step=by_step, **settings)
    except InputError as error:
        if error.field not in settings:
            raise
        raise InputError(error.problem, field=_option(error.field)) from None
    if json:
        print_json({"framework": framework, "results": [part.to_dict() for part in found]})
        return
    if len(found) > 1:
        _show_steps(framework, found)
        return
    for part in found:
        where = "" if part.step is None else f", step {part.step}"
        print_table(
            f"{framework}: {part.n_sequences} sequences{where}",
            ["metric", "value>", "s.e.>"],
            [
                [name, number(value), number(part.standard_errors[name])]
                for name, value in part.values.items()
            ],
        )


def _option(parameter: str) -> str:
    """Name the option that sets a parameter."""
    return f"--{parameter.replace('_', '-')}"


def _show_steps(framework: str, found: Sequence[FrameworkMetrics]) -> None:
    """Show a row for each step: time goes down the page, and every metric has its column."""
    names = list(dict.fromkeys(name for part in found for name in part.values))
    print_table(
        f"{framework}: {sum(part.n_sequences for part in found)} sequences by training step",
        ["step>", "sequences>", *(f"{name}>" for name in names)],
        [
            [
                "-" if part.step is None else str(part.step),
                str(part.n_sequences),
                *(_with_error(part, name) for name in names),
            ]
            for part in found
        ],
        ["+-: standard error (jackknife over prompts)"],
    )


def _with_error(part: FrameworkMetrics, name: str) -> str:
    value, error = part.values.get(name), part.standard_errors.get(name)
    if value is None or error is None or isnan(error):
        return "-" if value is None else f"{value:.4g}"
    return f"{value:.4g} +- {error:.1g}"


def _show_own(summary: TraceSummary, *, as_json: bool) -> None:
    from trbounds.metrics import trace_statistics
    from trbounds_cli.tracing import pooling_note

    found = trace_statistics(summary)
    if as_json:
        print_json(found.to_dict())
        return
    estimates = {name: getattr(found.estimates, name) for name in _OWN}
    print_table(
        f"{summary.n_sequences} sequences, {summary.n_tokens} tokens",
        ["estimate", "value>", "s.e. by sequence>", "s.e. by prompt>"],
        [
            [
                _OWN[name],
                number(estimate.value),
                number(estimate.standard_error),
                number(estimate.jackknife_error),
            ]
            for name, estimate in estimates.items()
            if estimate is not None
        ],
        [found.trust, *pooling_note(summary)],
    )
    if found.quantiles:
        print_table(
            "Tokens: observed quantiles, to within 1/16 (exact counts)",
            ["value", *(f"{100 * q:g} %>" for q in found.quantiles["k2"])],
            [
                [_VALUES[name], *(number(value) for value in values.values())]
                for name, values in found.quantiles.items()
            ],
        )
    if found.limits:
        print_table(
            "Limits at any sample size, 95 % each (empirical Bernstein, prompts independent)",
            ["mean of", "value>", "at least>", "at most>", "prompts>"],
            [
                [name, number(m.value), number(m.lower), number(m.upper), str(m.n_groups)]
                for name, m in found.limits.items()
            ],
        )


_OWN = {
    "J_mu": "mean reward",
    "reward_var": "variance of the reward within prompts",
    "surrogate": "surrogate L'",
    "gain": "gain J(pi) - J(mu)",
    "error": "error, gain - L'",
    "sup_error": "largest error over all rewards",
    "tv_seq": "TV of whole sequences",
    "residual_square": "Q = E (W - 1 - M)^2",
    "residual_square_path": "Q, by the logged chi2",
    "l2": "L2 bound sqrt(v Q)",
}

_VALUES = {
    "abs_log_ratio": "|log rho|",
    "k2": "k2 = (log rho)^2/2",
    "k3": "k3 = rho - 1 - log rho",
    "kl": "kl",
    "tv": "tv",
    "chi2": "chi2",
    "entropy": "entropy",
}
