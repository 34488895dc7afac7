"""Divergences of rows of a large vocabulary, compiled by numba (the extra ``fast``).

The same passes as in `trbounds.logits.numpy_kernel`, one row at a time and fused: a block of logits
is widened into a buffer that stays in the first-level cache, and every exponential is a polynomial
that the compiler turns into vector instructions. Rows with -inf, NaN or huge ratios, which are
rare, are handed to the numpy kernel.

Only the loops that add up let the compiler reorder operations (`_SUM`); the functions that reduce
the argument of an exponential must not be reordered (`_EXACT`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trbounds.logits.numpy_kernel import COLUMNS, CORRECT_BELOW, LOG_RATIO_LIMIT, NumpyKernel

__all__ = ["NumbaKernel"]

_COMMON: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_EXACT: dict[str, Any] = {**_COMMON, "fastmath": {"contract"}}
_SUM: dict[str, Any] = {**_COMMON, "fastmath": {"contract", "reassoc", "nsz"}}

BLOCK = 1024
# How 16-bit integers are to be read; numba itself has neither type.
_KINDS = {"float64": 0, "float32": 0, "bfloat16": 1, "float16": 2}

# exp(x) = 2^k exp(r) with k the nearest integer to x / log 2. Adding and subtracting 1.5 * 2^52
# rounds to an integer, and leaves k in the low bits. log 2 is split so that k * _LN2_HIGH is exact.
_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_ROUND = 6755399441055744.0
_ROUND32 = np.float32(12582912.0)
_LN2_HIGH32 = np.float32(0.693359375)
_LN2_LOW32 = np.float32(-2.12194440e-4)

# exp(r) - 1 - r = r^2 P(r) on |r| <= log(2)/2: Chebyshev fits, relative error 2e-16 and 1.4e-7.
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
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(0.5000000013502687),
    np.float32(0.16666576823488818),
    np.float32(0.0416664645720241),
    np.float32(0.008363205467522119),
    np.float32(0.0013933688358108833),
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
def _reduce32(x):  # type: ignore[no-untyped-def]
    """Return r, exp(r) - 1 - r, 2^k and k in float32, for |x| < 87."""
    t = x * np.float32(_LOG2E) + _ROUND32
    k = t - _ROUND32
    r = x - k * _LN2_HIGH32 - k * _LN2_LOW32
    q = ((((_Q4 * r + _Q3) * r + _Q2) * r + _Q1) * r + _Q0) * r * r
    bits = np.int32(np.float32(t).view(np.int32) + np.int32(127)) << np.int32(23)
    return r, q, np.int32(bits).view(np.float32), k


@njit(**_EXACT)
def _exp(x):  # type: ignore[no-untyped-def]
    r, q, scale, _ = _reduce(max(x, -708.0))
    return scale + scale * (r + q)


@njit(**_EXACT)
def _load(row, kind, out):  # type: ignore[no-untyped-def]
    """Widen a block of a row of floats, or of the bits of 16-bit floats."""
    if kind == 0:
        for i in range(out.size):
            out[i] = row[i]
    elif kind == 1:
        for i in range(out.size):
            bits = np.uint32(row[i]) << np.uint32(16)
            out[i] = np.uint32(bits).view(np.float32)
    else:
        for i in range(out.size):
            half = np.uint32(row[i])
            # The exponents differ by 112: shifted bits times 2^112, subnormal numbers included.
            bits = (half & np.uint32(0x7FFF)) << np.uint32(13)
            value = np.uint32(bits).view(np.float32) * np.float32(5.192296858534828e33)
            value = np.float32(np.inf) if value >= np.float32(65536.0) else value
            sign = (half & np.uint32(0x8000)) << np.uint32(16)
            out[i] = np.uint32(np.float32(value).view(np.uint32) | sign).view(np.float32)


# Compilers vectorise a maximum of integers but not, short of assuming that there are no NaN, one of
# floats. The bits of floats order like the floats once those of negative numbers are flipped; NaN
# with a clear sign bit comes out above infinity.


@njit(**_EXACT)
def _largest(a):  # type: ignore[no-untyped-def]
    top = np.int64(-0x7FFFFFFFFFFFFFFF)
    for i in range(a.size):
        bits = np.float64(a[i]).view(np.int64)
        top = max(top, bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF))
    return np.int64(top ^ ((top >> 63) & 0x7FFFFFFFFFFFFFFF)).view(np.float64)


@njit(**_EXACT)
def _largest_abs(a):  # type: ignore[no-untyped-def]
    top = np.int64(0)
    for i in range(a.size):
        top = max(top, np.float64(a[i]).view(np.int64) & 0x7FFFFFFFFFFFFFFF)
    return np.int64(top).view(np.float64)


@njit(**_SUM)
def _sum_exp(a, peak):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(a.size):
        total += _exp(a[i] - peak)
    return total


@njit(**_EXACT)
def _normaliser(row, kind, buffer):  # type: ignore[no-untyped-def]
    """Return the largest logit and the sum of exp(logit - largest): not finite for bad rows."""
    peak, total = -np.inf, 0.0
    for start in range(0, row.size, BLOCK):
        a = buffer[: min(BLOCK, row.size - start)]
        _load(row[start : start + BLOCK], kind, a)
        top = _largest(a)
        if top > peak:
            total *= math.exp(peak - top)
            peak = top
        total += _sum_exp(a, peak)
    return peak, total


@njit(**_SUM)
def _sum_terms(a, d, peak, sums):  # type: ignore[no-untyped-def]
    kl = reverse = tv = chi2 = entropy = excess = 0.0
    for i in range(a.size):
        logit = a[i] - peak
        r, q, scale, k = _reduce(max(d[i], -708.0))
        rise = (scale - 1.0) + scale * (r + q)
        weight = _exp(logit)
        difference = weight * rise
        kl += weight * (q if k == 0.0 else rise - d[i])
        reverse += difference * d[i]
        tv += abs(difference)
        chi2 += difference * rise
        entropy -= weight * logit
        excess += difference
    sums[0] += kl
    sums[1] += reverse - kl
    sums[2] += 0.5 * tv
    sums[3] += chi2
    sums[4] += entropy
    sums[7] += excess


@njit(**_SUM)
def _sum_terms32(a, d, sums):  # type: ignore[no-untyped-def]
    kl = reverse = tv = chi2 = entropy = excess = np.float32(0.0)
    one, floor = np.float32(1.0), np.float32(-87.0)
    for i in range(a.size):
        r, q, scale, _ = _reduce32(max(a[i], floor))
        weight = scale + scale * (r + q)
        r, q, scale, k = _reduce32(max(d[i], floor))
        rise = (scale - one) + scale * (r + q)
        difference = weight * rise
        kl += weight * (q if k == np.float32(0.0) else rise - d[i])
        reverse += difference * d[i]
        tv += abs(difference)
        chi2 += difference * rise
        entropy -= weight * a[i]
        excess += difference
    sums[0] += kl
    sums[1] += np.float64(reverse) - np.float64(kl)
    sums[2] += np.float32(0.5) * tv
    sums[3] += chi2
    sums[4] += entropy
    sums[7] += excess


@njit(**_EXACT)
def _log_ratio(a, b, shift, correction, d):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        d[i] = (b[i] - a[i]) - shift - correction


@njit(**_EXACT)
def _narrow(a, subtract, out):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        out[i] = a[i] - subtract


@njit(**_EXACT)
def _second_pass(x, y, kind, peak, shift, correction, single, wide, narrow, sums):  # type: ignore[no-untyped-def]
    """Add up one row; return the largest |log rho|, which is not finite where -inf was met."""
    largest = 0.0
    sums[:] = 0.0
    for start in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - start)
        a, b, d = wide[0, :n], wide[1, :n], wide[2, :n]
        _load(x[start : start + n], kind, a)
        _load(y[start : start + n], kind, b)
        _log_ratio(a, b, shift, correction, d)
        top = _largest_abs(d)
        if not top < np.inf:
            return np.inf
        largest = max(largest, top)
        if single:
            # Converted first: a loop over both widths would run at the speed of the wider.
            _narrow(a, peak, narrow[0, :n])
            _narrow(d, 0.0, narrow[1, :n])
            _sum_terms32(narrow[0, :n], narrow[1, :n], sums)
        else:
            _sum_terms(a, d, peak, sums)
    return largest


@njit(**_EXACT)
def _row(x, y, kind, single, correct_below, limit, wide, narrow, sums):  # type: ignore[no-untyped-def]
    """Write the sums of one row; return False if it needs the general formulas."""
    peak_x, total_x = _normaliser(x, kind, wide[0])
    peak_y, total_y = _normaliser(y, kind, wide[0])
    if not (abs(peak_x) < np.inf and abs(peak_y) < np.inf and total_x + total_y < np.inf):
        return False
    shift = (peak_y + math.log(total_y)) - (peak_x + math.log(total_x))
    correction = 0.0
    largest = _second_pass(x, y, kind, peak_x, shift, correction, single, wide, narrow, sums)
    if not largest < limit:
        return False
    if sums[2] < correct_below * total_x:
        correction = math.log1p(sums[7] / total_x)
        largest = _second_pass(x, y, kind, peak_x, shift, correction, single, wide, narrow, sums)
    sums /= total_x
    sums[2] = min(sums[2], 1.0)
    sums[4] += math.log(total_x)
    sums[5] = largest
    sums[7] = peak_x + math.log(total_x)
    sums[8] = sums[7] + shift + correction
    return True


class NumbaKernel:
    """Sums over the vocabulary of one row at a time; see `NumpyKernel` for the arguments."""

    def __init__(self, precision: str) -> None:
        self._general = NumpyKernel(precision)
        self._single = precision == "float32"
        self._correct_below = CORRECT_BELOW[precision]
        self._limit = LOG_RATIO_LIMIT[precision]
        self._wide = np.empty((3, BLOCK))
        self._narrow = np.empty((2, BLOCK), dtype=np.float32)

    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums named by `COLUMNS` for one row of logits of each policy.

        Raises
        ------
        InputError
            If the row holds NaN or +inf or is -inf throughout; without a record.
        """
        kind = _KINDS[x.dtype.name]
        a, b = (x, y) if kind == 0 else (x.view(np.uint16), y.view(np.uint16))
        sums = np.empty(len(COLUMNS))
        if x.dtype == y.dtype and _row(
            *(a, b, kind, self._single),
            *(self._correct_below, self._limit, self._wide, self._narrow, sums),
        ):
            return sums
        return self._general.row(x, y)
