"""Bounds inverted: how much divergence a budget allows, and up to where a bound can certify."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from scipy.optimize import brentq

from trbounds.bound import Bound, largest_surrogate_gain
from trbounds.checks import as_number, as_number_arrays
from trbounds.errors import InputError
from trbounds.profile import Conversion, DivergenceProfile

__all__ = [
    "LONGEST_SPREAD",
    "SOLVABLE",
    "certifiable_radius",
    "largest_divergence",
    "solvable_profile",
    "uniform_profile",
]

#: Fields a bound can be solved for.
SOLVABLE = ("kl_max", "kl_seq", "chi2_max", "tv_max", "tv_seq", "chi2_path_max", "kl_path_max")

#: Horizons beyond this are not spread out over positions.
LONGEST_SPREAD = 1_000_000

_SMALLEST, _LARGEST = 1e-280, 1e3
_TOLERANCE = 1e-12
_NOTHING: Mapping[str, float] = MappingProxyType({})


def uniform_profile(
    T: int,
    kl_max: float,
    *,
    chi2_per_kl: float | None = None,
    conversion: Conversion = "pinsker",
    **known: Any,
) -> DivergenceProfile:
    """Profile in which every position has the largest divergence.

    Parameters
    ----------
    T : int
        Horizon.
    kl_max : float
        Token KL, in nats, at every position; hence ``kl_seq = T kl_max``.
    chi2_per_kl : float, optional
        Assume ``chi2_max = chi2_per_kl * kl_max``, unless it is known; 2 is the limit of small
        divergences. Without it nothing is assumed of chi2.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    **known : float
        Further fields.

    Returns
    -------
    DivergenceProfile
        With its position fields filled in up to a horizon of a million.

    Raises
    ------
    InputError
        If a value is out of range, or the horizon is not one whole number.
    """
    fields = {"kl_max": kl_max, "conversion": conversion, **known}
    if chi2_per_kl is not None:
        kl = as_number_arrays({"kl_max": kl_max})["kl_max"]
        fields.setdefault("chi2_max", as_number("chi2_per_kl", chi2_per_kl) * kl)
    return _spread(T, fields)


def largest_divergence(
    bound: Bound,
    make_profile: Callable[[float], DivergenceProfile],
    budget: float,
    *,
    smallest: float = _SMALLEST,
    largest: float = _LARGEST,
) -> float:
    """Largest value of one divergence that keeps a bound within a budget.

    Parameters
    ----------
    bound : Bound
        The bound; it does not decrease in any divergence.
    make_profile : callable
        The profile as a function of the divergence, such as :func:`solvable_profile` makes.
    budget : float
        Largest tolerated |Error|, in reward units, above 0.
    smallest : float
        Where to start.
    largest : float
        Where to stop, 1 for a TV: a bound still within the budget there gives infinity.

    Returns
    -------
    float
        The divergence to 1e-10 relative; infinity if the bound never leaves the budget, and 0 if
        not even the smallest value keeps it.

    Raises
    ------
    InputError
        If the budget is not positive, or the profile lacks what the bound needs.

    Examples
    --------
    >>> from trbounds import get_bound
    >>> from trbounds.solve import largest_divergence, solvable_profile
    >>> largest_divergence(
    ...     get_bound("sequence_kl"), lambda kl: solvable_profile(4096, "kl_max", kl), 0.1
    ... )
    2.44...e-05
    """
    budget = as_number("budget", budget)
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"found {budget}, expected a positive number", field="budget")

    def excess(log_value: float) -> float:
        value = float(bound.evaluate(make_profile(math.exp(log_value))))
        return _log(value) - math.log(budget)

    return _first_crossing(excess, smallest, largest)


def certifiable_radius(
    bound: Bound,
    T: int,
    *,
    chi2_per_kl: float | None = 2.0,
    reward_var: float | None = None,
    conversion: Conversion = "pinsker",
) -> float:
    """Largest token KL up to which a bound can certify improvement, in a uniform profile.

    Improvement is certified when the surrogate gain exceeds the bound. No gain exceeds
    ``G(D, v)`` (see the bound ``entropy_dual``), so a bound at or above it never certifies.

    Parameters
    ----------
    bound : Bound
        The bound.
    T : int
        Horizon; the sequence KL is ``T kl_max``.
    chi2_per_kl : float, optional
        Assume ``chi2_max = chi2_per_kl * kl_max``.
    reward_var : float, optional
        Within-prompt variance of a reward in [0, 1]; 1/4 by default.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.

    Returns
    -------
    float
        The radius in nats to 1e-10 relative: the bound lies below ``G(D, v)`` for every token KL
        below it. 0 if the bound can never certify.

    Raises
    ------
    InputError
        If the bound needs a quantity that a uniform profile does not give.

    Notes
    -----
    Source: trbounds.
    """
    known = {} if reward_var is None else {"reward_var": reward_var}

    def excess(log_kl: float) -> float:
        profile = uniform_profile(
            T, math.exp(log_kl), chi2_per_kl=chi2_per_kl, conversion=conversion, **known
        )
        return _log(float(bound.evaluate(profile))) - _log(float(largest_surrogate_gain(profile)))

    # Below 1e-40 nothing changes but the exponents; a bound that cannot certify there never can.
    return _first_crossing(excess, 1e-40, 1e2)


def solvable_profile(
    T: int,
    field: str,
    value: float,
    known: Mapping[str, float] = _NOTHING,
    conversion: Conversion = "pinsker",
) -> DivergenceProfile:
    """Profile with one field at a trial value, for :func:`largest_divergence`.

    Parameters
    ----------
    T : int
        Horizon.
    field : str
        One of :data:`SOLVABLE`.
    value : float
        Its value. A TV is at most 1: end the search there.
    known : mapping of str to float, optional
        Further fields.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.

    Returns
    -------
    DivergenceProfile
        With its position fields filled in up to a horizon of a million.

    Raises
    ------
    InputError
        If the field is not one of :data:`SOLVABLE`, or a value is out of range.
    """
    if field not in SOLVABLE:
        raise InputError(f"found '{field}', expected one of {', '.join(SOLVABLE)}", field="for")
    return _spread(T, {**known, field: value, "conversion": conversion})


def _spread(T: int, fields: Mapping[str, Any]) -> DivergenceProfile:
    """Fill in the positions, each at its maximum, unless they are too many."""
    make = DivergenceProfile if as_number("T", T) > LONGEST_SPREAD else DivergenceProfile.uniform
    return make(T=T, **fields)


def _first_crossing(excess: Callable[[float], float], smallest: float, largest: float) -> float:
    """Where an increasing function of a logarithm first reaches 0, scanning up by powers of e."""
    low, end = math.log(smallest), math.log(largest)
    if excess(low) >= 0:
        return 0.0
    step = 2.0
    while low < end:
        high = min(low + step, end)
        if excess(high) >= 0:
            return math.exp(brentq(excess, low, high, xtol=_TOLERANCE, rtol=_TOLERANCE))
        low = high
    return math.inf


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
