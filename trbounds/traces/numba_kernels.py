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
    count_zeros_beside,
    dot,
    flush_into,
    largest,
    largest_prefix,
    raise_to_abs,
    range_of_sizes,
    set_excess_over_root,
    set_log_ratio,
    set_quotient,
    set_ratio,
    set_weight_residual,
    squares_of_pairs,
    sum_values,
    sums_of_ratio,
)

TILE = 512
_SEQUENCES = 128
"""Sequences whose values at a position are added without compensation."""


@njit(**EXACT)
def _flush(tiles, pairs, size):  # type: ignore[no-untyped-def]
    for j in range(len(pairs)):
        flush_into(tiles[j], pairs[j][0], pairs[j][1], size)


@njit(**EXACT)
def _add_moments(pair, first, n, sx, sy, xx, yy, xy):  # type: ignore[no-untyped-def]
    high, low = pair
    for j, value in enumerate((n, sx, sy, xx, yy, xy)):
        add_compensated(high, low, first + j, value)


@njit(**EXACT)
def _add_sequence(x, y, sx, difference, products, lags, offset):  # type: ignore[no-untyped-def]
    """Add the moments of one sequence at lags -1, 0, 1 from its sums over all tokens."""
    n, sy = float(x.size), sx + difference
    xx, yy, xy, dd, after, before = products
    add_compensated(offset[0], offset[1], 0, difference)
    add_compensated(offset[0], offset[1], 1, dd)
    _add_moments(lags, 6, n, sx, sy, xx, yy, xy)
    if x.size == 1:
        return
    # Lag 1 pairs x[:-1] with y[1:], lag -1 the other way round.
    a, b, c, d = x[0], x[-1], y[0], y[-1]
    _add_moments(lags, 0, n - 1.0, sx - a, sy - d, xx - a * a, yy - d * d, after)
    _add_moments(lags, 12, n - 1.0, sx - b, sy - c, xx - b * b, yy - c * c, before)


@njit(**EXACT)
def ratio_pass(  # type: ignore[no-untyped-def]
    rollout, train, offsets, limits, sums, ends, pairs, maxima, histograms, bin_of, lags, offset
):
    """Everything that the two log-probabilities give.

    Adds to what is there, except for ``ends``, which it sets.

    Parameters
    ----------
    limits : (cap, certain)
        The logarithm at which prefix weights are cut; the log-probability below which a zero of
        the other policy is a filler.
    sums, ends : (n, 6), (n, 3)
        Per sequence, what :func:`sums_of_ratio` names; the largest and the smallest |log rho| and
        the smallest k3.
    pairs : 6 pairs of (T,) and (T,)
        By position rho - 1, its absolute value, square and fourth power, k3 and its square.
    maxima : (T,)
        By position the largest |log rho|.
    histograms, bin_of : pair of counts, (shift, offset)
        Of |log rho| and k3, and how bins follow from bits.
    lags, offset : pairs of (18,), pairs of (2,)
        Count, sums of the rollout and training values, their squares and their products at lags
        -1, 0, 1 within sequences; log rho and its square.

    Returns
    -------
    tuple of int
        As the first six of ``TokenCounts``.
    """
    x, ratio, k3 = np.empty(TILE), np.empty(TILE), np.empty(TILE)
    bins = np.empty(TILE, np.int64)
    tiles = np.zeros((len(pairs), maxima.size))
    (cap, certain), (shift, lowest) = limits, bin_of
    equal, zero_rollout, zero_train, saturated = 0, 0, 0, 0
    filled_rollout, filled_train = 0, 0
    pending, longest = 0, 0
    for s in range(offsets.size - 1):
        start, stop = offsets[s], offsets[s + 1]
        top, low, least = 0.0 if stop > start else -np.inf, np.inf, np.inf
        log_weight, cut = 0.0, False
        xx, yy, xy, dd, after, before = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for first in range(start, stop, TILE):
            last = min(first + TILE, stop)
            t, m = first - start, last - first
            a, b = rollout[first:last], train[first:last]
            xs, es, ks = x[:m], ratio[:m], k3[:m]
            set_log_ratio(b, a, xs)
            small, high = range_of_sizes(xs)
            set_ratio(xs, high, es, ks)
            step, size = sums_of_ratio(xs, es, ks, a, s, sums)
            if log_weight + size > cap:
                cut |= largest_prefix(xs, log_weight) > cap
            log_weight += step
            top, low, least = max(top, high), min(low, small), min(least, range_of_sizes(ks)[0])
            add(es, tiles[0, t : t + m])
            add_abs(es, tiles[1, t : t + m])
            add_squares(es, tiles[2, t : t + m], tiles[3, t : t + m])
            add_with_square(ks, tiles[4, t : t + m], tiles[5, t : t + m])
            raise_to_abs(xs, maxima[t : t + m])
            count_bins(xs, shift, lowest, bins[:m], histograms[0])
            count_bins(ks, shift, lowest, bins[:m], histograms[1])
            equal += count_zeros(xs)
            zeros = count_zeros(a)
            if zeros:
                zero_rollout += zeros
                filled_rollout += count_zeros_beside(a, b, certain)
            zeros = count_zeros(b)
            if zeros:
                zero_train += zeros
                filled_train += count_zeros_beside(b, a, certain)
            part = squares_of_pairs(a, b)
            xx, yy, xy, dd = xx + part[0], yy + part[1], xy + part[2], dd + part[3]
            # The last token before the tile has a partner in it.
            back = max(first - 1, start)
            after += dot(rollout[back + 1 : last], train[back : last - 1])
            before += dot(rollout[back : last - 1], train[back + 1 : last])
        if stop > start:
            products = (xx, yy, xy, dd, after, before)
            own = slice(start, stop)
            _add_sequence(rollout[own], train[own], sums[s, 5], sums[s, 0], products, lags, offset)
        ends[s, 0], ends[s, 1], ends[s, 2] = top, low, least
        saturated += cut
        longest, pending = max(longest, stop - start), pending + 1
        if pending == _SEQUENCES:
            _flush(tiles, pairs, longest)
            pending, longest = 0, 0
    _flush(tiles, pairs, longest)
    return equal, zero_rollout, zero_train, saturated, filled_rollout, filled_train


@njit(**EXACT)
def column_pass(  # type: ignore[no-untyped-def]
    values, offsets, sums, ends, pairs, maxima, histogram, bin_of
):
    """Sum, smallest and largest value per sequence; sums, squares and maxima by position.

    Of values of one sign. Sets ``sums`` (n,) and ``ends`` (n, 2), adds to the others.
    """
    bins = np.empty(TILE, np.int64)
    tiles = np.zeros((len(pairs), maxima.size))
    shift, lowest = bin_of
    pending, longest = 0, 0
    for s in range(offsets.size - 1):
        start, length = offsets[s], offsets[s + 1] - offsets[s]
        total, low, high = 0.0, np.inf, 0.0 if length else -np.inf
        for t in range(0, length, TILE):
            m = min(TILE, length - t)
            tile = values[start + t : start + t + m]
            small, large = range_of_sizes(tile)
            total, low, high = total + sum_values(tile), min(low, small), max(high, large)
            add_with_square(tile, tiles[0, t : t + m], tiles[1, t : t + m])
            raise_to_abs(tile, maxima[t : t + m])
            count_bins(tile, shift, lowest, bins[:m], histogram)
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
    four pairs ``stopped`` of weight, its square, tail and its square, by budget.
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
            for k, value in enumerate((weights[j], weights[j] ** 2, tail, tail**2)):
                add_compensated(stopped[k][0], stopped[k][1], j, value)


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
    high = largest(tile)
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
