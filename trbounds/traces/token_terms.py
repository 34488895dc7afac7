"""Everything the summary needs of each token, computed once per block of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch, reduce_segments

Floats = NDArray[np.float64]

LOG_WEIGHT_CAP = 100.0
"""Prefix weights W saturate at e^100, so that their squares stay inside float64. Under a rollout
policy that covers the training policy this has probability below e^-100; logs with a fault in
them (a wrong temperature, say) do reach it, and the summary counts those sequences."""

LOG_RATIO_CLAMP = 20.0
"""verl clamps log rho to [-20, 20] before most of what it computes."""

_PIECE = 32_768
"""Tokens of which four arrays stay in the second-level cache."""

_SERIES_LIMIT = 0.125
_SERIES = (1 / 12, -1 / 720, 1 / 30_240, -1 / 1_209_600)
"""``B_2n / (2n)!``, n = 1, 2, ...: the series of ``x / (e^x - 1)`` in powers of x^2."""


def k3_of(log_ratio: Floats, ratio_minus_one: Floats) -> Floats:
    """``k3 = rho - 1 - log rho``, to 4e-15 relative.

    Where ``|log rho| <= 1/8`` the subtraction would cancel. With ``x = log rho``,
    ``k3 = (e^x - 1) (1 - x / (e^x - 1))`` is used there; the last factor is
    ``x / 2 - x^2 / 12 + x^4 / 720 - ...`` (truncation below 1e-16 relative).
    """
    out = np.empty_like(log_ratio)
    c1, c2, c3, c4 = _SERIES
    # Piece by piece: the series passes over its arguments a dozen times.
    for start in range(0, log_ratio.size, _PIECE):
        piece = slice(start, start + _PIECE)
        x, ratio, series = log_ratio[piece], ratio_minus_one[piece], out[piece]
        square = x * x
        large = np.flatnonzero(square > _SERIES_LIMIT**2)
        np.multiply(square, c4, series)
        series += c3
        series *= square
        series += c2
        series *= square
        series += c1
        series *= x
        np.subtract(0.5, series, series)
        series *= x
        series *= ratio
        series[large] = ratio[large] - x[large]
    return out


def prefix_sum(values: Floats, offsets: NDArray[np.int64]) -> Floats:
    """Within each segment, the sum of the entries up to and including each entry.

    One running sum over the whole block, from which each segment's total is taken out where the
    next one starts: the running value stays of the size of one segment, so nothing cancels.
    Never decreases within a segment of non-negative values.
    """
    starts = _filled_starts(offsets)
    if not starts.size:
        return values.copy()
    steps = values.copy()
    steps[starts[1:]] -= np.add.reduceat(values, starts)[:-1]
    running = np.cumsum(steps, out=steps)
    # What rounding left of the segments before: of the order of one unit in the last place.
    drift = running[starts] - values[starts]
    running -= np.repeat(drift, np.diff(np.append(starts, values.size)))
    return running


def shift_prefix_sum(inclusive: Floats, offsets: NDArray[np.int64]) -> Floats:
    """Turn the result of :func:`prefix_sum` into the sums before each entry."""
    out = np.empty_like(inclusive)
    out[1:] = inclusive[:-1]
    out[_filled_starts(offsets)] = 0.0
    return out


def _filled_starts(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return offsets[:-1][offsets[1:] > offsets[:-1]]


@dataclass(frozen=True)
class TokenTerms:
    """Per-token quantities of a block of sequences without masked tokens.

    Parameters
    ----------
    batch : TraceBatch
        The block.
    log_ratio, abs_log_ratio, ratio, abs_ratio, square, k3 : ndarray
        ``log rho``, ``|log rho|``, ``rho - 1``, ``|rho - 1|``, ``(rho - 1)^2``,
        ``rho - 1 - log rho``.
    log_weight, rollout_sum : ndarray
        Sums over each sequence of ``log rho`` and of ``log mu``.
    log_weight_before : ndarray or None
        ``log W_{t-1}``: the sum of ``log rho`` over the earlier tokens of the sequence, at most
        100. There if chi2 is logged.
    saturated : int
        Sequences of which ``log_weight_before`` was cut at 100.
    kl_log_chi2_excess : ndarray or None
        ``kl - log(1 + chi2)``, where both are logged.
    """

    batch: TraceBatch
    log_ratio: Floats
    abs_log_ratio: Floats
    ratio: Floats
    abs_ratio: Floats
    square: Floats
    k3: Floats
    log_weight: Floats
    rollout_sum: Floats
    log_weight_before: Floats | None
    saturated: int
    kl_log_chi2_excess: Floats | None

    @classmethod
    def of(cls, batch: TraceBatch) -> TokenTerms:
        """Compute the terms of a batch that has no mask."""
        log_ratio = batch.log_ratio
        ratio = np.expm1(log_ratio)
        size = np.abs(log_ratio)
        before, saturated = None, 0
        # Without chi2 the weights are only looked at where they may be cut: no prefix of a
        # sequence sums to more than its positive terms do.
        log_weight = reduce_segments(np.add, log_ratio, batch.offsets)
        positive = 0.5 * (reduce_segments(np.add, size, batch.offsets) + log_weight)
        if batch.chi2 is not None or positive.max(initial=0.0) > LOG_WEIGHT_CAP:
            before = shift_prefix_sum(prefix_sum(log_ratio, batch.offsets), batch.offsets)
            if before.max(initial=0.0) > LOG_WEIGHT_CAP:
                over = np.flatnonzero(before > LOG_WEIGHT_CAP)
                saturated = np.unique(np.searchsorted(batch.offsets, over, side="right")).size
                np.minimum(before, LOG_WEIGHT_CAP, out=before)
        excess = None
        if batch.kl is not None and batch.chi2 is not None:
            excess = batch.kl - np.log1p(batch.chi2)
        return cls(
            batch=batch,
            log_ratio=log_ratio,
            abs_log_ratio=size,
            ratio=ratio,
            abs_ratio=np.abs(ratio),
            square=ratio * ratio,
            k3=k3_of(log_ratio, ratio),
            log_weight=log_weight,
            rollout_sum=reduce_segments(np.add, batch.rollout_logprobs, batch.offsets),
            log_weight_before=before,
            saturated=saturated,
            kl_log_chi2_excess=excess,
        )

    def sum_by_sequence(self, values: Floats) -> Floats:
        """Sum over each sequence (pairwise within it)."""
        return np.asarray(reduce_segments(np.add, values, self.batch.offsets))

    def max_by_sequence(self, values: Floats) -> Floats:
        """Largest entry of each sequence; 0 for an empty one."""
        return np.asarray(reduce_segments(np.maximum, values, self.batch.offsets))
