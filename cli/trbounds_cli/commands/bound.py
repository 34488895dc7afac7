"""Evaluate every bound that a set of divergences, or a logged trace, allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.bound import Assessment
from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    OnError,
    RewardRange,
    TraceFormat,
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
    trace: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Take everything from logged traces instead."),
    ] = None,
    form: TraceFormat = None,
    on_error: OnError = "fail",
    reward_range: RewardRange = (0.0, 1.0),
    conversion: ConversionOption = "pinsker",
    json: AsJson = False,
) -> None:
    """Evaluate every bound on |Error| that what is known allows, smallest first.

    A bound is *informative* below the width of the reward range, and *can certify* improvement
    only below the largest surrogate gain that the sequence KL allows.

    With `--trace`, divergences are estimated from logged sequences: values are plug-in, with
    standard errors, beside the estimated error itself.

    Example: `trbounds bound --T 4096 --kl-max 1e-4 --kl-seq 0.01`

    Example: `trbounds bound --trace run.parquet`
    """
    if trace:
        if known or T is not None:
            raise InputError("give either --trace, or --T with divergences")
        _show_trace(trace, form, on_error, reward_range, conversion, as_json=json)
        return
    if T is None:
        raise InputError("give --T with divergences, or --trace")
    if not known:
        raise InputError("no divergence given: give at least one, such as --kl-max 1e-4")
    show(make_profile(T, known, reward_range, conversion), as_json=json)


def show(profile: DivergenceProfile, *, as_json: bool) -> None:
    """Evaluate and print every bound that a profile allows."""
    completed = profile.complete()
    found = [b.assess(completed) for b in all_bounds().values() if not b.missing(completed)]
    if not found:
        raise InputError(f"no bound can be evaluated from {', '.join(profile.known)} alone")
    best = min(found, key=lambda a: a.value)
    if as_json:
        print_json(
            {
                "profile": completed.to_dict(),
                "bounds": [as_document(a) for a in found],
                "best": {"key": best.bound.key, "value": best.value},
            }
        )
        return
    print_table(
        f"Bounds on |Error|, T = {int(completed.T)}, smallest first",
        ["bound", "value>", "centred>", "informative", "can certify", "status", "source"],
        [
            [
                a.bound.key,
                number(a.value),
                number(a.centred_value),
                yes_no(a.informative),
                yes_no(a.can_certify),
                "plug-in" if a.plug_in else "exact input",
                str(a.bound.source),
            ]
            for a in sorted(found, key=lambda a: (math.isinf(a.value), a.value))
        ],
        [
            f"best: {best.bound.key} = {number(best.value)}",
            "derived: "
            + "; ".join(m.by for m in completed.provenance.values() if m.kind == "derived"),
        ],
    )


def as_document(a: Assessment) -> dict[str, Any]:
    """Return an assessment as the JSON that ``trbounds bound --json`` prints."""
    relaxed = a.bound.relaxed
    return {
        "key": a.bound.key,
        "value": a.value,
        "source": str(a.bound.source),
        "kind": a.bound.kind.value,
        "informative": bool(a.informative),
        "can_certify": None if a.can_certify is None else bool(a.can_certify),
        "centred_value": a.centred_value,
        "status": "plug-in" if a.plug_in else "exact input",
        **(
            {}
            if relaxed is None
            else {"relaxed_value": a.relaxed_value, "relaxed_form": relaxed.text}
        ),
    }


def _show_trace(
    paths: list[str],
    form: str | None,
    on_error: str,
    reward_range: tuple[float, float],
    conversion: Any,
    *,
    as_json: bool,
) -> None:
    from trbounds.trace_bounds import bounds_on_trace
    from trbounds.traces.error_estimates import estimate_error
    from trbounds_cli.tracing import read_summary

    summary = read_summary(paths, form=form, reward_range=reward_range, on_error=on_error)
    found = bounds_on_trace(summary, conversion=conversion)
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
                "bounds": [_trace_document(b, estimates) for b in found.bounds],
                "best": {"key": found.best.bound.key, "value": found.best.value},
                "estimates": estimates.to_dict(),
                "warnings": [warning] if warning else [],
            }
        )
        return
    print_table(
        f"Bounds on |Error|, plug-in from {summary.n_sequences} sequences, "
        f"T = {summary.T}, smallest first",
        ["bound", "value>", "s.e.>", "informative", "can certify", "(L' - B)/s.e.>", "source"],
        [
            [
                b.bound.key,
                number(b.value),
                ("<= " if b.method.startswith("at most") else "") + number(b.standard_error),
                yes_no(b.assessment.informative),
                yes_no(b.assessment.can_certify),
                number(_surrogate_margin(b, estimates)),
                str(b.bound.source),
            ]
            for b in sorted(found.bounds, key=lambda b: (math.isinf(b.value), b.value))
        ],
        _trace_notes(found, estimates),
    )


def _surrogate_margin(bound: TraceBound, estimates: ErrorEstimates) -> float | None:
    """By how many standard errors the measured surrogate L' exceeds the bound."""
    if estimates.surrogate is None:
        return None
    own = bound.standard_error if math.isfinite(bound.standard_error) else 0.0
    error = math.hypot(estimates.surrogate.error, own)
    return (estimates.surrogate.value - bound.value) / error if error > 0 else math.nan


def _trace_document(bound: TraceBound, estimates: ErrorEstimates) -> dict[str, Any]:
    return {
        **as_document(bound.assessment),
        "standard_error": bound.standard_error,
        "standard_error_by": bound.method,
        "surrogate_margin": _surrogate_margin(bound, estimates),
    }


def _trace_notes(found: TraceBounds, estimates: ErrorEstimates) -> list[str]:
    notes = []
    for title, estimate in (
        ("Error", estimates.error),
        ("largest |Error| over all rewards", estimates.sup_error),
        ("surrogate L'", estimates.surrogate),
        ("J(pi) - J(mu)", estimates.gain),
        ("J(mu)", estimates.J_mu),
    ):
        if estimate is not None:
            notes.append(
                f"{title} = {number(estimate.value)}, s.e. {number(estimate.standard_error)} by "
                f"sequence, {number(estimate.jackknife_error)} by prompt (jackknife)"
            )
    notes.append("(L' - B)/s.e.: how far the surrogate is above the bound; above 0 is improvement")
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
