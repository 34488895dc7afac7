"""Apply masking rules: what they keep, and at which lengths."""

from __future__ import annotations

import sys
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.masks import (
    LENGTH_COLUMNS,
    KlMax,
    TvMax,
    check_tokens,
    guarantee_note,
    length_rows,
    percent,
    read_once,
    statistics_of,
)
from trbounds_cli.options import AsJson, Example, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import check_output, number, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trbounds.masking import Bin, Guarantee, MaskEffect
    from trbounds.traces import TraceBatch, TraceSummary

RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="RULE",
        help="What accepts a sequence, as in 'max k2 <= 0.05 and mean k3 <= 0.001', or keeps a "
        "token, as in 'token k2 <= 0.05'. See --list.",
    ),
]


def command(
    traces: Traces = None,
    rules: RuleOption = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare several rules, each by itself; without --rule the named ones that have "
            "default numbers.",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write what is kept; .parquet."),
    ] = None,
    show_rules: Annotated[
        bool, typer.Option("--list", help="List statistics and named rules.")
    ] = False,
    kl_max: KlMax = None,
    tv_max: TvMax = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Mask whole sequences, or single tokens, by a rule, and show what that does.

    Share accepted, overall and by length, reward and step; the masked surrogate (divided by the
    batch size); and what the rule proves of the error. Rules compare statistics with numbers and
    join with and, or, not; papers' and frameworks' rules go by their names.

    A rule that says "token" decides on every token, and what it says of sequences goes for all
    their tokens. A sequence counts as accepted if no token of it is masked. Such a rule proves
    nothing of the error.

    Example: `trbounds mask --example --rule "max k2 <= 0.05 and mean k3 <= 0.001" -o masks.parquet`

    Example: `trbounds mask run.parquet --compare --rule "TRM-Max(0.05)" --rule IcePop`
    """
    from trbounds.masking import compare as compare_rules
    from trbounds.masking import keep_tokens, parse_rule
    from trbounds_cli.tracing import read_batches, read_summary

    if show_rules:
        _list(as_json=json)
        return
    if not rules and compare:
        rules = _with_defaults(traces)
    if not rules:
        raise InputError("expected a rule, or --compare", field="--rule")
    if len(rules) > 1 and not compare:
        raise InputError("found several: join them by 'and', or give --compare", field="--rule")
    if output is not None:
        check_output(output, ".parquet")
    parsed = [parse_rule(text) for text in rules]
    names = [name for rule in parsed for name in rule.statistics]
    on_tokens = [rule for rule in parsed if rule.token_statistics]
    check_tokens([name for rule in parsed for name in rule.names], traces)
    reading: dict[str, Any] = {"form": form, "reward_range": reward_range, "on_error": on_error}
    summary = read_summary(traces, example=example, **reading)
    statistics = statistics_of(
        summary,
        names,
        traces,
        kl_max=kl_max,
        tv_max=tv_max,
        example=example,
        **reading,
    )

    def tokens() -> Iterator[TraceBatch]:
        return read_batches(traces, example=example, **reading)

    kept = keep_tokens(summary, on_tokens, tokens(), statistics) if on_tokens else None
    effects = compare_rules(summary, parsed, statistics, kept)
    if output is not None:
        from trbounds.masking.output import write_masks

        write_masks(output, summary, effects, statistics, tokens() if on_tokens else None)
    best = _best(summary)
    if json:
        documents = [effect.to_dict() for effect in effects]
        found = {"unmasked_bound": best, "output": output}
        print_json({"rules": documents, **found} if compare else {**documents[0], **found})
        return
    if compare:
        _show_comparison(rules, effects, best)
    else:
        _show(effects[0], best, summary)
    if output is not None:
        typer.echo(f"{output}: {summary.n_sequences:,} sequences")


def _with_defaults(traces: list[str] | None) -> list[str]:
    from trbounds.masking import PRESETS, needs_tokens

    presets = [p for p in PRESETS.values() if len(p.defaults) == len(p.parameters)]
    if read_once(traces) is not None:
        twice = [p for p in presets if needs_tokens(p.rule().names)]
        names = ", ".join(p.name for p in twice)
        sys.stderr.write(f"left out: {names}, which read the tokens again: give a trace file\n")
        presets = [p for p in presets if p not in twice]
    return [p.name for p in presets]


def _best(summary: TraceSummary) -> dict[str, Any] | None:
    """Return the smallest bound on the trace as it is, without a mask."""
    from trbounds.trace_bounds import bounds_on_trace

    if summary.T == 0:
        return None
    best = bounds_on_trace(summary).best
    return {"value": best.value, "standard_error": best.standard_error, "bound": best.bound.key}


def _list(*, as_json: bool) -> None:
    from trbounds.masking import PRESETS, STATISTICS, TOKEN_STATISTICS

    both = [*STATISTICS.values(), *TOKEN_STATISTICS.values()]
    if as_json:
        print_json(
            {
                "statistics": [
                    {"name": s.name, "meaning": s.title, "needs": list(s.needs)} for s in both
                ],
                "rules": [
                    {"name": p.name, "parameters": list(p.parameters), "source": p.source}
                    for p in PRESETS.values()
                ],
            }
        )
        return
    print_table(
        "Statistics of a sequence, or of a single token, to compare with numbers by <=, <, >=, >",
        ["statistic", "meaning", "needs"],
        [[s.name, s.title, ", ".join(s.needs) or "-"] for s in both],
    )
    print_table(
        "Named rules; numbers in brackets have defaults",
        ["rule", "source"],
        [[_usage(p.name, p.parameters, p.defaults), p.source] for p in PRESETS.values()],
    )


def _usage(name: str, parameters: tuple[str, ...], defaults: tuple[float, ...]) -> str:
    required = len(parameters) - len(defaults)
    given = [
        f"{parameter} = {defaults[i - required]:g}"
        if i >= required and isfinite(defaults[i - required])
        else parameter
        for i, parameter in enumerate(parameters)
    ]
    return f"{name}({', '.join(given)})"


_MOST_ROWS = 60
"""Rows of a table by step that people read; a run can have thousands."""


def _show(effect: MaskEffect, best: dict[str, Any] | None, summary: TraceSummary) -> None:
    accepted, kept = effect.accepted, effect.kept_token_share
    notes = [
        f"accepted: {accepted.share.value:.2%} of {effect.accept.size} sequences, s.e. "
        f"{accepted.share.error:.2%}" + "; no token of them is masked" * effect.on_tokens,
        f"accepted, limits at any sample size (95 % each): {accepted.limits.lower:.1%} and "
        f"{accepted.limits.upper:.1%}",
        f"tokens kept: {kept.value:.2%}, s.e. {kept.error:.2%}",
        f"expected: (1-p)^T with p = {number(effect.token_exclusion)} for every token alike",
        f"PPL gap: {number(effect.ppl_gap)} nats of all, {number(effect.accepted_ppl_gap)} of "
        "accepted sequences",
    ]
    for title, estimate in (
        ("masked surrogate", effect.surrogate),
        ("surrogate of all", effect.unmasked_surrogate),
    ):
        if estimate is not None:
            notes.append(f"{title} = {number(estimate.value)}, s.e. {number(estimate.error)}")
    if best is not None:
        notes.append(_UNMASKED.format(number(best["value"]), best["bound"]))
    if effect.on_tokens:
        notes.append(_ON_TOKENS)
    if effect.guarantee is not None:
        notes.append(_guarantee(effect.guarantee, summary))
    if effect.length_neutral is not None:
        neutral = effect.length_neutral
        notes.append(
            f"LN-TRM: |Error| <= {number(neutral.value.value)}, s.e. "
            f"{number(neutral.value.error)} (estimated; accepted sequences have "
            f"{number(neutral.accepted.value)} of it, the threshold allows "
            f"{number(neutral.from_cap)})"
        )
    print_table(
        f"Mask by {effect.rule}",
        LENGTH_COLUMNS,
        length_rows(effect.by_length),
    )
    for title in ("reward", "step"):
        bins = getattr(effect, f"by_{title}")
        if len(bins) > _MOST_ROWS:
            notes.append(f"by {title}: {len(bins)} rows, with --json")
        elif len(bins) > 1:
            print_table(
                f"By {title}",
                [f"{title}>", "sequences>", "accepted>", "s.e.>", "tokens kept>"],
                [
                    [
                        _span(part),
                        str(part.n_sequences),
                        f"{part.share.value:.1%}",
                        f"{part.share.error:.1%}",
                        percent(part.kept.value),
                    ]
                    for part in bins
                ],
            )
    for note in notes:
        typer.echo(note)


_UNMASKED = "without a mask: |Error| <= {} ({}, plug-in)"
_ON_TOKENS = (
    "a rule on tokens proves nothing of the error: it takes terms out of the surrogate, and the "
    "two policies stay as far apart as they are"
)


def _guarantee(found: Guarantee, summary: TraceSummary) -> str:
    if found.value_for_reward is None:
        return guarantee_note(found, summary)
    own = f", {number(found.value_for_reward)} at this reward's variance (plug-in)"
    return guarantee_note(found, summary, at_variance=own)


def _show_comparison(
    texts: list[str], effects: list[MaskEffect], best: dict[str, Any] | None
) -> None:
    rows = []
    for name, effect in enumerate(effects, start=1):
        surrogate, proved, neutral = effect.surrogate, effect.guarantee, effect.length_neutral
        rows.append(
            [
                f"{name}",
                f"{effect.accepted.share.value:.1%}",
                f"{effect.accepted.share.error:.1%}",
                percent(effect.kept_token_share.value),
                f"{effect.kept_token_share.error:.1%}",
                number(None if surrogate is None else surrogate.value),
                number(None if surrogate is None else surrogate.error),
                "-" if proved is None else number(proved.value) + " *" * proved.plug_in,
                "-" if neutral is None else number(neutral.value.value),
            ]
        )
    notes = [
        f"{name}: {effect.rule}" if text == str(effect.rule) else f"{name}: {text}: {effect.rule}"
        for name, (text, effect) in enumerate(zip(texts, effects, strict=True), start=1)
    ]
    notes += [
        "surrogate: divided by the batch size; bound: on |Error| for any reward, of the policy "
        "stopped at the caps of the rule (*: plug-in, nothing is proved); LN-TRM: estimated"
    ]
    if best is not None:
        notes.append(_UNMASKED.format(number(best["value"]), best["bound"]))
    if any(effect.on_tokens for effect in effects):
        notes.append(f"accepted: of which no token is masked; {_ON_TOKENS}")
    columns = ["rule>", "accepted>", "s.e.>", "tokens kept>", "s.e.>", "surrogate>", "s.e.>"]
    print_table("Masking rules", [*columns, "bound>", "LN-TRM>"], rows, notes)
    for title in ("length", "reward", "step"):
        bins = [getattr(effect, f"by_{title}") for effect in effects]
        if len(bins[0]) > _MOST_ROWS:
            typer.echo(f"by {title}: {len(bins[0])} rows, with --json")
        elif len(bins[0]) > 1:
            expected = ", in brackets expected: (1-p)^T" if title == "length" else ""
            _show_bins(f"Accepted by {title}{expected}", title, bins, _accepted)
            if any(effect.on_tokens for effect in effects):
                _show_bins(f"Tokens kept by {title}", title, bins, _kept)


def _accepted(part: Bin) -> str:
    expected = "" if part.expected is None else f" ({part.expected:.1%})"
    return f"{part.share.value:.1%}{expected}"


def _kept(part: Bin) -> str:
    return percent(part.kept.value)


def _show_bins(
    heading: str, title: str, bins: list[tuple[Bin, ...]], cell: Callable[[Bin], str]
) -> None:
    """Show one number of each bin for every rule."""
    rows = [
        [_span(same[0]), str(same[0].n_sequences), *map(cell, same)]
        for same in zip(*bins, strict=True)
    ]
    rules = [f"{name}>" for name in range(1, len(bins) + 1)]
    print_table(heading, [f"{title}>", "sequences>", *rules], rows)


def _span(part: Bin) -> str:
    if part.lowest == part.highest:
        return number(part.lowest)
    return f"{number(part.lowest)} to {number(part.highest)}"
