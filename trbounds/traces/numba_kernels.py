"""The token pass, compiled by numba (the extra ``fast``).

Sequences are walked in tiles of tokens that stay in the first-level cache; a tile is a few short
loops that the compiler turns into vector instructions. Sums by position are taken over a few
sequences at a time and then added to compensated pairs, so that nothing grows with the batch.

Only loops that add up or compare let the compiler reorder operations (`_SUM`); it may assume
there that nothing is NaN, because batches are validated. Exponentials and compensated sums must
not be reordered (`_EXACT`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "column_pass",
    "excess_pass",
    "moments_pass",
    "path_pass",
    "quotient_pass",
    "ratio_pass",
    "root_pass",
]

_COMMON: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_EXACT: dict[str, Any] = {**_COMMON, "fastmath": {"contract"}}
_SUM: dict[str, Any] = {**_COMMON, "fastmath": {"contract", "reassoc", "nsz", "nnan"}}

TILE = 512
_SEQUENCES = 32
"""Sequences whose values at a position are added without compensation."""

# exp(x) = 2^k exp(r) with k the nearest integer to x / log 2. Adding and subtracting 1.5 * 2^52
# rounds to an integer, and leaves k in the low bits. log 2 is split so that k * _LN2_HIGH is
# exact. exp(r) - 1 - r = r^2 P(r) on |r| <= log(2)/2: Chebyshev fit, relative error 2e-16.
_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_ROUND = 6755399441055744.0
_P0, _P1, _P2, _P3, _P4 = (
    0.5000000000000001,
    0.1666666666666667,
    0.04166666666662399,
    0.008333333333326112,
    0.001388888891728367,
)
_P5, _P6, _P7, _P8, _P9 = (
    0.00019841269874902947,
    2.4801521187721228e-05,
    2.755725529609744e-06,
    2.7620139757939593e-07,
    2.5105260230519278e-08,
)


@njit(**_EXACT)
def _reduce(x):  # type: ignore[no-untyped-def]
    """Return r, exp(r) - 1 - r, 2^k and k, for |x| < 708."""
    t = x * _LOG2E + _ROUND
    k = t - _ROUND
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    p = ((((_P9 * r + _P8) * r + _P7) * r + _P6) * r + _P5) * r + _P4
    q = ((((p * r + _P3) * r + _P2) * r + _P1) * r + _P0) * r * r
    scale = np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)
    return r, q, scale, k


@njit(**_EXACT)
def _log_ratio(train, rollout, out):  # type: ignore[no-untyped-def]
    for i in range(train.size):
        out[i] = train[i] - rollout[i]


@njit(**_EXACT)
def _ratio(x, ratio, k3):  # type: ignore[no-untyped-def]
    """Set ``rho - 1`` and ``rho - 1 - log rho``, both without cancellation."""
    for i in range(x.size):
        r, q, scale, k = _reduce(max(x[i], -700.0))
        excess = scale * (r + q) + (scale - 1.0)
        ratio[i] = excess
        k3[i] = q if k == 0.0 else excess - x[i]


@njit(**_EXACT)
def _weight_residual(before, out):  # type: ignore[no-untyped-def]
    """Set ``(W - 1)^2`` from ``log W``."""
    for i in range(before.size):
        r, q, scale, _ = _reduce(max(before[i], -700.0))
        excess = scale * (r + q) + (scale - 1.0)
        out[i] = excess * excess


@njit(**_SUM)
def _sums_of_ratio(x, ratio, k3, rollout, row, sums):  # type: ignore[no-untyped-def]
    """Add to the sums of a sequence: log rho, rho - 1, its absolute value and square, k3, log mu.

    Return the sums of log rho and of |log rho|, the largest and smallest |log rho| and the
    smallest k3.
    """
    s0, s1, s2, s3, s4, s5 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        e = ratio[i]
        s0 += x[i]
        s1 += e
        s2 += abs(e)
        s3 += e * e
        s4 += k3[i]
        s5 += rollout[i]
    sums[row, 0] += s0
    sums[row, 1] += s1
    sums[row, 2] += s2
    sums[row, 3] += s3
    sums[row, 4] += s4
    sums[row, 5] += s5
    size, top, low, least = 0.0, 0.0, np.inf, np.inf
    for i in range(x.size):
        a = abs(x[i])
        size += a
        top = max(top, a)
        low = min(low, a)
        least = min(least, k3[i])
    return s0, size, top, low, least


@njit(**_EXACT)
def _largest_prefix(x, log_weight):  # type: ignore[no-untyped-def]
    """Largest sum before a token, the sum before the first being given."""
    largest = log_weight
    for i in range(x.size - 1):
        log_weight += x[i]
        largest = max(largest, log_weight)
    return largest


@njit(**_SUM)
def _count_zeros(values):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(values.size):
        count += values[i] == 0.0
    return count


@njit(**_SUM)
def _add(values, into):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        into[i] += values[i]


@njit(**_SUM)
def _add_abs(values, into):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        into[i] += abs(values[i])


@njit(**_SUM)
def _add_squares(values, squares, fourth):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        square = values[i] * values[i]
        squares[i] += square
        fourth[i] += square * square


@njit(**_SUM)
def _add_with_square(values, into, squares):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        into[i] += values[i]
        squares[i] += values[i] * values[i]


@njit(**_SUM)
def _raise_to_abs(values, into):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        into[i] = max(into[i], abs(values[i]))


@njit(**_SUM)
def _sum_and_range(values):  # type: ignore[no-untyped-def]
    total, low, high = 0.0, np.inf, -np.inf
    for i in range(values.size):
        total += values[i]
        low = min(low, values[i])
        high = max(high, values[i])
    return total, low, high


@njit(**_EXACT)
def _count_bins(values, shift, offset, bins, counts):  # type: ignore[no-untyped-def]
    """Count absolute values in the bins that the leading bits of a float64 name."""
    last = counts.size - 1
    for i in range(values.size):
        bits = np.float64(abs(values[i])).view(np.int64)
        bins[i] = min(max((bits >> shift) - offset, 0), last)
    for i in range(values.size):
        counts[bins[i]] += 1


@njit(**_EXACT)
def _compensate(tile, high, low, size):  # type: ignore[no-untyped-def]
    """Add ``size`` sums to their pairs (two-sum) and clear them."""
    for i in range(size):
        value = tile[i]
        total = high[i] + value
        rounded = total - high[i]
        low[i] += (high[i] - (total - rounded)) + (value - rounded)
        high[i] = total
        tile[i] = 0.0


@njit(**_EXACT)
def _flush(tiles, pairs, size):  # type: ignore[no-untyped-def]
    for j in range(tiles.shape[0]):
        _compensate(tiles[j], pairs[j, 0], pairs[j, 1], size)


@njit(**_EXACT)
def ratio_pass(  # type: ignore[no-untyped-def]
    rollout, train, offsets, cap, sums, ends, pairs, maxima, log_bins, k3_bins, shift, offset
):
    """Everything that the two log-probabilities give.

    Per sequence ``sums`` (n, 6) and ``ends`` (n, 3) as :func:`_sums_of_ratio` names them; by
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
            _log_ratio(b, a, xs)
            _ratio(xs, es, ks)
            step, size, high, small, smallest = _sums_of_ratio(xs, es, ks, a, s, sums)
            if log_weight + size > cap:
                cut |= _largest_prefix(xs, log_weight) > cap
            log_weight += step
            top, low, least = max(top, high), min(low, small), min(least, smallest)
            _add(es, tiles[0, t : t + m])
            _add_abs(es, tiles[1, t : t + m])
            _add_squares(es, tiles[2, t : t + m], tiles[3, t : t + m])
            _add_with_square(ks, tiles[4, t : t + m], tiles[5, t : t + m])
            _raise_to_abs(xs, maxima[t : t + m])
            _count_bins(xs, shift, offset, bins[:m], log_bins)
            _count_bins(ks, shift, offset, bins[:m], k3_bins)
            equal += _count_zeros(xs)
            zero_rollout += _count_zeros(a)
            zero_train += _count_zeros(b)
        ends[s, 0], ends[s, 1], ends[s, 2] = top, low, least
        saturated += cut
        longest, pending = max(longest, length), pending + 1
        if pending == _SEQUENCES:
            _flush(tiles, pairs, longest)
            pending, longest = 0, 0
    _flush(tiles, pairs, longest)
    return equal, zero_rollout, zero_train, saturated


