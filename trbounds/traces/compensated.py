"""Sums that do not depend on the order in which they are taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def grow(values: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """Pad an array with zeros to ``size`` entries; returns it unchanged if it has them."""
    if values.size >= size:
        return values
    out = np.zeros(size, dtype=values.dtype)
    out[: values.size] = values
    return out


class CompensatedSum:
    """An array of sums, each kept as an unevaluated pair of float64.

    The error of every addition is found exactly (two-sum, Knuth) and kept in the second part, so
    that the order of additions changes the result by about 1e-32 of the sum of absolute values.

    Parameters
    ----------
    high, low : ndarray of float64
        The rounded sums, and what rounding took away.

    References
    ----------
    .. [1] T. Ogita, S. M. Rump and S. Oishi, "Accurate sum and dot product", SIAM J. Sci.
       Comput. 26 (2005).
    """

    def __init__(self, high: Floats, low: Floats | None = None) -> None:
        self.high = high
        self.low = np.zeros(high.shape) if low is None else low

    @classmethod
    def zeros(cls, size: int = 0) -> CompensatedSum:
        """Return ``size`` empty sums."""
        return cls(np.zeros(size))

    @property
    def value(self) -> Floats:
        """The sums, rounded once."""
        return self.high + self.low

    def add(self, values: Floats) -> None:
        """Add to the first ``values.size`` sums in place, growing if there are fewer."""
        size = values.size
        self.grow(size)
        high = self.high[:size]
        total = high + values
        rounded = total - high
        self.low[:size] += (high - (total - rounded)) + (values - rounded)
        self.high[:size] = total

    def pair(self, size: int = 0) -> tuple[Floats, Floats]:
        """Return both parts, of ``size`` sums at least, to add to in place."""
        self.grow(size)
        return self.high, self.low

    def grow(self, size: int) -> None:
        """Append empty sums until there are ``size``."""
        self.high = np.asarray(grow(self.high, size), dtype=np.float64)
        self.low = np.asarray(grow(self.low, size), dtype=np.float64)

    def absorb(self, other: CompensatedSum) -> None:
        """Add the sums of another in place."""
        self.add(other.high)
        self.low[: other.low.size] += other.low
