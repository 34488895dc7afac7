"""Exact truth against certified values: no rounding on either side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb

from trbounds.bound import Bound
from trbounds.certified.derived import derivable
from trbounds.certified.enclosure import Enclosure, enclose_values
from trbounds.errors import InputError
from trbounds.oracle import ExactTruth, TabularPair, exact, stopped_path_fields
from trbounds.profile import FIELDS, Conversion

# Logarithms of the exact oracle hold 50 digits.
_LOGARITHM_ERROR = Fraction(1, 10**50)
# Bits of a first enclosure, and of the one that decides where the error comes within a tenth.
_COARSE, _FINE = 8, 60


@dataclass(frozen=True)
class Comparison:
    """Exact |Error| beside the certified value of one bound.

    Parameters
    ----------
    key : str
        The bound.
    error : Fraction
        Exact |Error|.
    enclosure : Enclosure
        Of the bound's value.
    """

    key: str
    error: Fraction
    enclosure: Enclosure

    @property
    def holds(self) -> bool:
        """Whether the error is at most the upper end, compared exactly."""
        upper = self.enclosure.upper
        return upper == float("inf") or self.error <= Fraction(upper)

    @property
    def ratio(self) -> float:
        """Error over the upper end; 0 where both are 0."""
        return float(self.error) / self.enclosure.upper if self.error else 0.0


def exact_values(truth: ExactTruth, *, any_reward: bool = False) -> dict[str, Any]:
    """Return the finite profile fields of an exact pair as fractions and balls.

    Parameters
    ----------
    truth : ExactTruth
        From a pair of fractions.
    any_reward : bool
        Leave the reward's variance out.

    Returns
    -------
    dict
        For :func:`~trbounds.certified.enclose_values`: fractions exactly, quantities with
        logarithms as balls of 50 digits.
    """
    values: dict[str, Any] = {}
    for name, value in truth.profile_fields().items():
        if name not in FIELDS or (any_reward and name == "reward_var"):
            continue
        entries = [_exact(v) for v in np.ravel(np.asarray(value, dtype=object))]
        if None not in entries:
            values[name] = entries if np.ndim(value) else entries[0]
    return values


def _exact(value: Any) -> Any:
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    if not abs(value) < float("inf"):
        return None
    ball = arb(value)
    return arb(ball, abs(ball) * arb(_LOGARITHM_ERROR.numerator) / _LOGARITHM_ERROR.denominator)


def certify_pair(
    pair: TabularPair,
    bounds: Iterable[Bound],
    *,
    any_reward: bool = False,
    conversion: Conversion = "pinsker",
    budget: Fraction | None = None,
) -> list[Comparison]:
    """Compare the exact error of a pair with the certified value of bounds.

    Parameters
    ----------
    pair : TabularPair
        Of fractions, absolutely continuous.
    bounds : iterable of Bound
        Those that lack a field, because a divergence is infinite, are left out.
    any_reward : bool
        Compare the largest error over all rewards with bounds that know no variance.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    budget : Fraction, optional
        Stop the path sum of chi2 there.

    Returns
    -------
    list of Comparison
        One per bound.

    Raises
    ------
    InputError
        If the pair is not of fractions or not absolutely continuous.
    """
    if not pair.rational:
        raise InputError("expected a pair of fractions")
    truth = exact(pair)
    if not truth.absolutely_continuous:
        raise InputError("expected an absolutely continuous pair")
    values = exact_values(truth, any_reward=any_reward)
    if budget is not None and "chi2_path_max" in values:
        values |= stopped_path_fields(pair, budget)
    error = Fraction(truth.sup_error if any_reward else abs(truth.error))
    low, high = truth.reward_range
    width = Fraction(high - low)

    def compare(bound: Bound, precision: int) -> Comparison:
        enclosure = enclose_values(
            bound,
            truth.T,
            values,
            reward_width=width,
            conversion=conversion,
            precision=precision,
        )
        return Comparison(bound.key, error, enclosure)

    known = derivable(values)
    found = []
    for bound in bounds:
        if not set(bound.requires) <= known:
            continue
        comparison = compare(bound, _COARSE)
        found.append(comparison if comparison.ratio < 0.9 else compare(bound, _FINE))
    return found