@njit(**_EXACT)
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
            part, small, large = _sum_and_range(tile)
            total, low, high = total + part, min(low, small), max(high, large)
            _add_with_square(tile, tiles[0, t : t + m], tiles[1, t : t + m])
            _raise_to_abs(tile, maxima[t : t + m])
            _count_bins(tile, shift, offset, bins[:m], histogram)
        sums[s], ends[s, 0], ends[s, 1] = total, low, high
        longest, pending = max(longest, length), pending + 1
        if pending == _SEQUENCES:
            _flush(tiles, pairs, longest)
            pending, longest = 0, 0
    _flush(tiles, pairs, longest)


@njit(**_EXACT)
def _add_scalar(pair, j, value):  # type: ignore[no-untyped-def]
    high = pair[0, j]
    total = high + value
    rounded = total - high
    pair[1, j] += (high - (total - rounded)) + (value - rounded)
    pair[0, j] = total


@njit(**_SUM)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(**_EXACT)
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
            _weight_residual(before[:m], square[:m])
            total += _dot(square[:m], chi2[start + t : start + t + m])
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
            _add_scalar(stopped[0], j, weights[j])
            _add_scalar(stopped[1], j, weights[j] * weights[j])
            _add_scalar(stopped[2], j, tail)
            _add_scalar(stopped[3], j, tail * tail)


