"""Divergences of rows of a large vocabulary, compiled by numba (the extra ``fast``).

The same passes as in `trbounds.logits.numpy_kernel`, one row at a time and fused: a block of logits
is widened into a buffer that stays in the first-level cache, and every exponential is a polynomial
that the compiler turns into vector instructions. Buffers are float32 for float32 precision, unless
the logits are float64. Rare rows are handed to the numpy kernel: those with NaN, huge ratios, or
-inf in one policy alone, of two dtypes, or in the byte order of another machine.

Only the loops that add up let the compiler reorder operations (`_SUM`); the functions that reduce
the argument of an exponential must not be reordered (`EXACT`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trbounds.logits.numpy_kernel import (
    ABSENT,
    COLUMNS,
    EXCESS,
    EXCESS_LIMIT,
    LOG_RATIO_LIMIT,
    SHIFT_LIMIT,
    NumpyKernel,
)
from trbounds.numba_exponential import COMMON, EXACT, reduce_exponent, reduce_exponent32

_SUM: dict[str, Any] = {**COMMON, "fastmath": {"contract", "reassoc", "nsz"}}

BLOCK = 1024
# How 16-bit integers are to be read; numba itself has neither type.
_KINDS = {"float64": 0, "float32": 0, "bfloat16": 1, "float16": 2}


@njit(**EXACT)
def _load(row, kind, out):  # type: ignore[no-untyped-def]
    """Widen a block of a row of floats, or of the bits of 16-bit floats; -inf becomes `ABSENT`."""
    if kind == 0:
        for i in range(out.size):
            out[i] = row[i] if row[i] != -np.inf else ABSENT
    elif kind == 1:
        for i in range(out.size):
            bits = np.uint32(row[i]) << np.uint32(16)
            value = np.uint32(bits).view(np.float32)
            out[i] = value if value != -np.inf else np.float32(ABSENT)
    else:
        for i in range(out.size):
            half = np.uint32(row[i])
            # The exponents differ by 112: shifted bits times 2^112, subnormal numbers included.
            bits = (half & np.uint32(0x7FFF)) << np.uint32(13)
            value = np.uint32(bits).view(np.float32) * np.float32(5.192296858534828e33)
            value = np.float32(np.inf) if value >= np.float32(65536.0) else value
            sign = (half & np.uint32(0x8000)) << np.uint32(16)
            value = np.uint32(np.float32(value).view(np.uint32) | sign).view(np.float32)
            out[i] = value if value != -np.inf else np.float32(ABSENT)


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
def _compare_block(a, d, peak):  # type: ignore[no-untyped-def]
    """Return the sums of exp(a - peak) and of exp(a - peak) expm1(d)."""
    mass = excess = 0.0
    for i in range(a.size):
        r, q, scale, _ = reduce_exponent(max(a[i] - peak, -708.0))
        weight = scale + scale * (r + q)
        r, q, scale, _ = reduce_exponent(max(d[i], -708.0))
        mass += weight
        excess += weight * ((scale - 1.0) + scale * (r + q))
    return mass, excess


@njit(**_SUM)
def _compare_block32(a, d, peak):  # type: ignore[no-untyped-def]
    mass = excess = np.float32(0.0)
    one, floor, top = np.float32(1.0), np.float32(-87.0), np.float32(peak)
    for i in range(a.size):
        r, q, scale, _ = reduce_exponent32(max(a[i] - top, floor))
        weight = scale + scale * (r + q)
        r, q, scale, _ = reduce_exponent32(max(d[i], floor))
        mass += weight
        excess += weight * ((scale - one) + scale * (r + q))
    return np.float64(mass), np.float64(excess)


@njit(**_SUM)
def _sum_block(a, d, peak, sums):  # type: ignore[no-untyped-def]
    kl = product = absolute = chi2 = entropy = excess = 0.0
    for i in range(a.size):
        logit = max(a[i] - peak, -708.0)
        r, q, scale, _ = reduce_exponent(logit)
        weight = scale + scale * (r + q)
        r, q, scale, k = reduce_exponent(max(d[i], -708.0))
        rise = (scale - 1.0) + scale * (r + q)
        difference = weight * rise
        kl += weight * (q if k == 0.0 else rise - d[i])
        product += difference * d[i]
        absolute += abs(difference)
        chi2 += difference * rise
        entropy -= weight * logit
        excess += difference
    _add(sums, kl, product, absolute, chi2, entropy, excess)


@njit(**_SUM)
def _sum_block32(a, d, peak, sums):  # type: ignore[no-untyped-def]
    kl = product = absolute = chi2 = entropy = excess = np.float32(0.0)
    one, floor, top = np.float32(1.0), np.float32(-87.0), np.float32(peak)
    for i in range(a.size):
        logit = max(a[i] - top, floor)
        r, q, scale, _ = reduce_exponent32(logit)
        # Not the floor's own weight: of many such tokens, times their squared ratios, it shows.
        weight = scale + scale * (r + q) if logit > floor else np.float32(0.0)
        r, q, scale, k = reduce_exponent32(max(d[i], floor))
        rise = (scale - one) + scale * (r + q)
        difference = weight * rise
        kl += weight * (q if k == np.float32(0.0) else rise - d[i])
        product += difference * d[i]
        absolute += abs(difference)
        chi2 += difference * rise
        entropy -= weight * logit
        excess += difference
    _add(sums, kl, product, absolute, chi2, entropy, excess)


@njit(**EXACT)
def _add(sums, kl, product, absolute, chi2, entropy, excess):  # type: ignore[no-untyped-def]
    sums[0] += kl
    sums[1] += np.float64(product) - np.float64(kl)
    sums[2] += 0.5 * absolute
    sums[3] += chi2
    sums[4] += entropy
    sums[EXCESS] += excess


@njit(**EXACT)
def _log_ratio(a, b, shift, correction, d):  # type: ignore[no-untyped-def]
    """Write log rho, or 0 where neither policy has the token; return the largest magnitude."""
    first, second = d.dtype.type(shift), d.dtype.type(correction)
    for i in range(a.size):
        value = ((b[i] - a[i]) - first) - second
        d[i] = d.dtype.type(0.0) if a[i] == b[i] == ABSENT else value
    return _largest_abs(d)


@njit(**EXACT)
def _offset(a, b):  # type: ignore[no-untyped-def]
    """Return about how much larger the logits of y are: at the largest of a block of x."""
    j = 0
    for i in range(a.size):
        if a[i] > a[j]:
            j = i
    return np.float64(b[j] - a[j])


@njit(**EXACT)
def _compare(x, y, kind, limit, buffers):  # type: ignore[no-untyped-def]
    """Return the peak of x, its mass and the shift of y; no mass for unusual rows."""
    peak, mass, excess, base = -np.inf, 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - start)
        a, b, d = buffers[0, :n], buffers[1, :n], buffers[2, :n]
        _load(x[start : start + n], kind, a)
        _load(y[start : start + n], kind, b)
        if start == 0:
            base = _offset(a, b)
        top = _largest(a)
        if not (_log_ratio(a, b, base, 0.0, d) < limit and top < np.inf):
            return 0.0, 0.0, 0.0
        if top > peak:
            shrink = math.exp(peak - top)
            mass, excess, peak = mass * shrink, excess * shrink, top
        part = _compare_block32(a, d, peak) if a.itemsize == 4 else _compare_block(a, d, peak)
        mass, excess = mass + part[0], excess + part[1]
    rise = excess / mass
    if not (peak > ABSENT and base > 0.5 * ABSENT and -0.5 < rise < np.inf):
        return 0.0, 0.0, 0.0
    return peak, mass, base + math.log1p(rise)


@njit(**EXACT)
def _sum_row(x, y, kind, peak, shift, correction, buffers, sums):  # type: ignore[no-untyped-def]
    """Add up one row; return the largest |log rho|."""
    largest = 0.0
    sums[:] = 0.0
    for start in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - start)
        a, b, d = buffers[0, :n], buffers[1, :n], buffers[2, :n]
        _load(x[start : start + n], kind, a)
        _load(y[start : start + n], kind, b)
        largest = max(largest, _log_ratio(a, b, shift, correction, d))
        if a.itemsize == 4:
            _sum_block32(a, d, peak, sums)
        else:
            _sum_block(a, d, peak, sums)
    return largest


@njit(**EXACT)
def _row(x, y, kind, limit, excess_limit, shift_limit, buffers, sums):  # type: ignore[no-untyped-def]
    """Write the sums of one row; return False if it needs another kernel."""
    peak, mass, shift = _compare(x, y, kind, limit, buffers)
    if mass == 0.0:
        return False
    shift = np.float64(buffers.dtype.type(shift))
    correction = 0.0
    largest = _sum_row(x, y, kind, peak, shift, correction, buffers, sums)
    if abs(sums[EXCESS]) > excess_limit * sums[2]:
        correction = math.log1p(sums[EXCESS] / mass)
        largest = _sum_row(x, y, kind, peak, shift, correction, buffers, sums)
    sums /= mass
    if abs(shift) > shift_limit * sums[2] or not largest < limit:
        return False
    sums[2] = min(sums[2], 1.0)
    sums[4] += math.log(mass)
    sums[5] = largest
    sums[7] = peak + math.log(mass)
    sums[8] = sums[7] + (shift + correction)
    return True


class NumbaKernel:
    """Sums over the vocabulary of one row at a time; see `NumpyKernel` for the arguments."""

    def __init__(self, precision: str) -> None:
        self._general = NumpyKernel(precision)
        self._precision = precision
        self._buffers = {name: np.empty((3, BLOCK), dtype=name) for name in ("float32", "float64")}

    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums named by `COLUMNS` for one row of logits of each policy.

        Raises
        ------
        InputError
            If the row holds NaN or +inf or is -inf throughout; without a record.
        """
        if x.dtype == y.dtype and x.dtype.isnative:
            single = self._precision == "float32" and x.dtype != np.float64
            for precision in ("float32", "float64") if single else ("float64",):
                sums = self._sums(x, y, precision)
                if sums is not None:
                    return sums
        return self._general.row(x, y)

    def _sums(self, x: NDArray[Any], y: NDArray[Any], precision: str) -> NDArray[np.float64] | None:
        kind = _KINDS[x.dtype.name]
        a, b = (x, y) if kind == 0 else (x.view(np.uint16), y.view(np.uint16))
        limits = LOG_RATIO_LIMIT[precision], EXCESS_LIMIT[precision], SHIFT_LIMIT[precision]
        sums = np.empty(len(COLUMNS))
        return sums if _row(a, b, kind, *limits, self._buffers[precision], sums) else None
