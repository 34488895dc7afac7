"""Terms of tokens and how they are summed up, from which every framework's metric is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.metrics.importance import Weights
from trbounds.traces.batch import reduce_segments
from trbounds.traces.token_terms import LOG_RATIO_CLAMP, k3_of

__all__ = ["COLUMNS", "LARGEST_EXCESS", "LOG_LARGEST_FLOAT32", "Block", "Column"]

Floats = NDArray[np.float64]

LOG_LARGEST_FLOAT32 = float(np.log(np.finfo(np.float32).max))
LARGEST_EXCESS = float(np.expm1(LOG_RATIO_CLAMP))
"""``e^d - 1`` of the largest clamped d."""
_DIRECT_K3 = 1e-6
"""Mean k3 of a sequence from which the difference of the sums of ``e^d - 1`` and of d is good to
1e-11: the mean of abs(d) is below 1.5e-3 there at most, and a sum of 1e4 terms good to 3e-15."""


class Block:
    """Terms of the tokens of some sequences, each computed if it is asked for, once.

    Parameters
    ----------
    rollout, train : ndarray
        Log-probabilities of the tokens that count.
    offsets : ndarray of int64
        Sequence i owns the tokens ``offsets[i]:offsets[i + 1]``.
    weights : Weights
        What the framework makes of log-ratios.
    """

    def __init__(
        self, rollout: Floats, train: Floats, offsets: NDArray[np.int64], weights: Weights
    ) -> None:
        self.rollout, self.train = rollout, train
        self.weights = weights
        self._offsets = offsets

    def reduce(self, column: Column) -> Floats:
        """Compute one number for each sequence."""
        if column.reduction == "sum" and column.term in _SUMMED:
            return np.asarray(getattr(self, f"{column.term}_sum"), dtype=np.float64)
        values = getattr(self, column.term) if isinstance(column.term, str) else column.term(self)
        ufunc = _UFUNCS[column.reduction]
        return np.asarray(reduce_segments(ufunc, values, self._offsets, empty=column.empty))

    @cached_property
    def d(self) -> Floats:
        """Log-ratio, ``log pi - log mu``."""
        return self.train - self.rollout

    @cached_property
    def absolute(self) -> Floats:
        """``|d|``."""
        return np.abs(self.d)

    @cached_property
    def clamped_d(self) -> Floats:
        """``d`` clamped to [-20, 20]."""
        return np.clip(self.d, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)

    @cached_property
    def ratio_minus_one(self) -> Floats:
        """``e^d - 1``."""
        return np.expm1(self.d)

    @cached_property
    def d_sum(self) -> Floats:
        """``d``, summed over each sequence."""
        return self._sum(self.d)

    @cached_property
    def ratio_minus_one_sum(self) -> Floats:
        """``e^d - 1``, summed over each sequence."""
        return self._sum(self.ratio_minus_one)

    @cached_property
    def ratio(self) -> Floats:
        """``e^d``."""
        # Not e^d - 1 with 1 added again: that leaves a small ratio without its digits.
        return np.exp(self.d)

    @cached_property
    def weight(self) -> Floats:
        """Importance weight before the limits apply."""
        if self.weights.drops_overflow:
            return np.where(self.d > LOG_LARGEST_FLOAT32, 0.0, self.ratio)
        if self.weights.clamps:
            return np.clip(self.ratio, *np.exp([-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP]))
        return self.ratio

    @cached_property
    def applied(self) -> Floats:
        """Importance weight as the loss has it."""
        return self.weights.applied(self.weight)

    @cached_property
    def k3_sum(self) -> Floats:
        """``e^d - 1 - d``, summed over each sequence, to 1e-11."""
        direct = self.ratio_minus_one_sum - self.d_sum
        if (direct >= _DIRECT_K3 * np.diff(self._offsets)).all():
            return direct
        return self._sum(self.k3)

    @cached_property
    def k3(self) -> Floats:
        """``e^d - 1 - d``."""
        return k3_of(self.d, self.ratio_minus_one)

    @property
    def k3_square(self) -> Floats:
        """k3 squared."""
        return self.k3**2

    @cached_property
    def clamped_k3(self) -> Floats:
        """``e^d - 1 - d`` of the clamped ``d``."""
        return k3_of(self.clamped_d, np.expm1(self.clamped_d))

    @cached_property
    def clamped_k1(self) -> Floats:
        """``-d`` of the clamped ``d``."""
        return -self.clamped_d

    @cached_property
    def clamped_k2(self) -> Floats:
        """``d^2 / 2`` of the clamped ``d``."""
        out = self.clamped_d * self.clamped_d
        out *= 0.5
        return out

    @property
    def clamped_chi2(self) -> Floats:
        """``e^(2d) - 1`` of the clamped ``d``."""
        # Where d is below -20 this is -1 to all digits, whether clamped or not.
        excess = np.minimum(self.ratio_minus_one, LARGEST_EXCESS)
        out = excess + 2.0
        out *= excess
        return out

    @cached_property
    def clamped_chi2_sum(self) -> Floats:
        """``e^(2d) - 1`` of the clamped ``d``, summed over each sequence."""
        if self.d.max(initial=0.0) > LOG_RATIO_CLAMP:
            return self._sum(self.clamped_chi2)
        return self._sum(self.ratio_minus_one**2) + 2.0 * self.ratio_minus_one_sum

    @property
    def weight_distance(self) -> Floats:
        """``|e^d - 1|``."""
        return np.abs(self.ratio_minus_one)

    @property
    def weight_above(self) -> Floats:
        """1 where the weight is above the cap."""
        return (self.weight > self.weights.cap).astype(np.float64)

    @property
    def weight_below(self) -> Floats:
        """1 where the weight is below the floor, or the cap's inverse."""
        return (self.weight < self.weights.low).astype(np.float64)

    @property
    def applied_square(self) -> Floats:
        """The applied weight squared."""
        return self.applied**2

    @property
    def exp_absolute(self) -> Floats:
        """``e^|d|``."""
        return np.exp(self.absolute)

    @property
    def reverse_k3(self) -> Floats:
        """``e^-d - 1 + d``."""
        return k3_of(-self.d, np.expm1(-self.d))

    @property
    def jensen_shannon(self) -> Floats:
        """Half the k3 of both policies against ``m = (pi + mu)/2``."""
        d = self.d
        # log pi - log m and log mu - log m, each the log of a number at most 2.
        to_train = np.log(2.0) - np.logaddexp(0.0, -d)
        to_rollout = np.log(2.0) - np.logaddexp(0.0, d)
        small = self.absolute < 1e-2
        # Near 0, log 2 - log(1 + e^-d) = d/2 - d^2/8 + d^4/192 without cancellation.
        series = d[small] ** 2 / 8 - d[small] ** 4 / 192
        to_train[small], to_rollout[small] = d[small] / 2 - series, -d[small] / 2 - series
        return 0.5 * (k3_of(to_train, np.expm1(to_train)) + k3_of(to_rollout, np.expm1(to_rollout)))

    def _sum(self, values: Floats) -> Floats:
        return np.asarray(reduce_segments(np.add, values, self._offsets))


