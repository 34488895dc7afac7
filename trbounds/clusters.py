"""Means over tokens with standard errors that treat the sequence, or the prompt, as the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClusteredEstimate", "ClusteredRatio", "PooledRatio", "RunningMean"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClusteredEstimate:
    """A mean or ratio over tokens or sequences.

    Parameters
    ----------
    value : float
        The estimate; NaN without data.
    standard_error : float
        With clusters taken as independent, sequences unless said otherwise; NaN with fewer than
        two.
    """

    value: float
    standard_error: float

    @classmethod
    def mean(cls, values: Floats) -> ClusteredEstimate:
        """Mean of one number per sequence."""
        n = values.size
        value = math.fsum(values) / n if n else math.nan
        if n < 2 or not math.isfinite(value):
            return cls(value, math.nan)
        spread = math.fsum((values - value) ** 2)
        return cls(value, math.sqrt(spread / (n * (n - 1))))


class RunningMean:
    """Mean, standard error and largest of independent numbers that come in blocks.

    Attributes
    ----------
    n : int
        How many numbers.
    largest : float
        The largest; NaN without any.
    """

    def __init__(self) -> None:
        self.n = 0
        self.largest = math.nan
        self._mean = 0.0
        self._spread = 0.0  # sum of squared differences from the mean

    def add(self, values: Floats) -> None:
        """Add a block of numbers, finite or +inf.

        Parameters
        ----------
        values : ndarray, shape (m,)
            The numbers.
        """
        m = values.size
        if not m:
            return
        self.largest = float(np.fmax(self.largest, values.max()))
        if self.largest < math.inf:  # otherwise so is the mean, and nothing else is asked for
            mean = math.fsum(values) / m
            apart, share = mean - self._mean, m / (self.n + m)
            self._mean += apart * share
            with np.errstate(over="ignore"):  # a standard error beyond float64 is infinite
                spread = math.fsum((values - mean) ** 2)
            self._spread += spread + apart * (apart * share * self.n)
        self.n += m

    @property
    def estimate(self) -> ClusteredEstimate:
        """The mean with its standard error; inf and NaN if a number is infinite."""
        if not self.n or self.largest == math.inf:
            return ClusteredEstimate(self.largest, math.nan)
        if self.n == 1:
            return ClusteredEstimate(self._mean, math.nan)
        return ClusteredEstimate(self._mean, math.sqrt(self._spread / (self.n * (self.n - 1))))


class ClusteredRatio:
    """Ratios of two sums over tokens, one ratio per bin, with errors clustered by sequence.

    Tokens of one sequence depend on each other, so the sequence is the unit: with ``A_s`` and
    ``B_s`` the sums of sequence s, the ratio is ``r = sum A / sum B`` and its standard error
    ``sqrt(G/(G-1) sum (A_s - r B_s)^2) / sum B``, G the number of sequences with a token in the
    bin. Accumulates and merges.

    Parameters
    ----------
    n_bins : int
        Number of bins.
    """

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        self.sequences: NDArray[np.int64] = np.zeros(n_bins, dtype=np.int64)
        # Sums over sequences of A, B, A^2, A B and B^2.
        self._sums = np.zeros((5, n_bins))

    def add(
        self,
        sequence: NDArray[np.int64],
        bins: NDArray[np.int64],
        numerator: Floats,
        denominator: Floats,
    ) -> None:
        """Add the tokens of whole sequences.

        Parameters
        ----------
        sequence : ndarray of int64, shape (tokens,)
            Number of each token's sequence, from 0.
        bins : ndarray of int64, shape (tokens,)
            Bin of each token.
        numerator, denominator : ndarray, shape (tokens,)
            What is summed.
        """
        if not sequence.size:
            return
        cells, where = np.unique(sequence * self.n_bins + bins, return_inverse=True)
        a = np.bincount(where, weights=numerator, minlength=cells.size)
        b = np.bincount(where, weights=denominator, minlength=cells.size)
        bin_of = cells % self.n_bins
        self.sequences += np.bincount(bin_of, minlength=self.n_bins)
        for row, values in enumerate((a, b, a * a, a * b, b * b)):
            self._sums[row] += np.bincount(bin_of, weights=values, minlength=self.n_bins)

    def absorb(self, other: ClusteredRatio) -> None:
        """Add the sums of another in place."""
        self.sequences = self.sequences + other.sequences
        self._sums = self._sums + other._sums

    @property
    def value(self) -> Floats:
        """The ratio in each bin; NaN where there is nothing."""
        out = np.full(self.n_bins, np.nan)
        np.divide(self._sums[0], self._sums[1], out=out, where=self._sums[1] != 0.0)
        return out

    @property
    def standard_error(self) -> Floats:
        """Standard error in each bin; NaN with fewer than two sequences."""
        _, b, aa, ab, bb = self._sums
        out = np.full(self.n_bins, np.nan)
        some = (self.sequences > 1) & (b != 0.0)
        ratio, groups = self.value[some], self.sequences[some]
        spread = np.maximum(aa[some] - 2.0 * ratio * ab[some] + ratio**2 * bb[some], 0.0)
        out[some] = np.sqrt(spread * groups / (groups - 1.0)) / np.abs(b[some])
        return out


class PooledRatio:
    """The same, for clusters whose tokens come in several parts, as those of a prompt do.

    Clusters share a fixed number of pools, so that memory does not grow with them; each pool is
    then one cluster. Accumulates and merges.

    Parameters
    ----------
    n_bins : int
        Number of bins.
    """

    pools = 500
    """Most clusters that are told apart."""

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        # By pool and bin: sums of A and B, and whether there is a token.
        self._sums = np.zeros((2, self.pools, n_bins))
        self._seen = np.zeros((self.pools, n_bins), dtype=np.bool_)

    def add(
        self,
        cluster: NDArray[np.int64],
        bins: NDArray[np.int64],
        numerator: Floats,
        denominator: Floats,
    ) -> None:
        """Add tokens.

        Parameters
        ----------
        cluster : ndarray of int64, shape (tokens,)
            Number of each token's cluster, the same in every part.
        bins : ndarray of int64, shape (tokens,)
            Bin of each token.
        numerator, denominator : ndarray, shape (tokens,)
            What is summed.
        """
        cells = cluster % self.pools * self.n_bins + bins
        self._seen.reshape(-1)[cells] = True
        for sums, values in zip(self._sums, (numerator, denominator), strict=True):
            total = np.bincount(cells, weights=values, minlength=sums.size)
            sums += total.reshape(sums.shape)

    def absorb(self, other: PooledRatio) -> None:
        """Add the sums of another in place."""
        self._sums = self._sums + other._sums
        self._seen = self._seen | other._seen

    @property
    def standard_error(self) -> Floats:
        """Standard error of the ratio in each bin; NaN with fewer than two pools."""
        above, below = self._sums
        total, pools = below.sum(axis=0), self._seen.sum(axis=0)
        out = np.full(self.n_bins, np.nan)
        some = (pools > 1) & (total != 0.0)
        a, b, count = above[:, some], below[:, some], pools[some]
        spread = np.square(a - b * (a.sum(axis=0) / total[some])).sum(axis=0)
        out[some] = np.sqrt(spread * count / (count - 1.0)) / np.abs(total[some])
        return out