@njit(**_EXACT)
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


@njit(**_EXACT)
def _excess_over_root(values, squares, factor, out):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        out[i] = values[i] - np.sqrt(factor * squares[i])


@njit(**_EXACT)
def _quotient(above, below, tiny, out):  # type: ignore[no-untyped-def]
    for i in range(above.size):
        out[i] = above[i] / below[i] if below[i] > tiny else 0.0


@njit(**_EXACT)
def _improve(tile, start, best, place):  # type: ignore[no-untyped-def]
    _, _, high = _sum_and_range(tile)
    if high > best:
        best = high
        for i in range(tile.size):
            if tile[i] == high:
                place = start + i
                break
    return best, place


@njit(**_EXACT)
def root_pass(values, squares, factor):  # type: ignore[no-untyped-def]
    """Return where ``values - sqrt(factor squares)`` is largest, and its value."""
    out = np.empty(TILE)
    best, place = -np.inf, 0
    for t in range(0, values.size, TILE):
        tile = out[: min(TILE, values.size - t)]
        _excess_over_root(values[t : t + tile.size], squares[t : t + tile.size], factor, tile)
        best, place = _improve(tile, t, best, place)
    return place, best


@njit(**_EXACT)
def quotient_pass(above, below, tiny):  # type: ignore[no-untyped-def]
    """Return where ``above / below`` (0 where below <= tiny) is largest, and its value."""
    out = np.empty(TILE)
    best, place = -np.inf, 0
    for t in range(0, above.size, TILE):
        tile = out[: min(TILE, above.size - t)]
        _quotient(above[t : t + tile.size], below[t : t + tile.size], tiny, tile)
        best, place = _improve(tile, t, best, place)
    return place, best


@njit(**_SUM)
def _moments(x, y):  # type: ignore[no-untyped-def]
    sx, sy, xx, yy, xy, dd = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        a, b = x[i], y[i]
        sx += a
        sy += b
        xx += a * a
        yy += b * b
        xy += a * b
        dd += (b - a) * (b - a)
    return sx, sy, xx, yy, xy, dd


@njit(**_EXACT)
def _add_moments(pair, first, n, sx, sy, xx, yy, xy):  # type: ignore[no-untyped-def]
    _add_scalar(pair, first, n)
    _add_scalar(pair, first + 1, sx)
    _add_scalar(pair, first + 2, sy)
    _add_scalar(pair, first + 3, xx)
    _add_scalar(pair, first + 4, yy)
    _add_scalar(pair, first + 5, xy)


@njit(**_EXACT)
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
        sx, sy, xx, yy, xy, dd = _moments(x, y)
        _add_scalar(offset, 0, sy - sx)
        _add_scalar(offset, 1, dd)
        _add_moments(lags, 6, n, sx, sy, xx, yy, xy)
        if n == 1:
            continue
        # Lag 1 pairs x[:-1] with y[1:], lag -1 the other way round.
        a, b, c, d = x[0], x[n - 1], y[0], y[n - 1]
        xy = _dot(x[1:], y[:-1])
        _add_moments(lags, 0, n - 1, sx - a, sy - d, xx - a * a, yy - d * d, xy)
        xy = _dot(x[:-1], y[1:])
        _add_moments(lags, 12, n - 1, sx - b, sy - c, xx - b * b, yy - c * c, xy)
