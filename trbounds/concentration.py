"""Upper and lower limits on the mean of a bounded quantity, from a sample alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trbounds.arrays import to_numpy
from trbounds.checks import as_number_arrays
from trbounds.errors import InputError

__all__ = ["BoundedMean", "empirical_bernstein"]


@dataclass(frozen=True)
class BoundedMean:
    """A mean of a bounded quantity, with limits that hold at any sample size.

    Parameters
    ----------
    value : float
        Sample mean.
    lower, upper : float
        One-sided limits, each with the given confidence; the range itself with one group.
    confidence : float
        Of each limit.
    n_groups : int
        Independent groups they rest on.
    """

    value: float
    lower: float
    upper: float
    confidence: float
    n_groups: int

    def to_dict(self) -> dict[str, float | int]:
        """Return plain values."""
        return dict(vars(self))


def empirical_bernstein(
    values: ArrayLike,
    *,
    low: float = 0.0,
    high: float = 1.0,
    confidence: float = 0.95,
    groups: NDArray[np.int64] | None = None,
) -> BoundedMean:
    """Limit the expected mean of values in a known range (Maurer and Pontil).

    With G independent ``z_g`` in [0, b], mean m and unbiased variance V, the expectation of m is at
    most ``m + sqrt(2 V log(2/a) / G) + 7 b log(2/a) / (3 (G - 1))`` with probability 1 - a. No
    normality and no large sample is assumed.

    Parameters
    ----------
    values : array_like, shape (n,)
        Within [low, high].
    low, high : float
        The range: every possible value lies in it, observed or not.
    confidence : float
        1 - a, of the upper and of the lower limit each.
    groups : ndarray of int64, shape (n,), optional
        Group (prompt) of each value: groups are independent, values of one need not be. By
        default each value is its own.

    Returns
    -------
    BoundedMean

    Raises
    ------
    InputError
        For no value, one that is no real number, not finite or outside the range, or a bad
        confidence.

    Notes
    -----
    Groups of unequal size n_g enter as ``z_g = (G/n) sum of the group``, between 0 and
    ``G max n_g / n``, whose mean is the mean of all values: the sizes are taken as given, and the
    z_g need not have one distribution. Source: Maurer and Pontil, "Empirical Bernstein bounds and
    sample variance penalization", COLT 2009, theorems 4 and 11.

    Examples
    --------
    >>> from trbounds.concentration import empirical_bernstein
    >>> round(empirical_bernstein([0.0] * 1000).upper, 5)
    0.00862
    """
    sample = to_numpy(as_number_arrays({"values": values})["values"]).ravel()
    if not high > low:
        raise InputError(f"found [{low:g}, {high:g}], expected low < high", field="range")
    if not 0 < confidence < 1:
        raise InputError(f"found {confidence:g}, expected between 0 and 1", field="confidence")
    if not sample.size:
        raise InputError("found none, expected at least one", field="values")
    outside = ~((sample >= low) & (sample <= high))
    if outside.any():
        found = sample[outside][0]
        raise InputError(f"found {found:g}, expected within [{low:g}, {high:g}]", field="values")
    unit = (sample - low) / (high - low)
    means, largest = _group_means(unit, groups)
    count = means.size
    mean = math.fsum(means) / count
    if count == 1:
        return BoundedMean(low + mean * (high - low), low, high, confidence, 1)
    slack = math.log(2 / (1 - confidence))
    variance = float(np.var(means, ddof=1))
    radius = math.sqrt(2 * variance * slack / count) + 7 * largest * slack / (3 * (count - 1))
    below, above = max(mean - radius, 0.0), min(mean + radius, 1.0)
    width = high - low
    return BoundedMean(
        low + mean * width, low + below * width, low + above * width, confidence, count
    )


def _group_means(
    unit: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], float]:
    """Return one number per group with the mean of all, and the largest it could be."""
    if groups is None:
        return unit, 1.0
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if which.size != unit.size:
        raise InputError(f"found {which.size}, expected {unit.size}", field="groups")
    scale = sizes.size / unit.size
    sums = np.bincount(which, weights=unit)
    return np.asarray(scale * sums, dtype=np.float64), scale * float(sizes.max())