class Column(NamedTuple):
    """One number for each sequence: a term of its tokens, summed up.

    Parameters
    ----------
    term : str or callable
        A property of :class:`Block`, or a function of a block.
    reduction : {"sum", "largest", "smallest"}
        How.
    empty : float
        The number of a sequence without tokens.
    """

    term: str | Callable[[Block], Floats]
    reduction: str = "sum"
    empty: float = 0.0


_SUMMED = ("d", "k3", "clamped_chi2")
"""Terms whose sums follow from a few that several columns need."""

_UFUNCS = {"sum": np.add, "largest": np.maximum, "smallest": np.minimum}

COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "train": Column("train"),
        "rollout": Column("rollout"),
        "log_ratio": Column("d"),
        "k3": Column("k3"),
        "k3_square": Column("k3_square"),
        "k3_max": Column("k3", "largest"),
        "reverse_k3": Column("reverse_k3"),
        "clamped_chi2": Column("clamped_chi2"),
        "clamped_k1": Column("clamped_k1"),
        "clamped_k2": Column("clamped_k2"),
        "clamped_k3": Column("clamped_k3"),
        "clamped_k3_max": Column("clamped_k3", "largest"),
        "absolute": Column("absolute"),
        "absolute_max": Column("absolute", "largest"),
        "exp_absolute": Column("exp_absolute"),
        "jensen_shannon": Column("jensen_shannon"),
        "weight": Column("weight"),
        "weight_distance": Column("weight_distance"),
        "weight_above": Column("weight_above"),
        "weight_below": Column("weight_below"),
        "applied": Column("applied"),
        "applied_square": Column("applied_square"),
        "applied_max": Column("applied", "largest", -np.inf),
        "applied_min": Column("applied", "smallest", np.inf),
    }
)
"""What can be summed over the tokens of a sequence, with ``d = log pi - log mu``:

======================== ======================================================================
``train``, ``rollout``   ``log pi``, ``log mu``
``log_ratio``            d
``k3``, ``reverse_k3``   ``e^d - d - 1``, ``e^-d + d - 1``
``k3_square``,           k3 squared, and its largest
``k3_max``
``clamped_chi2``         ``e^(2d) - 1``, d clamped to [-20, 20]
``clamped_k1``,          ``-d``, ``d^2 / 2``, ``e^d - d - 1``, d clamped to [-20, 20], and the
``clamped_k2``,          largest of the last; 0 without a token
``clamped_k3``,
``clamped_k3_max``
``absolute``,            ``|d|``, and its largest
``absolute_max``
``exp_absolute``         ``e^|d|``
``jensen_shannon``       half the k3 of either log-probability against that of the even mixture
``weight``               ``w = e^d``; where the framework does so, with d clamped to [-20, 20], or
                         0 where that overflows float32
``weight_distance``      ``|e^d - 1|``
``weight_above``,        1 where w is above the cap, below the floor (or the cap's inverse)
``weight_below``
``applied``,             w after the limits of :class:`Weights`, and its square
``applied_square``
``applied_max``,         its largest and smallest; -inf and inf without a token
``applied_min``
======================== ======================================================================
"""
