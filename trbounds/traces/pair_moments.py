"""Moments of the two logged log-probabilities together, which show how they were logged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch, reduce_segments
from trbounds.traces.compensated import CompensatedSum
from trbounds.traces.token_terms import TokenTerms

Floats = NDArray[np.float64]

LAGS = (-1, 0, 1)
"""Lag j pairs the rollout log-probability of a token with the training one of the j-th after."""

_SUMS = ("count", "rollout", "train", "rollout_square", "train_square", "product")
_OFFSETS = ("log_ratio", "log_ratio_square")
_MASKED = ("hole", "rejected")


class PairMoments:
    """Sums of pairs of log-probabilities within sequences, and of the masked tokens among them.

    A masked token is looked at if both its log-probabilities are real: negative for the rollout
    policy, at most 0 and finite for the training policy. It is a *hole* if an earlier token of
    its sequence counts, and *rejected* if none of its sequence counts.
    """

    def __init__(self) -> None:
        self._pairs = CompensatedSum.zeros(len(LAGS) * len(_SUMS))
        self._offset = CompensatedSum.zeros(len(_OFFSETS))
        self._masked = CompensatedSum.zeros(2 * len(_MASKED))
        self._smallest: Floats = np.full(len(_MASKED), np.inf)

    def add(self, terms: TokenTerms, block: TraceBatch) -> None:
        """Add a block in place.

        Parameters
        ----------
        terms : TokenTerms
            Of the tokens that count, ``block.counted()``.
        block : TraceBatch
            The block they were taken from.
        """
        batch = terms.batch
        x, y, ratio = batch.rollout_logprobs, batch.train_logprobs, terms.log_ratio
        filled = batch.offsets[1:] > batch.offsets[:-1]
        first, last = batch.offsets[:-1][filled], batch.offsets[1:][filled] - 1

        # Not np.dot, whose rounding may depend on where the arrays lie in memory.
        def dot(a: Floats, b: Floats) -> float:
            return float(np.einsum("i,i->", a, b))

        xx, yy, dd = dot(x, x), dot(y, y), dot(ratio, ratio)
        offset = np.array([terms.log_weight.sum(), dd])
        x_sum = terms.rollout_sum.sum()
        sums = np.array([x_sum, x_sum + offset[0], xx, yy])
        found = []
        for lag in LAGS:
            # At lag 1 the last x and the first y of a sequence have no partner, and products
            # across the end of a sequence do not count; at lag -1 the other way round.
            count, total, across = x.size, sums, 0.5 * (xx + yy - dd)
            if lag:
                a, b = (last, first) if lag > 0 else (first, last)
                count = x.size - first.size
                alone = np.stack([x[a], y[b], x[a] * x[a], y[b] * y[b]])
                total = sums - alone.sum(axis=1)
                ends, starts = last[:-1], first[1:]
                if lag > 0:
                    across = dot(x[:-1], y[1:]) - (x[ends] * y[starts]).sum()
                else:
                    across = dot(x[1:], y[:-1]) - (x[starts] * y[ends]).sum()
            found += [count, *total, across]
        self._pairs.add(np.array(found))
        self._offset.add(offset)
        if block.mask is not None:
            self.add_masked(block, block.mask)

    @property
    def sums(self) -> tuple[Floats, Floats]:
        """Sums by lag and kind, lag by lag, to add to in place."""
        return self._pairs.pair()

    @property
    def offset(self) -> tuple[Floats, Floats]:
        """Sums of log rho and of its square, to add to in place."""
        return self._offset.pair()

    def add_masked(self, block: TraceBatch, mask: NDArray[np.bool_]) -> None:
        """Add the masked tokens of a block in place."""
        rollout, train = block.rollout_logprobs, block.train_logprobs
        scored = ~mask & (rollout < 0.0) & (rollout > -np.inf) & (train <= 0.0) & (train > -np.inf)
        if not scored.any():
            return
        lengths = block.lengths
        before: NDArray[np.int64] = np.cumsum(mask, dtype=np.int64) - mask
        starts = block.offsets[:-1][lengths > 0]
        before -= np.repeat(before[starts], lengths[lengths > 0])
        total = reduce_segments(np.add, mask.astype(np.int64), block.offsets)
        groups = (scored & (before > 0), scored & (np.repeat(total, lengths) == 0))
        found = np.zeros(2 * len(_MASKED))
        for index, chosen in enumerate(groups):
            size = np.abs(train[chosen] - rollout[chosen])
            found[2 * index : 2 * index + 2] = size.size, size.sum()
            self._smallest[index] = size.min(initial=self._smallest[index])
        self._masked.add(found)

    def correlation(self, lag: int) -> float:
        """Correlation of the two log-probabilities at a lag of :data:`LAGS`; NaN if undefined."""
        n, x, y, xx, yy, xy = self._moments(lag)
        if n < 2:
            return math.nan
        spread = max(xx - x * x / n, 0.0) * max(yy - y * y / n, 0.0)
        return (xy - x * y / n) / math.sqrt(spread) if spread > 0.0 else math.nan

    @property
    def slope(self) -> float:
        """Slope of the training against the rollout log-probability (least squares)."""
        n, x, y, xx, _, xy = self._moments(0)
        spread = xx - x * x / n if n else 0.0
        return (xy - x * y / n) / spread if spread > 0.0 else math.nan

    @property
    def log_ratio_mean(self) -> float:
        """Mean of log rho over tokens, in nats; NaN without tokens."""
        n = self._moments(0)[0]
        return float(self._offset.value[0]) / n if n else math.nan

    @property
    def log_ratio_deviation(self) -> float:
        """Standard deviation of log rho over tokens, in nats; NaN without tokens."""
        n = self._moments(0)[0]
        if not n:
            return math.nan
        mean = self.log_ratio_mean
        return math.sqrt(max(float(self._offset.value[1]) / n - mean * mean, 0.0))

    def masked(self, kind: str) -> tuple[int, float, float]:
        """Count, mean and smallest ``|log rho|`` of the masked tokens of a kind.

        Parameters
        ----------
        kind : {"hole", "rejected"}
            See the class.

        Returns
        -------
        tuple
            Mean NaN and smallest infinite where there is none.
        """
        index = _MASKED.index(kind)
        count, total = self._masked.value[2 * index : 2 * index + 2]
        mean = float(total / count) if count else math.nan
        return int(count), mean, float(self._smallest[index])

    def absorb(self, other: PairMoments) -> None:
        """Add another in place."""
        self._pairs.absorb(other._pairs)
        self._offset.absorb(other._offset)
        self._masked.absorb(other._masked)
        self._smallest = np.minimum(self._smallest, other._smallest)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        sums = {"pairs": self._pairs, "offset": self._offset, "masked": self._masked}
        out: dict[str, NDArray[Any]] = {
            name: np.stack([total.high, total.low]) for name, total in sums.items()
        }
        out["smallest"] = self._smallest
        return out

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> PairMoments:
        """Rebuild from :meth:`state`."""
        out = cls()
        out._pairs = CompensatedSum(*np.array(state["pairs"], dtype=np.float64))
        out._offset = CompensatedSum(*np.array(state["offset"], dtype=np.float64))
        out._masked = CompensatedSum(*np.array(state["masked"], dtype=np.float64))
        out._smallest = np.array(state["smallest"], dtype=np.float64)
        return out

    def _moments(self, lag: int) -> tuple[float, ...]:
        at = LAGS.index(lag) * len(_SUMS)
        return tuple(self._pairs.value[at : at + len(_SUMS)].tolist())
