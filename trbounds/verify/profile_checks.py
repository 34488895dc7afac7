"""Inequalities between the values of a trace's profile, the bounds on it and the error."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from trbounds.bound import largest_surrogate_gain
from trbounds.divergences import expm1_minus
from trbounds.profile import DivergenceProfile
from trbounds.trace_bounds import TraceBound, TraceBounds
from trbounds.traces.error_estimates import ErrorEstimates
from trbounds.verify.orderings import ORDERINGS
from trbounds.verify.tokens import STORED
from trbounds.verify.verdict import Place, Verdict, at_most, within_errors

__all__ = [
    "error_verdicts",
    "gain_verdicts",
    "ordering_verdicts",
    "profile_verdicts",
    "sup_verdicts",
]


def profile_verdicts(profile: DivergenceProfile) -> Iterator[Verdict]:
    """Yield the verdicts on means against maxima, position by position."""
    for name, symbol in (("tv", "Dbar_t <= eps"), ("kl", "k_t <= delta"), ("chi2", "x_t <= kappa")):
        mean, largest = getattr(profile, f"{name}_mean"), getattr(profile, f"{name}_max")
        if profile.provenance.get(f"{name}_max") is None or largest is None:
            continue
        if profile.provenance[f"{name}_max"].kind != "observed":
            continue
        worst = int(np.argmax(mean))
        yield at_most(
            f"{name}_mean_max",
            f"{symbol}: mean at a position, maximum",
            float(mean[worst]),
            float(largest),
            status="exact",
            tolerance=1e-12 * float(largest),
            place=Place(None, None, worst),
        )
    if profile.kl_max is not None and profile.provenance["kl_max"].kind == "observed":
        allowed = np.sqrt(profile.kl_mean / 2)
        excess = profile.tv_mean - allowed
        worst = int(np.argmax(excess))
        yield at_most(
            "tv_mean_pinsker",
            "Dbar_t <= sqrt(k_t/2) at every position",
            float(profile.tv_mean[worst]),
            float(allowed[worst]),
            status="exact",
            tolerance=STORED * float(allowed[worst]),
            place=Place(None, None, worst),
        )


def ordering_verdicts(found: TraceBounds) -> Iterator[Verdict]:
    """Yield the verdict on each proved order between two bounds."""
    by_key = {bound.bound.key: bound for bound in found.bounds}
    for order in ORDERINGS:
        if order.smaller not in by_key or order.larger not in by_key:
            continue
        left, right = order.factor * by_key[order.smaller].value, by_key[order.larger].value
        factor = "" if order.factor == 1 else f"{order.factor:g} "
        yield at_most(
            f"{order.smaller}<={order.larger}",
            f"{factor}{order.smaller} <= {order.larger}: {order.reason}",
            left,
            right,
            status="plug-in",
            tolerance=STORED * right,
        )


def error_verdicts(
    found: TraceBounds, estimates: ErrorEstimates, *, limit: float
) -> Iterator[Verdict]:
    """Yield the verdict on the estimated error below every bound.

    Parameters
    ----------
    found : TraceBounds
        The bounds on the trace.
    estimates : ErrorEstimates
        Of the same trace.
    limit : float
        Largest admissible excess in standard errors, those of bound and estimate combined.
    """
    for bound in found.bounds:
        check, statement = f"error<={bound.bound.key}", f"|Error| <= {bound.bound.key}"
        if estimates.error is None:
            yield Verdict(
                check=check, statement=statement, status="estimated", note="no reward is logged"
            )
        else:
            error = estimates.error
            yield _compare(check, statement, abs(error.value), error.error, bound, limit)


def sup_verdicts(
    found: TraceBounds, estimates: ErrorEstimates, *, limit: float
) -> Iterator[Verdict]:
    """Yield the verdict on the largest error over all rewards below every bound.

    Bounds that use the variance of the logged reward say nothing about other rewards.
    Parameters as for :func:`error_verdicts`.
    """
    sup = estimates.sup_error
    for bound in found.bounds:
        if "reward_var" not in bound.bound.requires:
            yield _compare(
                f"sup<={bound.bound.key}",
                f"largest |Error| over all rewards <= {bound.bound.key}",
                sup.value,
                sup.error,
                bound,
                limit,
            )


def _compare(
    check: str, statement: str, left: float, error: float, bound: TraceBound, limit: float
) -> Verdict:
    own = bound.standard_error if math.isfinite(bound.standard_error) else 0.0
    combined = math.hypot(error, own)
    return within_errors(check, statement, left, bound.value, error=combined, limit=limit)


def gain_verdicts(
    found: TraceBounds, estimates: ErrorEstimates, *, limit: float
) -> Iterator[Verdict]:
    """Yield the verdicts on the surrogate, the gain and the residual below what KL and chi2 allow.

    Parameters as for :func:`error_verdicts`.
    """
    profile = found.profile
    gain = float(largest_surrogate_gain(profile))
    for name, symbol, estimate in (
        ("surrogate_gain", "|L'|", estimates.surrogate),
        ("objective_gain", "|J(pi) - J(mu)|", estimates.gain),
    ):
        if estimate is not None:
            yield within_errors(
                name,
                f"{symbol} <= G(D, v), what the KL allows",
                abs(estimate.value),
                gain,
                error=estimate.error,
                limit=limit,
            )
    if profile.chi2_path_max is None or profile.provenance["chi2_path_max"].kind != "observed":
        return
    square = estimates.residual_square_path or estimates.residual_square
    yield within_errors(
        "residual_path_sum",
        "Q = E(W - 1 - M)^2 <= e^X - 1 - X",
        square.value,
        float(expm1_minus(profile.chi2_path_max)),
        error=square.error,
        limit=limit,
    )
