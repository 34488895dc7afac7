"""Short loops over a tile of tokens, compiled by numba: what the passes are made of.

The compiler turns each into vector instructions. Only loops that add up or compare let it reorder
operations (`SUM`); it may assume there that nothing is NaN, because batches are validated.
Exponentials and compensated sums must not be reordered (`EXACT`).

numba keeps compiled passes on disk and does not notice that a loop they call was edited here:
delete ``__pycache__`` then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "EXACT",
    "SUM",
    "add",
    "add_abs",
    "add_compensated",
    "add_squares",
    "add_with_square",
    "count_bins",
    "count_zeros",
    "dot",
    "flush_into",
    "largest_prefix",
    "raise_to_abs",
    "set_excess_over_root",
    "set_log_ratio",
    "set_quotient",
    "set_ratio",
    "set_weight_residual",
    "sum_and_range",
    "sums_of_pairs",
    "sums_of_ratio",
]

_COMMON: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
EXACT: dict[str, Any] = {**_COMMON, "fastmath": {"contract"}}
SUM: dict[str, Any] = {**_COMMON, "fastmath": {"contract", "reassoc", "nsz", "nnan"}}

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


@njit(**EXACT)
def _reduce(x):  # type: ignore[no-untyped-def]
    """Return r, exp(r) - 1 - r, 2^k and k, for |x| < 708."""
    t = x * _LOG2E + _ROUND
    k = t - _ROUND
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    p = ((((_P9 * r + _P8) * r + _P7) * r + _P6) * r + _P5) * r + _P4
    q = ((((p * r + _P3) * r + _P2) * r + _P1) * r + _P0) * r * r
    scale = np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)
    return r, q, scale, k


@njit(**EXACT)
def set_log_ratio(train, rollout, out):  # type: ignore[no-untyped-def]
    """Set ``log rho``."""
    for i in range(train.size):
        out[i] = train[i] - rollout[i]


@njit(**EXACT)
def set_ratio(x, ratio, k3):  # type: ignore[no-untyped-def]
    """Set ``rho - 1`` and ``rho - 1 - log rho``, both without cancellation."""
    for i in range(x.size):
        r, q, scale, k = _reduce(max(x[i], -700.0))
        excess = scale * (r + q) + (scale - 1.0)
        ratio[i] = excess
        k3[i] = q if k == 0.0 else excess - x[i]


@njit(**EXACT)
def set_weight_residual(before, out):  # type: ignore[no-untyped-def]
    """Set ``(W - 1)^2`` from ``log W``."""
    for i in range(before.size):
        r, q, scale, _ = _reduce(max(before[i], -700.0))
        excess = scale * (r + q) + (scale - 1.0)
        out[i] = excess * excess


@njit(**SUM)
def sums_of_ratio(x, ratio, k3, rollout, row, sums):  # type: ignore[no-untyped-def]
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


@njit(**EXACT)
def largest_prefix(x, log_weight):  # type: ignore[no-untyped-def]
    """Largest sum before a token, the sum before the first being given."""
    largest = log_weight
    for i in range(x.size - 1):
        log_weight += x[i]
        largest = max(largest, log_weight)
    return largest


@njit(**SUM)
def count_zeros(values):  # type: ignore[no-untyped-def]
    """Count the zeros."""
    count = 0
    for i in range(values.size):
        count += values[i] == 0.0
    return count


@njit(**SUM)
def add(values, into):  # type: ignore[no-untyped-def]
    """Add to the sums by position."""
    for i in range(values.size):
        into[i] += values[i]


@njit(**SUM)
def add_abs(values, into):  # type: ignore[no-untyped-def]
    """Add the absolute values to the sums by position."""
    for i in range(values.size):
        into[i] += abs(values[i])


@njit(**SUM)
def add_squares(values, squares, fourth):  # type: ignore[no-untyped-def]
    """Add the second and the fourth powers to the sums by position."""
    for i in range(values.size):
        square = values[i] * values[i]
        squares[i] += square
        fourth[i] += square * square


@njit(**SUM)
def add_with_square(values, into, squares):  # type: ignore[no-untyped-def]
    """Add the values and their squares to the sums by position."""
    for i in range(values.size):
        into[i] += values[i]
        squares[i] += values[i] * values[i]


@njit(**SUM)
def raise_to_abs(values, into):  # type: ignore[no-untyped-def]
    """Raise the maxima by position to the absolute values."""
    for i in range(values.size):
        into[i] = max(into[i], abs(values[i]))


@njit(**SUM)
def sum_and_range(values):  # type: ignore[no-untyped-def]
    """Return the sum, the smallest and the largest."""
    total, low, high = 0.0, np.inf, -np.inf
    for i in range(values.size):
        total += values[i]
        low = min(low, values[i])
        high = max(high, values[i])
    return total, low, high


@njit(**EXACT)
def count_bins(values, shift, offset, bins, counts):  # type: ignore[no-untyped-def]
    """Count absolute values in the bins that the leading bits of a float64 name."""
    last = counts.size - 1
    for i in range(values.size):
        bits = np.float64(abs(values[i])).view(np.int64)
        bins[i] = min(max((bits >> shift) - offset, 0), last)
    for i in range(values.size):
        counts[bins[i]] += 1


@njit(**EXACT)
def flush_into(tile, high, low, size):  # type: ignore[no-untyped-def]
    """Add ``size`` sums to their pairs (two-sum) and clear them."""
    for i in range(size):
        value = tile[i]
        total = high[i] + value
        rounded = total - high[i]
        low[i] += (high[i] - (total - rounded)) + (value - rounded)
        high[i] = total
        tile[i] = 0.0


@njit(**EXACT)
def add_compensated(pair, j, value):  # type: ignore[no-untyped-def]
    """Add to entry j of a pair of sum and rounding error (two-sum)."""
    high = pair[0, j]
    total = high + value
    rounded = total - high
    pair[1, j] += (high - (total - rounded)) + (value - rounded)
    pair[0, j] = total


@njit(**SUM)
def dot(a, b):  # type: ignore[no-untyped-def]
    """Return the sum of the products."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(**EXACT)
def set_excess_over_root(values, squares, factor, out):  # type: ignore[no-untyped-def]
    """Set ``values - sqrt(factor squares)``."""
    for i in range(values.size):
        out[i] = values[i] - np.sqrt(factor * squares[i])


@njit(**EXACT)
def set_quotient(above, below, tiny, out):  # type: ignore[no-untyped-def]
    """Set ``above / below``, 0 where below is at most tiny."""
    for i in range(above.size):
        out[i] = above[i] / below[i] if below[i] > tiny else 0.0


@njit(**SUM)
def sums_of_pairs(x, y):  # type: ignore[no-untyped-def]
    """Return the sums of x, y, x^2, y^2, x y and (y - x)^2."""
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
