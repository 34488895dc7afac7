"""Sums of terms over sequences, compiled by numba (the extra ``fast``).

Those columns of `trbounds.metrics.terms` that are in `COMPILED`. Sequences are walked in tiles of
tokens that stay in the first-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trbounds.metrics.importance import Weights
from trbounds.metrics.terms import LARGEST_EXCESS, LOG_LARGEST_FLOAT32, Column
from trbounds.numba_exponential import EXACT, UNREDUCED, reduce_exponent
from trbounds.traces.batch import TraceBatch
from trbounds.traces.numba_loops import (
    SUM,
    from_bits,
    from_ordered_bits,
    magnitude,
    ordered_bits,
    ratio_of,
    ratio_of_small,
)
from trbounds.traces.token_terms import LOG_RATIO_CLAMP

__all__ = ["COMPILED", "sum_columns"]

_TILE = 512
_INFINITE = 700.0
"""Beyond this d a weight is infinite, here; the logs of a trace cannot be that far apart."""

_D, _RATIO_MINUS_ONE, _K3, _WEIGHT, _APPLIED = _ROWS = range(5)
_TRAIN, _ROLLOUT, _LOG_RATIO, _K3_SUM, _CHI2 = range(5)
_DIRECT, _SUM, _ABSOLUTE, _SQUARES, _ABOVE, _BELOW, _LARGEST, _SMALLEST = range(8)

COMPILED: Mapping[tuple[str, str], tuple[int, int]] = MappingProxyType(
    {
        ("train", "sum"): (_DIRECT, _TRAIN),
        ("rollout", "sum"): (_DIRECT, _ROLLOUT),
        ("d", "sum"): (_DIRECT, _LOG_RATIO),
        ("k3", "sum"): (_DIRECT, _K3_SUM),
        ("clamped_chi2", "sum"): (_DIRECT, _CHI2),
        ("absolute", "sum"): (_ABSOLUTE, _D),
        ("absolute", "largest"): (_LARGEST, _D),
        ("weight_distance", "sum"): (_ABSOLUTE, _RATIO_MINUS_ONE),
        ("k3", "largest"): (_LARGEST, _K3),
        ("k3_square", "sum"): (_SQUARES, _K3),
        ("weight", "sum"): (_SUM, _WEIGHT),
        ("weight_above", "sum"): (_ABOVE, _WEIGHT),
        ("weight_below", "sum"): (_BELOW, _WEIGHT),
        ("applied", "sum"): (_SUM, _APPLIED),
        ("applied", "largest"): (_LARGEST, _APPLIED),
        ("applied", "smallest"): (_SMALLEST, _APPLIED),
        ("applied_square", "sum"): (_SQUARES, _APPLIED),
    }
)
"""Terms and reductions that are compiled: what is done, and with which row of a tile. Those that
nearly all metrics need take no rows but d, which costs half as much."""


@njit(**SUM)
def _set_log_ratio(train, rollout, tile):  # type: ignore[no-untyped-def]
    """Set d; return the sums of log pi, of log mu and of d.

    A loop of its own: memory is read twice as fast where nothing else is to be done.
    """
    s0, s1, s2 = 0.0, 0.0, 0.0
    for i in range(train.size):
        a, b = np.float64(train[i]), np.float64(rollout[i])
        tile[_D, i] = a - b
        s0 += a
        s1 += b
        s2 += a - b
    return s0, s1, s2


# Below, loops over the first m tokens of a tile, of which none takes a slice: numba counts
# references to slices, which took as long as the sums of a short sequence.


@njit(**SUM)
def _direct_of_small(tile, m, log_ratio):  # type: ignore[no-untyped-def]
    """Return the sums of k3 and of chi2, and the largest ``|d|``; right only if that is small."""
    s0, squares, top = 0.0, 0.0, 0
    for i in range(m):
        e, k3 = ratio_of_small(tile[_D, i])
        s0 += k3
        squares += e * e
        top = max(top, magnitude(tile[_D, i]))
    return s0, squares + 2.0 * (log_ratio + s0), from_bits(top)


@njit(**SUM)
def _direct(tile, m):  # type: ignore[no-untyped-def]
    """Return the sums of k3 and of chi2, and the largest ``|d|``."""
    s0, s1, top = 0.0, 0.0, 0
    for i in range(m):
        e, k3 = ratio_of(tile[_D, i])
        clamped = min(e, LARGEST_EXCESS)
        s0 += k3
        s1 += clamped * (clamped + 2.0)
        top = max(top, magnitude(tile[_D, i]))
    return s0, s1, from_bits(top)


@njit(**EXACT)
def _set_ratio(tile, m, size):  # type: ignore[no-untyped-def]
    if size <= UNREDUCED:
        for i in range(m):
            tile[_RATIO_MINUS_ONE, i], tile[_K3, i] = ratio_of_small(tile[_D, i])
    else:
        for i in range(m):
            tile[_RATIO_MINUS_ONE, i], tile[_K3, i] = ratio_of(tile[_D, i])


@njit(**EXACT)
def _set_weight(tile, m, clamp, drop_above):  # type: ignore[no-untyped-def]
    for i in range(m):
        x = min(max(tile[_D, i], -min(clamp, _INFINITE)), clamp)
        r, q, scale, _ = reduce_exponent(x)
        weight = scale + scale * (r + q)
        weight = np.inf if x > _INFINITE else weight
        tile[_WEIGHT, i] = 0.0 if x > drop_above else weight


@njit(**EXACT)
def _set_applied(tile, m, low, high, masks):  # type: ignore[no-untyped-def]
    for i in range(m):
        weight = tile[_WEIGHT, i]
        w = min(max(weight, low), high)
        tile[_APPLIED, i] = 0.0 if masks and w != weight else w


@njit(**SUM)
def _sum(tile, row, m):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(m):
        total += tile[row, i]
    return total


@njit(**SUM)
def _sum_absolute(tile, row, m):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(m):
        total += abs(tile[row, i])
    return total


@njit(**SUM)
def _sum_squares(tile, row, m):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(m):
        total += tile[row, i] * tile[row, i]
    return total


@njit(**EXACT)
def _count_above(tile, row, m, limit):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(m):
        count += tile[row, i] > limit
    return count


@njit(**EXACT)
def _count_below(tile, row, m, limit):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(m):
        count += tile[row, i] < limit
    return count


@njit(**EXACT)
def _largest(tile, row, m, sign):  # type: ignore[no-untyped-def]
    top = ordered_bits(-np.inf)
    for i in range(m):
        top = max(top, ordered_bits(sign * tile[row, i]))
    return from_ordered_bits(top)


@njit(**EXACT)
def _set_rows(tile, m, size, needed, limits):  # type: ignore[no-untyped-def]
    if needed[_RATIO_MINUS_ONE]:
        _set_ratio(tile, m, size)
    if needed[_WEIGHT]:
        _set_weight(tile, m, limits.clamp, limits.drop_above)
    if needed[_APPLIED]:
        _set_applied(tile, m, limits.floor, limits.cap, limits.masks)


@njit(**EXACT)
def _sum_of_row(kind, row, tile, m, limits):  # type: ignore[no-untyped-def]
    if kind == _SUM:
        return _sum(tile, row, m)
    if kind == _ABSOLUTE:
        return _sum_absolute(tile, row, m)
    if kind == _SQUARES:
        return _sum_squares(tile, row, m)
    if kind == _ABOVE:
        return float(_count_above(tile, row, m, limits.cap))
    return float(_count_below(tile, row, m, limits.low))


@njit(**EXACT)
def _pass(train, rollout, offsets, needed, limits, kinds, rows, out):  # type: ignore[no-untyped-def]
    tile, more = np.empty((needed.size, _TILE)), needed.any()
    for s in range(offsets.size - 1):
        for start in range(offsets[s], offsets[s + 1], _TILE):
            m = min(_TILE, offsets[s + 1] - start)
            logs = _set_log_ratio(train[start : start + m], rollout[start : start + m], tile)
            k3, chi2, size = _direct_of_small(tile, m, logs[_LOG_RATIO])
            if size > UNREDUCED:
                k3, chi2, size = _direct(tile, m)
            direct = (*logs, k3, chi2)
            if more:
                _set_rows(tile, m, size, needed, limits)
            for j in range(kinds.size):
                kind, row = kinds[j], rows[j]
                if kind == _DIRECT:
                    out[s, j] += direct[row]
                elif kind == _LARGEST and row == _D:  # of its absolute value
                    out[s, j] = max(out[s, j], size)
                elif kind == _LARGEST:
                    out[s, j] = max(out[s, j], _largest(tile, row, m, 1.0))
                elif kind == _SMALLEST:
                    out[s, j] = min(out[s, j], -_largest(tile, row, m, -1.0))
                else:
                    out[s, j] += _sum_of_row(kind, row, tile, m, limits)


class _Limits(NamedTuple):
    clamp: float
    drop_above: float
    floor: float
    cap: float
    low: float
    masks: bool

    @classmethod
    def of(cls, weights: Weights) -> _Limits:
        # Always floats: for another type everything would be compiled again.
        return cls(
            clamp=LOG_RATIO_CLAMP if weights.clamps else math.inf,
            drop_above=LOG_LARGEST_FLOAT32 if weights.drops_overflow else math.inf,
            floor=-math.inf if weights.floor is None else float(weights.floor),
            cap=float(weights.cap),
            low=float(weights.low),
            masks=weights.masks,
        )


def sum_columns(
    batch: TraceBatch, columns: Sequence[Column], weights: Weights
) -> NDArray[np.float64]:
    """Compute one number for each sequence and column.

    Parameters
    ----------
    batch : TraceBatch
        Without a mask.
    columns : sequence of Column
        With a term and a reduction of :data:`COMPILED`.
    weights : Weights
        What the framework makes of log-ratios.

    Returns
    -------
    ndarray, shape (n, len(columns))
        As numpy gives it, to 1e-11; k3 to 1e-14.
    """
    chosen = [COMPILED[str(column.term), column.reduction] for column in columns]
    kinds, rows = np.array(chosen, dtype=np.int64).reshape(-1, 2).T.copy()
    used = {row for kind, row in chosen if kind != _DIRECT}
    needed = np.zeros(len(_ROWS), dtype=np.bool_)
    needed[_RATIO_MINUS_ONE] = not used.isdisjoint((_RATIO_MINUS_ONE, _K3))
    needed[_WEIGHT] = not used.isdisjoint((_WEIGHT, _APPLIED))
    needed[_APPLIED] = _APPLIED in used
    out = np.empty((batch.n_sequences, len(columns)))
    out[:] = [0.0 if column.reduction == "sum" else column.empty for column in columns]
    logs = batch.train_logprobs, batch.rollout_logprobs
    # As logged, in half the memory; for every other kind of array it would be compiled anew.
    both = np.float32 if all(values.dtype == np.float32 for values in logs) else np.float64
    _pass(
        *(np.ascontiguousarray(values, dtype=both) for values in logs),
        batch.offsets,
        needed,
        _Limits.of(weights),
        kinds,
        rows,
        out,
    )
    return out
