"""Check traces: divergences, ratios, bounds, the estimated error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    Example,
    OnError,
    RewardRange,
    TraceFormat,
    Traces,
)
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.verify import Report, Verdict

_COLLAPSED = {
    "orderings": "proved order of bounds",
    "error": "|Error| <= every bound",
    "sup": "largest |Error| <= every bound",
}


def command(
    traces: Traces = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    conversion: ConversionOption = "pinsker",
    everything: Annotated[
        bool, typer.Option("--all", help="Show every check instead of the tightest of each kind.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check that a logged trace obeys what theory says of it.

    Divergences of every token against each other, sampled ratios against exact divergences, the
    order of the bounds, and the estimated error below every bound; and whether the trace was logged
    rightly. Exit code 1 if a check is violated or the log is at fault.

    Example: `trbounds verify --example`

    Example: `trbounds verify runs/step_*.parquet --reward-range -1 1`
    """
    from trbounds.verify import verify
    from trbounds_cli.tracing import pooling_note, read_summary

    summary = read_summary(
        traces,
        example=example,
        form=form,
        reward_range=reward_range,
        on_error=on_error,
        faults=False,
    )
    report = verify(summary, conversion=conversion)
    if json:
        print_json(report.to_dict())
    else:
        _show(report, pooling_note(summary), everything=everything)
    if not report.holds:
        raise typer.Exit(1)


def _show(report: Report, pooled: list[str], *, everything: bool) -> None:
    shown = list(report.verdicts) if everything else _tightest(report.verdicts)
    one_file = len(report.files) == 1
    e = report.estimates
    checks: dict[str, list[str]] = {}
    for verdict in shown:
        if verdict.note:
            checks.setdefault(verdict.note, []).append(verdict.check)
    notes = [f"{', '.join(names)}: {note}" for note, names in checks.items()]
    notes += [f"{v.check}: worst at {v.place}" for v in report.violations if v.place]
    if e.error is not None and e.surrogate is not None:
        notes.append(
            f"Error = {number(e.error.value)} +- {number(e.error.error)}, "
            f"L' = {number(e.surrogate.value)} +- {number(e.surrogate.error)}, "
            f"sup over rewards = {number(e.sup_error.value)} +- {number(e.sup_error.error)}; "
            f"effective sample {e.weights.effective_share:.1%}"
        )
    notes += pooled
    notes += [f"warning: {warning}" for warning in report.warnings]
    notes += [f"{item.severity}: {item.name}: {item}" for item in report.findings]
    print_table(
        f"{report.n_sequences} sequences, {report.n_tokens} tokens, "
        f"{report.n_prompts} prompts, longest {report.T}",
        [
            "check",
            "verdict",
            "left>",
            "right>",
            "z>",
            "slack>",
            "status",
            "worst record:position" if one_file else "worst file:record:position",
        ],
        [
            [
                verdict.statement,
                _word(verdict),
                number(verdict.left),
                number(verdict.right),
                "-" if verdict.z is None else f"{verdict.z:.2f}",
                number(verdict.slack),
                verdict.status,
                _place(verdict, one_file=one_file),
            ]
            for verdict in shown
        ],
        [*notes, _conclusion(report)],
    )


def _tightest(verdicts: tuple[Verdict, ...]) -> list[Verdict]:
    """Replace each large family that holds by its tightest member, and name the family."""
    from dataclasses import replace

    shown: list[Verdict] = []
    for verdict in verdicts:
        title = _COLLAPSED.get(verdict.family)
        if title is None or verdict.holds is False:
            shown.append(verdict)
            continue
        family = [v for v in verdicts if v.family == verdict.family and v.holds is not False]
        if verdict is min(family, key=_room):
            shown.append(
                replace(verdict, statement=f"{title} ({len(family)}), tightest {verdict.check}")
            )
    return shown


def _room(verdict: Verdict) -> float:
    """How far a verdict is from being violated: in standard errors, or relative to its size."""
    if verdict.z is not None:
        return -verdict.z
    return (verdict.slack or 0.0) / abs(verdict.right or 1.0)


def _place(verdict: Verdict, *, one_file: bool) -> str:
    place = verdict.place
    if place is None:
        return "-"
    if place.file is None:
        return f"position {place.position}"
    where = f"{place.record}:{place.position}"
    return where if one_file else f"{os.path.basename(place.file)}:{where}"


def _word(verdict: Verdict) -> str:
    return {True: "holds", False: "VIOLATED", None: "-"}[verdict.holds]


def _conclusion(report: Report) -> str:
    decided = sum(verdict.holds is not None for verdict in report.verdicts)
    if report.holds:
        return f"All {decided} checks hold."
    faults = ", ".join(item.name for item in report.findings if item.severity == "error")
    logged = f"the trace was logged WRONGLY: {faults}" if faults else ""
    if not report.violations:
        return f"All {decided} checks hold, but {logged}"
    names = ", ".join(verdict.check for verdict in report.violations)
    violated = f"{len(report.violations)} of {decided} checks VIOLATED: {names}"
    return f"{violated}; {logged}" if faults else violated
