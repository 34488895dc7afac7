"""Short loops over a tile of tokens, compiled by numba: what the passes are made of.

The compiler turns each into vector instructions. Only loops that add up or compare let it reorder
operations (`SUM`); it may assume there that nothing is NaN, because batches are validated.
Exponentials and compensated sums must not be reordered (`EXACT`).

numba keeps compiled passes on disk and does not notice that a loop they call was edited here: see
`trbounds.numba_exponential`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from trbounds.numba_exponential import COMMON, EXACT, UNREDUCED, exp_residual, reduce_exponent

SUM: dict[str, Any] = {**COMMON, "fastmath": {"contract", "reassoc", "nsz", "nnan"}}

# Largest and smallest values are taken of the bits of floats, as whole numbers: the compiler makes
# vector instructions of that, and of comparisons of floats it does not.
_WITHOUT_SIGN = np.int64(0x7FFFFFFFFFFFFFFF)
_INFINITY = np.int64(0x7FF0000000000000)


@njit(**EXACT)
def set_log_ratio(train, rollout, out):  # type: ignore[no-untyped-def]
    """Set ``log rho``."""
    for i in range(train.size):
        out[i] = train[i] - rollout[i]


@njit(**EXACT)
def ratio_of(x):  # type: ignore[no-untyped-def]
    """Return ``rho - 1`` and ``rho - 1 - log rho``, without cancellation; infinite beyond e^700."""
    r, q, scale, k = reduce_exponent(max(x, -700.0))
    excess = scale * (r + q) + (scale - 1.0)
    excess = np.inf if x > 700.0 else excess
    return excess, q if k == 0.0 else excess - x


@njit(**EXACT)
def ratio_of_small(x):  # type: ignore[no-untyped-def]
    """As `ratio_of` and as exact, of ``|x| <= UNREDUCED``, in half the time."""
    q = exp_residual(x)
    return x + q, q


@njit(**EXACT)
def set_ratio(x, size, ratio, k3):  # type: ignore[no-untyped-def]
    """Set ``rho - 1`` and ``rho - 1 - log rho``; ``size`` is the largest of ``|x|``."""
    if size <= UNREDUCED:
        for i in range(x.size):
            ratio[i], k3[i] = ratio_of_small(x[i])
    else:
        for i in range(x.size):
            ratio[i], k3[i] = ratio_of(x[i])


@njit(**EXACT)
def set_weight_residual(before, out):  # type: ignore[no-untyped-def]
    """Set ``(W - 1)^2`` from ``log W``."""
    for i in range(before.size):
        r, q, scale, _ = reduce_exponent(max(before[i], -700.0))
        excess = scale * (r + q) + (scale - 1.0)
        out[i] = excess * excess


@njit(**EXACT)
def magnitude(value):  # type: ignore[no-untyped-def]
    """Return the bits of the absolute value: whole numbers in the order of the values."""
    return np.float64(value).view(np.int64) & _WITHOUT_SIGN


@njit(**EXACT)
def from_bits(bits):  # type: ignore[no-untyped-def]
    """Return the float64 with these bits."""
    return np.int64(bits).view(np.float64)


@njit(**EXACT)
def ordered_bits(value):  # type: ignore[no-untyped-def]
    """Return whole numbers in the order of the values, which may be of either sign."""
    bits = np.float64(value).view(np.int64)
    # Turned round where the value is negative.
    return bits ^ ((bits >> 63) & _WITHOUT_SIGN)


@njit(**EXACT)
def from_ordered_bits(bits):  # type: ignore[no-untyped-def]
    """Return the float64 of which these are the :func:`ordered_bits`."""
    return from_bits(bits ^ ((bits >> 63) & _WITHOUT_SIGN))


@njit(**SUM)
def sums_of_ratio(x, ratio, k3, rollout, row, sums):  # type: ignore[no-untyped-def]
    """Add to the sums of a sequence: log rho, rho - 1, its absolute value and square, k3, log mu.

    Return the sums of log rho and of |log rho|.
    """
    s0, s1, s2, s3, s4, s5, size = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        e = ratio[i]
        s0 += x[i]
        s1 += e
        s2 += abs(e)
        s3 += e * e
        s4 += k3[i]
        s5 += rollout[i]
        size += abs(x[i])
    sums[row, 0] += s0
    sums[row, 1] += s1
    sums[row, 2] += s2
    sums[row, 3] += s3
    sums[row, 4] += s4
    sums[row, 5] += s5
    return s0, size


@njit(**EXACT)
def range_of_sizes(values):  # type: ignore[no-untyped-def]
    """Return the smallest and the largest absolute value; infinity and 0 without values."""
    low, high = _INFINITY, 0
    for i in range(values.size):
        bits = magnitude(values[i])
        low = min(low, bits)
        high = max(high, bits)
    return from_bits(low), from_bits(high)


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
def count_zeros_beside(values, others, limit):  # type: ignore[no-untyped-def]
    """Count the zeros where the other value is below a limit."""
    count = 0
    for i in range(values.size):
        count += (values[i] == 0.0) & (others[i] < limit)
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
def sum_values(values):  # type: ignore[no-untyped-def]
    """Return the sum."""
    found = 0.0
    for i in range(values.size):
        found += values[i]
    return found


@njit(**EXACT)
def largest(values):  # type: ignore[no-untyped-def]
    """Return the largest value, of either sign."""
    top = ~_WITHOUT_SIGN
    for i in range(values.size):
        top = max(top, ordered_bits(values[i]))
    return from_ordered_bits(top)


@njit(**EXACT)
def count_bins(values, shift, offset, bins, counts):  # type: ignore[no-untyped-def]
    """Count absolute values in the bins that the leading bits of a float64 name."""
    last = counts.size - 1
    for i in range(values.size):
        bins[i] = min(max((magnitude(values[i]) >> shift) - offset, 0), last)
    for i in range(values.size):
        # Of an unsigned index the compiler need not ask whether it counts from the end.
        counts[np.uint64(bins[i])] += 1


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
def add_compensated(high, low, j, value):  # type: ignore[no-untyped-def]
    """Add to entry j of a sum and its rounding error (two-sum)."""
    before = high[j]
    after = before + value
    rounded = after - before
    low[j] += (before - (after - rounded)) + (value - rounded)
    high[j] = after


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
def squares_of_pairs(x, y):  # type: ignore[no-untyped-def]
    """Return the sums of x^2, y^2, x y and (y - x)^2."""
    xx, yy, xy, dd = 0.0, 0.0, 0.0, 0.0
    for i in range(x.size):
        a, b = x[i], y[i]
        xx += a * a
        yy += b * b
        xy += a * b
        dd += (b - a) * (b - a)
    return xx, yy, xy, dd
