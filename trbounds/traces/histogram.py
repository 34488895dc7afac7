"""Histograms over many orders of magnitude, with exact counts that merge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.token_terms import TokenTerms

_LOWEST = -60
_HIGHEST = 16
_BITS = 4
_PER_OCTAVE = 1 << _BITS
_SIZE = (_HIGHEST - _LOWEST) * _PER_OCTAVE
BIN_OFFSET = (1023 + _LOWEST) << _BITS
BIN_SHIFT = 52 - _BITS
"""The bin of a float64 is its bits shifted by ``BIN_SHIFT``, less ``BIN_OFFSET``."""
_SIGN = 1 << (63 - BIN_SHIFT)


class Histogram:
    """Counts of non-negative values in log-linear bins: 16 equal bins in every octave.

    The bins are the leading bits of the float64, so that no rounding decides about an edge. A
    bin's width is at most 1/16 of its lower edge. Values below 2^-60 (zeros too) fall into the
    first bin, values from 2^16 on into the last.

    Parameters
    ----------
    counts : ndarray of int64, optional
        Counts of :attr:`edges`; zeros by default.
    """

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros(_SIZE, dtype=np.int64) if counts is None else counts

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Histogram:
        """Count the values of an array."""
        bins = values.view(np.uint64) >> np.uint64(BIN_SHIFT)
        every = np.bincount(bins.view(np.int64), minlength=BIN_OFFSET + _SIZE)
        counts = every[BIN_OFFSET : BIN_OFFSET + _SIZE].copy()
        counts[0] += every[:BIN_OFFSET].sum() + every[_SIGN:].sum()  # -0.0 has a sign
        counts[-1] += every[BIN_OFFSET + _SIZE : _SIGN].sum()
        return cls(counts)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges: ``counts[i]`` counts values in ``[edges[i], edges[i + 1])``."""
        octaves = np.ldexp(1.0, np.arange(_LOWEST, _HIGHEST))
        inner = octaves[:, None] * (1.0 + np.arange(_PER_OCTAVE) / _PER_OCTAVE)
        edges = np.append(inner.ravel(), np.ldexp(1.0, _HIGHEST))
        edges[0] = 0.0
        return edges

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """Quantile, to within 1/16 relative (linear within a bin).

        Parameters
        ----------
        q : float
            In [0, 1].

        Raises
        ------
        InputError
            If ``q`` is outside [0, 1] or there is no value.
        """
        if not 0.0 <= q <= 1.0:
            raise InputError(f"found {q!r}, expected a number in [0, 1]", field="q")
        if self.total == 0:
            raise InputError("the histogram holds no value")
        below = np.append(0, np.cumsum(self.counts))
        target = q * self.total
        index = min(int(np.searchsorted(below, target, side="right")) - 1, _SIZE - 1)
        while self.counts[index] == 0:
            index -= 1
        inside = (target - below[index]) / self.counts[index]
        low, high = self.edges[index : index + 2]
        return float(low + min(inside, 1.0) * (high - low))

    def absorb(self, other: Histogram) -> None:
        """Add the counts of another in place."""
        self.counts = self.counts + other.counts


def token_histograms(terms: TokenTerms) -> dict[str, Histogram]:
    """Histograms of ``abs_log_ratio``, ``k3`` and of ``kl, tv, chi2, entropy`` where logged.

    ``k2 = (log rho)^2 / 2`` grows with ``|log rho|``: its quantiles follow from the first.
    """
    batch = terms.batch
    values = {"abs_log_ratio": terms.abs_log_ratio, "k3": terms.k3}
    for name in ("kl", "tv", "chi2", "entropy"):
        column = getattr(batch, name)
        if column is not None:
            values[name] = column
    return {name: Histogram.of(column) for name, column in values.items()}
