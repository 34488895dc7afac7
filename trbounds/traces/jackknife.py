"""Sample means over sequences, with standard errors by sequence and by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

Floats = NDArray[np.float64]

MAX_BLOCKS = 500
"""Most groups that are deleted one at a time; more prompts than that are pooled."""


@dataclass(frozen=True)
class Estimate:
    """A number estimated from a trace.

    Parameters
    ----------
    value : float
        The estimate.
    standard_error : float
        With sequences taken as independent; NaN with fewer than two.
    jackknife_error : float
        Delete-a-group jackknife over prompts, which allows for sequences of one prompt being
        alike; NaN with fewer than two prompts.
    """

    value: float
    standard_error: float
    jackknife_error: float

    @property
    def error(self) -> float:
        """The larger of the two standard errors; NaN if there is neither."""
        return float(np.fmax(self.standard_error, self.jackknife_error))

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "jackknife_error": self.jackknife_error,
        }


def jackknife_error(leave_one_out: Floats) -> float:
    """Return the delete-a-group jackknife standard error.

    Parameters
    ----------
    leave_one_out : ndarray, shape (G,)
        The statistic without each group in turn.

    Returns
    -------
    float
        ``sqrt((G - 1)/G sum_g (theta_g - mean theta)^2)``; NaN for fewer than two groups or where
        a value is not finite. Right for smooth functions of means, not for maxima.

    Notes
    -----
    Source: Shao and Tu, The Jackknife and Bootstrap (1995), section 5.5.
    """
    groups = leave_one_out.size
    if groups < 2 or not np.isfinite(leave_one_out).all():
        return math.nan
    spread = leave_one_out - leave_one_out.mean()
    # Bounds of a trace reach values whose squares overflow.
    return math.sqrt((groups - 1) / groups) * math.hypot(*spread)


def student_limit(limit: float, n: int) -> float:
    """Return the standard errors that chance exceeds as rarely as a normal variable does `limit`.

    Parameters
    ----------
    limit : float
        Standard errors, if they were known exactly.
    n : int
        Numbers that the standard error is made from, copies of the most frequent one left out.

    Returns
    -------
    float
        From Student's t with ``n - 1`` degrees of freedom: for a limit of 4, 10,050 with two
        numbers, 7.0 with ten, 4.03 with 500. Infinite below two: numbers that are all the same
        show no spread, which does not mean that there is none. Limits above 30 are not raised
        further than one of 30 is, and never lowered.
    """
    if n < 2:
        return math.inf
    # Farther out stdtrit fails, and beyond 37 the tail underflows.
    return max(limit, float(-stdtrit(n - 1, ndtr(-min(limit, 30.0)))))


class Blocks:
    """The groups of sequences that a jackknife deletes.

    Parameters
    ----------
    groups : ndarray of int64
        Prompt of each sequence, numbered 0, 1, ... Prompts beyond :data:`MAX_BLOCKS` share a
        block with an earlier one.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self._index = groups % MAX_BLOCKS
        self.n_blocks = min(int(groups.max()) + 1, MAX_BLOCKS) if groups.size else 0
        self.n_sequences = groups.size
        self.counts = np.bincount(self._index, minlength=self.n_blocks)

    def sums(self, values: Floats) -> Floats:
        """Sum a per-sequence column over each block."""
        total = np.bincount(self._index, weights=values, minlength=self.n_blocks)
        return np.asarray(total, dtype=np.float64)

    def leave_one_out(self, values: Floats) -> Floats:
        """Mean of a per-sequence column without each block in turn; NaN where nothing is left."""
        left = (self.n_sequences - self.counts).astype(np.float64)
        sums = self.sums(values)
        # Before and after each block: the total less the block could lose digits, and its sign.
        before, after = np.zeros_like(sums), np.zeros_like(sums)
        np.cumsum(sums[:-1], out=before[1:])
        after[:-1] = np.cumsum(sums[:0:-1])[::-1]
        out = np.full(self.n_blocks, np.nan)
        np.divide(before + after, left, out=out, where=left > 0)
        return out

    def mean(self, values: Floats) -> Estimate:
        """Estimate an expectation by the mean of a per-sequence column."""
        n = self.n_sequences
        mean = math.fsum(values) / n
        spread = values - mean
        plain = math.sqrt(float(spread @ spread) / (n - 1) / n) if n > 1 else math.nan
        return Estimate(mean, plain, jackknife_error(self.leave_one_out(values)))

    def means(self, columns: Mapping[str, Floats]) -> dict[str, Estimate]:
        """Apply :meth:`mean` to each column."""
        return {name: self.mean(values) for name, values in columns.items()}
