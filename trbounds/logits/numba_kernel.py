"""Divergences of rows of a large vocabulary, compiled by numba (the extra ``fast``).

The same passes as in `trbounds.logits.numpy_kernel`, one row at a time and fused: a block of logits
is widened into a buffer that stays in the first-level cache, and every exponential is a polynomial
that the compiler turns into vector instructions. Rare rows are handed to the numpy kernel: those
with -inf, NaN or huge ratios, of two dtypes, or in the byte order of another machine.

Only the loops that add up let the compiler reorder operations (`_SUM`); the functions that reduce
the argument of an exponential must not be reordered (`EXACT`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trbounds.logits.numpy_kernel import COLUMNS, LOG_RATIO_LIMIT, NumpyKernel
from trbounds.numba_exponential import COMMON, EXACT, reduce_exponent, reduce_exponent32

__all__ = ["NumbaKernel"]

_SUM: dict[str, Any] = {**COMMON, "fastmath": {"contract", "reassoc", "nsz"}}

BLOCK = 1024
# Normalisers are good to a few 1e-15; below these values the total variation needs their correction
# to keep 1e-10 and 1e-5 relative.
CORRECT_BELOW = {"float64": 1e-4, "float32": 1e-8}
# How 16-bit integers are to be read; numba itself has neither type.
_KINDS = {"float64": 0, "float32": 0, "bfloat16": 1, "float16": 2}


@njit(**EXACT)
def _exp(x):  # type: ignore[no-untyped-def]
    r, q, scale, _ = reduce_exponent(max(x, -708.0))
    return scale + scale * (r + q)


@njit(**EXACT)
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


@njit(**EXACT)
def _largest(a):  # type: ignore[no-untyped-def]
    top = np.int64(-0x7FFFFFFFFFFFFFFF)
    for i in range(a.size):
        bits = np.float64(a[i]).view(np.int64)
        top = max(top, bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF))
    return np.int64(top ^ ((top >> 63) & 0x7FFFFFFFFFFFFFFF)).view(np.float64)


@njit(**EXACT)
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


@njit(**EXACT)
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
        r, q, scale, k = reduce_exponent(max(d[i], -708.0))
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
        r, q, scale, _ = reduce_exponent32(max(a[i], floor))
        weight = scale + scale * (r + q)
        r, q, scale, k = reduce_exponent32(max(d[i], floor))
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


@njit(**EXACT)
def _log_ratio(a, b, shift, correction, d):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        d[i] = (b[i] - a[i]) - shift - correction


@njit(**EXACT)
def _narrow(a, subtract, out):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        out[i] = a[i] - subtract


@njit(**EXACT)
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


@njit(**EXACT)
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
        if x.dtype != y.dtype or not x.dtype.isnative:
            return self._general.row(x, y)
        kind = _KINDS[x.dtype.name]
        a, b = (x, y) if kind == 0 else (x.view(np.uint16), y.view(np.uint16))
        sums = np.empty(len(COLUMNS))
        if _row(
            *(a, b, kind, self._single),
            *(self._correct_below, self._limit, self._wide, self._narrow, sums),
        ):
            return sums
        return self._general.row(x, y)
