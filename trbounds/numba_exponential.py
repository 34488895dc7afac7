"""The exponential of the loops that numba compiles: a polynomial that becomes vector instructions.

numba keeps compiled functions on disk and does not notice that a function they call was edited in
another file, such as this one: delete ``__pycache__`` then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["COMMON", "EXACT", "UNREDUCED", "exp_residual", "reduce_exponent", "reduce_exponent32"]


def _can_keep() -> bool:
    """Whether numba finds a folder for what it compiles; a read-only container has none."""
    try:
        njit(cache=True)(lambda: None)  # compiles nothing yet
    except RuntimeError:
        return False
    return True


COMMON: dict[str, Any] = {"nogil": True, "cache": _can_keep(), "error_model": "numpy"}
EXACT: dict[str, Any] = {**COMMON, "fastmath": {"contract"}}
"""Options for loops in which operations may not be reordered, such as the one here."""

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


UNREDUCED = 0.3465
"""Up to this size x is r: k is 0. Below log(2)/2."""


@njit(**EXACT)
def exp_residual(r):  # type: ignore[no-untyped-def]
    """Return exp(r) - 1 - r, for |r| <= log(2)/2."""
    p = ((((_P9 * r + _P8) * r + _P7) * r + _P6) * r + _P5) * r + _P4
    return ((((p * r + _P3) * r + _P2) * r + _P1) * r + _P0) * r * r


@njit(**EXACT)
def reduce_exponent(x):  # type: ignore[no-untyped-def]
    """Return r, exp(r) - 1 - r, 2^k and k, for |x| < 708."""
    t = x * _LOG2E + _ROUND
    k = t - _ROUND
    r = x - k * _LN2_HIGH - k * _LN2_LOW
    q = exp_residual(r)
    scale = np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)
    return r, q, scale, k


@njit(**EXACT)
def reduce_exponent32(x):  # type: ignore[no-untyped-def]
    """Return r, exp(r) - 1 - r, 2^k and k in float32, for |x| < 87."""
    t = x * np.float32(_LOG2E) + _ROUND32
    k = t - _ROUND32
    r = x - k * _LN2_HIGH32 - k * _LN2_LOW32
    q = ((((_Q4 * r + _Q3) * r + _Q2) * r + _Q1) * r + _Q0) * r * r
    bits = np.int32(np.float32(t).view(np.int32) + np.int32(127)) << np.int32(23)
    return r, q, np.int32(bits).view(np.float32), k
