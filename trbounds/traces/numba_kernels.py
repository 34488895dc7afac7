"""The token pass, compiled by numba (the extra ``fast``).

Sequences are walked in tiles of tokens that stay in the first-level cache; a tile is a few short
loops (``numba_loops``). Sums by position are taken over a few sequences at a time and then added to
compensated pairs, so that nothing grows with the batch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trbounds.numba_exponential import EXACT
from trbounds.traces.numba_loops import (
    add,
    add_abs,
    add_compensated,
    add_squares,
    add_with_square,
    count_bins,
    count_zeros,
    dot,
    flush_into,
    largest_prefix,
    raise_to_abs,
    set_excess_over_root,
    set_log_ratio,
    set_quotient,
    set_ratio,
    set_weight_residual,
    sum_and_range,
    sums_of_pairs,
    sums_of_ratio,
)

__all__ = [
    "column_pass",
    "excess_pass",
    "moments_pass",
    "path_pass",
    "quotient_pass",
    "ratio_pass",
    "root_pass",
]

TILE = 512
_SEQUENCES = 32
"""Sequences whose values at a position are added without compensation."""


@njit(**EXACT)
def _flush(tiles, pairs, size):  # type: ignore[no-untyped-def]
    for j in range(tiles.shape[0]):
        flush_into(tiles[j], pairs[j, 0], pairs[j, 1], size)


@njit(**EXACT)
def ratio_pass(  # type: ignore[no-untyped-def]
    rollout, train, offsets, cap, sums, ends, pairs, maxima, log_bins, k3_bins, shift, offset
):
    """Everything that the two log-probabilities give.

    Per sequence ``sums`` (n, 6) and ``ends`` (n, 3) as :func:`sums_of_ratio` names them; by
    position the pairs (6, 2, T) of rho - 1, its absolute value, square and fourth power, k3 and
    its square, and the largest |log rho|; two histograms. Returns the numbers of tokens of which
    log rho, log mu and log pi are 0, and of sequences with a prefix weight above e^cap.
    """
    x, ratio, k3 = np.empty(TILE), np.empty(TILE), np.empty(TILE)
    bins = np.empty(TILE, np.int64)
    tiles = np.zeros((pairs.shape[0], pairs.shape[2]))
    equal, zero_rollout, zero_train, saturated = 0, 0, 0, 0
    pending, longest = 0, 0
    for s in range(offsets.size - 1):
        start, length = offsets[s], offsets[s + 1] - offsets[s]
        top, low, least = 0.0 if length else -np.inf, np.inf, np.inf
        log_weight, cut = 0.0, False
        for t in range(0, length, TILE):
            m = min(TILE, length - t)
            a, b = rollout[start + t : start + t + m], train[start + t : start + t + m]
            xs, es, ks = x[:m], ratio[:m], k3[:m]
            set_log_ratio(b, a, xs)
            set_ratio(xs, es, ks)
            step, size, high, small, smallest = sums_of_ratio(xs, es, ks, a, s, sums)
            if log_weight + size > cap:
                cut |= largest_prefix(xs, log_weight) > cap
            log_weight += step
            top, low, least = max(top, high), min(low, small), min(least, smallest)
            add(es, tiles[0, t : t + m])
            add_abs(es, tiles[1, t : t + m])
            add_squares(es, tiles[2, t : t + m], tiles[3, t : t + m])
            add_with_square(ks, tiles[4, t : t + m], tiles[5, t : t + m])
            raise_to_abs(xs, maxima[t : t + m])
            count_bins(xs, shift, offset, bins[:m], log_bins)
            count_bins(ks, shift, offset, bins[:m], k3_bins)
            equal += count_zeros(xs)
            zero_rollout += count_zeros(a)
            zero_train += count_zeros(b)
        ends[s, 0], ends[s, 1], ends[s, 2] = top, low, least
        saturated += cut
        longest, pending = max(longest, length), pending + 1
        if pending == _SEQUENCES:
            _flush(tiles, pairs, longest)
            pending, longest = 0, 0
    _flush(tiles, pairs, longest)
    return equal, zero_rollout, zero_train, saturated


@njit(**EXACT)
def column_pass(  # type: ignore[no-untyped-def]
    values, offsets, sums, ends, pairs, maxima, histogram, shift, offset
):
    """Sum, smallest and largest value per sequence; sums, squares and maxima by position."""
    bins = np.empty(TILE, np.int64)
    tiles = np.zeros((pairs.shape[0], pairs.shape[2]))
    pending, longest = 0, 0
    for s in range(offsets.size - 1):
        start, length = offsets[s], offsets[s + 1] - offsets[s]
        total, low, high = 0.0, np.inf, -np.inf
        for t in range(0, length, TILE):
            m = min(TILE, length - t)
            tile = values[start + t : start + t + m]
            part, small, large = sum_and_range(tile)
            total, low, high = total + part, min(low, small), max(high, large)
            add_with_square(tile, tiles[0, t : t + m], tiles[1, t : t + m])
            raise_to_abs(tile, maxima[t : t + m])
            count_bins(tile, shift, offset, bins[:m], histogram)
        sums[s], ends[s, 0], ends[s, 1] = total, low, high
        longest, pending = max(longest, length), pending + 1
        if pending == _SEQUENCES:
            _flush(tiles, pairs, longest)
            pending, longest = 0, 0
    _flush(tiles, pairs, longest)


@njit(**EXACT)
def path_pass(  # type: ignore[no-untyped-def]
    rollout, train, chi2, offsets, cap, budgets, residual, crossed, stopped
):
    """Walk every path: prefix weights, and where the running sum of chi2 exceeds each budget.

    Sets ``residual`` to the sums of ``(W_{t-1} - 1)^2 chi2`` and adds to ``crossed`` and to the
    pairs ``stopped`` (4, 2, budgets) of weight, its square, tail and its square.
    """
    before, square = np.empty(TILE), np.empty(TILE)
    weights, spent_before = np.empty(budgets.size), np.empty(budgets.size)
    for s in range(offsets.size - 1):
        start, length = offsets[s], offsets[s + 1] - offsets[s]
        log_weight, spent, total, hit = 0.0, 0.0, 0.0, 0
        for t in range(0, length, TILE):
            m = min(TILE, length - t)
            for i in range(m):
                before[i] = min(log_weight, cap)
                log_weight += train[start + t + i] - rollout[start + t + i]
            set_weight_residual(before[:m], square[:m])
            total += dot(square[:m], chi2[start + t : start + t + m])
            for i in range(m):
                after = spent + chi2[start + t + i]
                while hit < budgets.size and after > budgets[hit]:
                    weights[hit], spent_before[hit] = np.exp(before[i]), spent
                    hit += 1
                spent = after
        residual[s] = total
        for j in range(hit):
            tail = max(spent - spent_before[j], 0.0)
            crossed[j] += 1
            add_compensated(stopped[0], j, weights[j])
            add_compensated(stopped[1], j, weights[j] * weights[j])
            add_compensated(stopped[2], j, tail)
            add_compensated(stopped[3], j, tail * tail)


@njit(**EXACT)
def excess_pass(kl, chi2):  # type: ignore[no-untyped-def]
    """Return where ``kl - log(1 + chi2)`` is largest, its value, and how often it is above 0."""
    best, place, above = -np.inf, 0, 0
    for i in range(kl.size):
        c = chi2[i]
        # log(1 + c) >= c - c^2 / 2: most tokens need no logarithm.
        if kl[i] - c + 0.5 * c * c <= min(best, 0.0):
            continue
        value = kl[i] - np.log1p(c)
        above += value > 0.0
        if value > best:
            best, place = value, i
    return place, best, above


@njit(**EXACT)
def _improve(tile, start, best, place):  # type: ignore[no-untyped-def]
    _, _, high = sum_and_range(tile)
    if high > best:
        best = high
        for i in range(tile.size):
            if tile[i] == high:
                place = start + i
                break
    return best, place


@njit(**EXACT)
def root_pass(values, squares, factor):  # type: ignore[no-untyped-def]
    """Return where ``values - sqrt(factor squares)`` is largest, and its value."""
    out = np.empty(TILE)
    best, place = -np.inf, 0
    for t in range(0, values.size, TILE):
        tile = out[: min(TILE, values.size - t)]
        set_excess_over_root(values[t : t + tile.size], squares[t : t + tile.size], factor, tile)
        best, place = _improve(tile, t, best, place)
    return place, best


@njit(**EXACT)
def quotient_pass(above, below, tiny):  # type: ignore[no-untyped-def]
    """Return where ``above / below`` (0 where below <= tiny) is largest, and its value."""
    out = np.empty(TILE)
    best, place = -np.inf, 0
    for t in range(0, above.size, TILE):
        tile = out[: min(TILE, above.size - t)]
        set_quotient(above[t : t + tile.size], below[t : t + tile.size], tiny, tile)
        best, place = _improve(tile, t, best, place)
    return place, best


@njit(**EXACT)
def _add_moments(pair, first, n, sx, sy, xx, yy, xy):  # type: ignore[no-untyped-def]
    add_compensated(pair, first, n)
    add_compensated(pair, first + 1, sx)
    add_compensated(pair, first + 2, sy)
    add_compensated(pair, first + 3, xx)
    add_compensated(pair, first + 4, yy)
    add_compensated(pair, first + 5, xy)


@njit(**EXACT)
def moments_pass(rollout, train, offsets, lags, offset):  # type: ignore[no-untyped-def]
    """Moments of pairs of log-probabilities at lags -1, 0, 1 within sequences.

    Adds to the pairs ``lags`` (2, 18): count, sums of the rollout and training values, their
    squares and their products at each lag; and to ``offset`` (2, 2): log rho and its square.
    """
    for s in range(offsets.size - 1):
        x, y = rollout[offsets[s] : offsets[s + 1]], train[offsets[s] : offsets[s + 1]]
        n = x.size
        if n == 0:
            continue
        sx, sy, xx, yy, xy, dd = sums_of_pairs(x, y)
        add_compensated(offset, 0, sy - sx)
        add_compensated(offset, 1, dd)
        _add_moments(lags, 6, n, sx, sy, xx, yy, xy)
        if n == 1:
            continue
        # Lag 1 pairs x[:-1] with y[1:], lag -1 the other way round.
        a, b, c, d = x[0], x[n - 1], y[0], y[n - 1]
        xy = dot(x[1:], y[:-1])
        _add_moments(lags, 0, n - 1, sx - a, sy - d, xx - a * a, yy - d * d, xy)
        xy = dot(x[:-1], y[1:])
        _add_moments(lags, 12, n - 1, sx - b, sy - c, xx - b * b, yy - c * c, xy)
