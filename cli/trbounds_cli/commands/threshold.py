"""Find the threshold of a rule for an acceptance or a bound."""

from __future__ import annotations

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
    statistics_of,
)
from trbounds_cli.options import AsJson, Example, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.masking import Threshold
    from trbounds.traces import TraceSummary


def command(
    traces: Traces = None,
    targets: Annotated[
        list[float] | None,
        typer.Option(
            "--target-acceptance", metavar="SHARE", help="Share to accept; repeat for several."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="B", help="Largest tolerated bound on |Error|, in reward units."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            "--rule-family",
            metavar="NAME",
            help="What is compared with the threshold: a statistic such as max-k2, or a rule "
            "such as TRM-Max. By default max-k2 for an acceptance, the sum of chi2 (sampled "
            "where it is not logged) for a budget.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(metavar="P", help="Of the intervals, between 0 and 1.")
    ] = 0.95,
    kl_max: KlMax = None,
    tv_max: TvMax = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Find the threshold of a rule that accepts a share, or that keeps a bound.

    With its interval, clustered by prompt, and what it costs: acceptance by length against
    (1-p)^T, the masked surrogate, and the bound that goes with it.

    Example: `trbounds threshold --example --target-acceptance 0.9 --rule-family max-k2`

    Example: `trbounds threshold run.parquet --budget 0.05`
    """
    from trbounds.masking import parse_family, threshold_for_acceptance, threshold_for_budget
    from trbounds_cli.tracing import read_summary

    if bool(targets) == (budget is not None):
        raise InputError("give either --target-acceptance or --budget")
    for target in targets or []:
        if not 0 < target <= 1:  # said before the traces are read
            raise InputError(f"found {target:g}, expected above 0 and at most 1", field="target")
    statistic = None if family is None else parse_family(family)
    check_tokens([] if statistic is None else [statistic], traces)
    reading: dict[str, Any] = {"form": form, "reward_range": reward_range, "on_error": on_error}
    summary = read_summary(traces, example=example, **reading)
    if statistic is None:
        sampled = "sum chi2" if summary.has("chi2") else "sum (rho-1)^2"
        statistic = "max k2" if targets else sampled
    statistics = statistics_of(
        summary, [statistic], traces, kl_max=kl_max, tv_max=tv_max, example=example, **reading
    )
    if budget is not None:
        found = [
            threshold_for_budget(summary, statistic, budget, statistics, confidence=confidence)
        ]
    else:
        found = [
            threshold_for_acceptance(summary, statistic, target, statistics, confidence=confidence)
            for target in targets or []
        ]
    if json:
        print_json({"thresholds": [threshold.to_dict() for threshold in found]})
    elif len(found) == 1:
        _show(found[0], summary)
    else:
        _show_several(found)


def _show(found: Threshold, summary: TraceSummary) -> None:
    effect = found.effect
    shortest, longest = effect.by_length[0], effect.by_length[-1]
    accepted = effect.accepted.share
    notes = [
        f"accepted: {accepted.value:.2%} of the sequences, s.e. {accepted.error:.2%}, "
        f"{effect.kept_token_share.value:.2%} of the tokens; {shortest.share.value:.1%} of the "
        f"shortest, {longest.share.value:.1%} of the longest",
    ]
    if effect.surrogate is not None and effect.unmasked_surrogate is not None:
        notes.append(
            f"surrogate: {number(effect.surrogate.value)}, s.e. {number(effect.surrogate.error)}; "
            f"of all {number(effect.unmasked_surrogate.value)}"
        )
    if found.for_reward is not None:
        at, low, high = found.for_reward
        notes.append(
            f"at the estimated variance of this reward (plug-in): {number(at)}, "
            f"{found.confidence:.0%} interval {number(low)} to {number(high)}"
        )
    if effect.guarantee is not None:
        notes.append(guarantee_note(effect.guarantee, summary))
    print_table(
        f"{found.statistic} <= {number(found.value)}" + _interval(found),
        LENGTH_COLUMNS,
        length_rows(effect.by_length),
        notes,
    )


def _interval(found: Threshold) -> str:
    if found.target_acceptance is None:
        return f" keeps the bound within {number(found.budget)}"
    return (
        f" accepts {found.target_acceptance:.1%} "
        f"({found.confidence:.0%} interval {number(found.lower)} to {number(found.upper)})"
    )


def _show_several(found: list[Threshold]) -> None:
    rows = []
    for threshold in found:
        effect = threshold.effect
        surrogate, guarantee = effect.surrogate, effect.guarantee
        rows.append(
            [
                f"{threshold.target_acceptance:.1%}",
                number(threshold.value),
                number(threshold.lower),
                number(threshold.upper),
                f"{effect.by_length[0].share.value:.1%}",
                f"{effect.by_length[-1].share.value:.1%}",
                number(None if surrogate is None else surrogate.value),
                "-" if guarantee is None else number(guarantee.value) + " *" * guarantee.plug_in,
            ]
        )
    bins = found[0].effect.by_length
    columns = ["accepted>", "threshold>", "from>", "to>", "shortest>", "longest>", "surrogate>"]
    print_table(
        f"Thresholds of {found[0].statistic}, {found[0].confidence:.0%} intervals",
        [*columns, "bound>"],
        rows,
        [
            f"shortest: {bins[0].lowest:.0f} to {bins[0].highest:.0f} tokens; longest: "
            f"{bins[-1].lowest:.0f} to {bins[-1].highest:.0f}; surrogate divided by the batch size",
            "bound: on |Error| for any reward, of the policy stopped at the cap (*: plug-in)",
        ],
    )
