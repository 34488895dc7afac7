"""Evaluate every bound that divergences, or a logged trace, allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_cli.assessments import (
    CERTIFIED_NOTE,
    Enclosures,
    assessment_document,
    certify_all,
    enclosure_text,
    print_assessments,
    profile_document,
)
from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    OnError,
    RewardRange,
    TraceFormat,
    Traces,
    make_profile,
    profile_options,
)
from trbounds_cli.output import number, print_json, print_table, yes_no

if TYPE_CHECKING:
    from trbounds.trace_bounds import TraceBound, TraceBounds
    from trbounds.traces.error_estimates import ErrorEstimates


@profile_options
def command(
    T: Annotated[
        int | None, typer.Option("--T", metavar="N", help="Horizon: the longest response.")
    ] = None,
    known: dict[str, float] | None = None,
    traces: Traces = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACE",
            help="The same as the argument (repeatable).",
        ),
    ] = None,
    form: TraceFormat = None,
    on_error: OnError = "fail",
    reward_range: RewardRange = (0.0, 1.0),
    conversion: ConversionOption = "pinsker",
    certified: Annotated[
        bool,
        typer.Option(
            "--certified", help="Enclose every value rigorously (needs trbounds[certified])."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Evaluate every bound on |Error| that what is known allows, smallest first.

    A bound is *informative* below the width of the reward range, and *can certify* improvement
    only below the largest surrogate gain that the sequence KL allows.

    With traces, divergences are estimated from logged sequences: values are plug-in, with
    standard errors, beside the estimated error itself.

    With `--certified`, each value comes with two ends between which the bound's exact value lies,
    whatever rounding did to the value.

    Example: `trbounds bound --T 4096 --kl-max 1e-4 --kl-seq 0.01`

    Example: `trbounds bound run.parquet`
    """
    paths = [*(traces or ()), *(trace or ())]
    if paths:
        if known or T is not None:
            raise InputError("give either traces, or --T with divergences")
        reading = {"form": form, "on_error": on_error, "reward_range": reward_range}
        _show_trace(paths, reading, conversion, certified=certified, as_json=json)
        return
    if T is None:
        raise InputError("give --T with divergences, or traces")
    if not known:
        raise InputError("no divergence given: give at least one, such as --kl-max 1e-4")
    profile = make_profile(T, known, reward_range, conversion)
    _show(profile, certified=certified, as_json=json)


def _show(profile: DivergenceProfile, *, certified: bool, as_json: bool) -> None:
    from trbounds import assess_all

    completed = profile.complete()
    found = list(assess_all(completed).values())
    enclosures = certify_all(found, completed) if certified else None
    if as_json:
        print_json(profile_document(completed, found, enclosures))
    else:
        print_assessments(completed, found, enclosures)


def _show_trace(
    paths: list[str],
    reading: dict[str, Any],
    conversion: Any,
    *,
    certified: bool,
    as_json: bool,
) -> None:
    from trbounds.trace_bounds import bounds_on_trace
    from trbounds.traces.error_estimates import estimate_error
    from trbounds_cli.tracing import pooling_note, read_summary

    summary = read_summary(paths, **reading)
    found = bounds_on_trace(summary, conversion=conversion)
    enclosures = (
        certify_all([b.assessment for b in found.bounds], found.profile) if certified else None
    )
    estimates = estimate_error(summary)
    warning = estimates.weights.warning
    if as_json:
        print_json(
            {
                "trace": {
                    "files": summary.files,
                    "sequences": summary.n_sequences,
                    "tokens": summary.n_tokens,
                },
                "profile": found.profile.to_dict(),
                "bounds": [_trace_document(b, estimates, enclosures) for b in found.bounds],
                "best": {"key": found.best.bound.key, "value": found.best.value},
                "estimates": estimates.to_dict(),
                "warnings": [warning] if warning else [],
            }
        )
        return
    print_table(
        f"Bounds on |Error|, plug-in from {summary.n_sequences} sequences, "
        f"T = {summary.T}, smallest first",
        [
            *("bound", "value>", "s.e.>", "informative", "can certify", "(L' - B)/s.e.>"),
            "source" if enclosures is None else "certified>",
        ],
        [
            [
                b.bound.key,
                number(b.value),
                ("<= " if b.method.startswith("at most") else "") + number(b.standard_error),
                yes_no(b.assessment.informative),
                yes_no(b.assessment.can_certify),
                number(_surrogate_margin(b, estimates)),
                str(b.bound.source)
                if enclosures is None
                else enclosure_text(enclosures[b.bound.key]),
            ]
            for b in sorted(found.bounds, key=lambda b: (math.isinf(b.value), b.value))
        ],
        [
            *_trace_notes(found, estimates),
            *pooling_note(summary),
            *([CERTIFIED_NOTE] if enclosures is not None else []),
        ],
    )


def _surrogate_margin(bound: TraceBound, estimates: ErrorEstimates) -> float | None:
    """By how many standard errors the measured surrogate L' exceeds the bound."""
    if estimates.surrogate is None:
        return None
    own = bound.standard_error if math.isfinite(bound.standard_error) else 0.0
    error = math.hypot(estimates.surrogate.error, own)
    return (estimates.surrogate.value - bound.value) / error if error > 0 else math.nan


def _trace_document(
    bound: TraceBound, estimates: ErrorEstimates, enclosures: Enclosures | None
) -> dict[str, Any]:
    return {
        **assessment_document(bound.assessment, enclosures),
        "standard_error": bound.standard_error,
        "standard_error_by": bound.method,
        "surrogate_margin": _surrogate_margin(bound, estimates),
    }


def _trace_notes(found: TraceBounds, estimates: ErrorEstimates) -> list[str]:
    notes = []
    for title, estimate in (
        ("Error", estimates.error),
        ("Error is at least -E[R k3]", estimates.error_low),
        ("Error is at most E[(1 - R) k3] + mass never sampled", estimates.error_high),
        ("largest |Error| over all rewards", estimates.sup_error),
        ("surrogate L'", estimates.surrogate),
        ("J(pi) - J(mu)", estimates.gain),
        ("J(pi) - J(mu) is at least E[R log W]", estimates.gain_low),
        ("J(mu)", estimates.J_mu),
    ):
        if estimate is not None:
            notes.append(
                f"{title} = {number(estimate.value)}, s.e. {number(estimate.standard_error)} by "
                f"sequence, {number(estimate.jackknife_error)} by prompt (jackknife)"
            )
    notes.append(
        "(L' - B)/s.e.: how far the surrogate is above the bound, in standard errors; 2 or more is "
        "improvement (plug-in), between 0 and 2 may be chance"
    )
    weights = estimates.weights
    notes.append(
        f"effective sample size {weights.effective_sample_size:.0f} "
        f"({weights.effective_share:.1%} of the sequences)"
    )
    notes.append(
        f"best: {found.best.bound.key} = {number(found.best.value)}; maxima are those observed, "
        "and have no standard error"
    )
    if weights.warning:
        notes.append(f"warning: {weights.warning}")
    return notes
