"""Sums of terms over sequences, compiled by numba (the extra ``fast``).

Those columns of `trbounds.metrics.terms` of which the term is in `TERMS`. Sequences are walked in
tiles of tokens that stay in the first-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trbounds.metrics.importance import Weights
from trbounds.metrics.terms import LARGEST_EXCESS, LOG_LARGEST_FLOAT32, Column
from trbounds.numba_exponential import EXACT, reduce_exponent
from trbounds.traces.numba_loops import largest, set_log_ratio, set_ratio, sum_values
from trbounds.traces.token_terms import LOG_RATIO_CLAMP

__all__ = ["TERMS", "sum_columns"]

Floats = NDArray[np.float64]

_TILE = 512
_NAMES = (
    "train",
    "rollout",
    "d",
    "ratio_minus_one",
    "k3",
    "k3_square",
    "absolute",
    "clamped_chi2",
    "weight_distance",
    "weight",
    "weight_above",
    "weight_below",
    "applied",
    "applied_square",
)
TERMS: Mapping[str, int] = MappingProxyType({name: row for row, name in enumerate(_NAMES)})
"""Terms that are compiled, and the row of a tile that holds each."""

_TRAIN, _ROLLOUT, _D, _RATIO_MINUS_ONE, _K3, _K3_SQUARE, _ABSOLUTE = range(7)
_CLAMPED_CHI2, _WEIGHT_DISTANCE, _WEIGHT, _ABOVE, _BELOW, _APPLIED, _APPLIED_SQUARE = range(7, 14)
_NEEDS = {
    "k3": "ratio_minus_one",
    "k3_square": "k3",
    "clamped_chi2": "ratio_minus_one",
    "weight_distance": "ratio_minus_one",
    "weight_above": "weight",
    "weight_below": "weight",
    "applied": "weight",
    "applied_square": "applied",
}
_SUM, _LARGEST, _SMALLEST = range(3)
_REDUCTIONS = {"sum": _SUM, "largest": _LARGEST, "smallest": _SMALLEST}
_INFINITE = 700.0
"""Beyond this d a weight is infinite, here; the logs of a trace cannot be that far apart."""


@njit(**EXACT)
def _set_square(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = x[i] * x[i]


@njit(**EXACT)
def _set_absolute(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = abs(x[i])


@njit(**EXACT)
def _set_clamped_chi2(ratio_minus_one, out):  # type: ignore[no-untyped-def]
    for i in range(ratio_minus_one.size):
        e = min(ratio_minus_one[i], LARGEST_EXCESS)
        out[i] = e * (e + 2.0)


@njit(**EXACT)
def _set_weight(d, clamp, drop_above, out):  # type: ignore[no-untyped-def]
    for i in range(d.size):
        x = min(max(d[i], -min(clamp, _INFINITE)), clamp)
        r, q, scale, _ = reduce_exponent(x)
        weight = scale + scale * (r + q)
        weight = np.inf if x > _INFINITE else weight
        out[i] = 0.0 if x > drop_above else weight


@njit(**EXACT)
def _set_applied(weight, low, high, masks, out):  # type: ignore[no-untyped-def]
    for i in range(weight.size):
        w = min(max(weight[i], low), high)
        out[i] = 0.0 if masks and w != weight[i] else w


@njit(**EXACT)
def _set_above(x, limit, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = 1.0 if x[i] > limit else 0.0


@njit(**EXACT)
def _set_below(x, limit, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = 1.0 if x[i] < limit else 0.0


@njit(**EXACT)
def _set_negative(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = -x[i]


@njit(**EXACT)
def _set_terms(train, rollout, needed, limits, tile):  # type: ignore[no-untyped-def]
    clamp, drop_above, low, cap, below, masks = limits
    m = train.size
    set_log_ratio(train, rollout, tile[_D, :m])
    d, e, weight = tile[_D, :m], tile[_RATIO_MINUS_ONE, :m], tile[_WEIGHT, :m]
    if needed[_RATIO_MINUS_ONE]:
        set_ratio(d, e, tile[_K3, :m])
    if needed[_K3_SQUARE]:
        _set_square(tile[_K3, :m], tile[_K3_SQUARE, :m])
    if needed[_ABSOLUTE]:
        _set_absolute(d, tile[_ABSOLUTE, :m])
    if needed[_CLAMPED_CHI2]:
        _set_clamped_chi2(e, tile[_CLAMPED_CHI2, :m])
    if needed[_WEIGHT_DISTANCE]:
        _set_absolute(e, tile[_WEIGHT_DISTANCE, :m])
    if needed[_WEIGHT]:
        _set_weight(d, clamp, drop_above, weight)
    if needed[_ABOVE]:
        _set_above(weight, cap, tile[_ABOVE, :m])
    if needed[_BELOW]:
        _set_below(weight, below, tile[_BELOW, :m])
    if needed[_APPLIED]:
        _set_applied(weight, low, cap, masks, tile[_APPLIED, :m])
    if needed[_APPLIED_SQUARE]:
        _set_square(tile[_APPLIED, :m], tile[_APPLIED_SQUARE, :m])


@njit(**EXACT)
def _pass(  # type: ignore[no-untyped-def]
    train, rollout, offsets, needed, limits, terms, reductions, out
):
    tile, negative = np.empty((needed.size, _TILE)), np.empty(_TILE)
    for s in range(offsets.size - 1):
        for first in range(offsets[s], offsets[s + 1], _TILE):
            last = min(first + _TILE, offsets[s + 1])
            a, b = train[first:last], rollout[first:last]
            _set_terms(a, b, needed, limits, tile)
            for j in range(terms.size):
                values = tile[terms[j], : last - first]
                if terms[j] == _TRAIN:
                    values = a
                elif terms[j] == _ROLLOUT:
                    values = b
                if reductions[j] == _SUM:
                    out[j, s] += sum_values(values)
                elif reductions[j] == _LARGEST:
                    out[j, s] = max(out[j, s], largest(values))
                else:
                    _set_negative(values, negative)
                    out[j, s] = min(out[j, s], -largest(negative[: last - first]))


def sum_columns(
    rollout: Floats,
    train: Floats,
    offsets: NDArray[np.int64],
    columns: Sequence[Column],
    weights: Weights,
) -> Floats:
    """Compute one number for each sequence and column.

    Parameters
    ----------
    rollout, train : ndarray, shape (tokens,)
        Log-probabilities of the tokens that count.
    offsets : ndarray of int64, shape (n + 1,)
        Sequence i owns the tokens ``offsets[i]:offsets[i + 1]``.
    columns : sequence of Column
        With terms of :data:`TERMS`.
    weights : Weights
        What the framework makes of log-ratios.

    Returns
    -------
    ndarray, shape (len(columns), n)
        As numpy gives it, to 1e-11; k3 to 1e-14.
    """
    terms = np.array([TERMS[str(column.term)] for column in columns], dtype=np.int64)
    reductions = np.array([_REDUCTIONS[column.reduction] for column in columns], dtype=np.int64)
    needed = np.zeros(len(_NAMES), dtype=np.bool_)
    needed[terms] = True
    for name, other in reversed(_NEEDS.items()):  # what is needed is further up
        needed[TERMS[other]] |= needed[TERMS[name]]
    starts = [0.0 if column.reduction == "sum" else column.empty for column in columns]
    out = np.repeat(np.array(starts)[:, None], offsets.size - 1, axis=1)
    # Always floats: for another type everything would be compiled again.
    limits = (
        LOG_RATIO_CLAMP if weights.clamps else math.inf,
        LOG_LARGEST_FLOAT32 if weights.drops_overflow else math.inf,
        -math.inf if weights.floor is None else float(weights.floor),
        float(weights.cap),
        float(weights.low),
        weights.masks,
    )
    _pass(train, rollout, offsets, needed, limits, terms, reductions, out)
    return out
