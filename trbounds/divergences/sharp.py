"""The largest total variation that a KL divergence allows, in closed parametric form.

Fedotov, Harremoës and Topsøe, "Refinements of Pinsker's inequality", IEEE Transactions on
Information Theory 49(6), 2003: over all pairs with KL(P‖Q) = KL, the supremum of TV is reached
where, for a parameter u > 0,

    2 TV = u (1 - (coth u - 1/u)^2)
    KL = log(u / sinh u) + u coth u - u^2 / sinh^2 u

Along this curve dKL/dTV = 2u, so TV is concave in KL.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from scipy.special import zeta

# coth u - 1/u = sum_{n>=1} c_n u^(2n-1) for |u| < pi, c_n = 2 (-1)^(n-1) zeta(2n) / pi^(2n); then
# KL = sum c_n (2n - 1/(2n)) u^(2n). Twenty terms reach 1e-17 at u = 1, where the series stops.
_COTH = tuple(
    2.0 * (-1.0) ** (n - 1) * float(zeta(2 * n)) / math.pi ** (2 * n) for n in range(1, 21)
)
_KL = tuple(c * (2 * n - 1 / (2 * n)) for n, c in enumerate(_COTH, start=1))
_KL_SLOPE = tuple(2 * n * c for n, c in enumerate(_KL, start=1))
_SERIES_LIMIT = 1.0

# Above this KL, TV = 1 - exp(-KL) to better than 1e-22 relative to 1 - TV: u exceeds 27, and what
# is left out is of order u exp(-2u).
_LARGE_KL = 4.0
# The first guess is within 1.1 % below and 6.1 % above the root on (0, 4]; each Newton step squares
# the relative error, and the last correction (slope 1/(2u)) squares it once more.
_NEWTON_STEPS = 4


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    value = coefficients[-1] + 0.0 * x
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _kl_and_slope(xp: ModuleType, u: Any) -> tuple[Any, Any]:
    """Return KL(u) and its derivative, for 0 < u <= 30."""
    small = u <= _SERIES_LIMIT
    v = xp.where(small, u, xp.ones_like(u))
    w = xp.where(small, xp.ones_like(u), u)
    q = xp.expm1(2.0 * w)
    coth = 1.0 + 2.0 / q
    csch2 = 4.0 * (q + 1.0) / (q * q)
    kl_large = xp.log(2.0 * w) - xp.log1p(-xp.exp(-2.0 * w)) + 2.0 * w / q - w * w * csch2
    slope_large = 1.0 / w - 3.0 * w * csch2 + 2.0 * w * w * coth * csch2
    kl = xp.where(small, v * v * _horner(_KL, v * v), kl_large)
    return kl, xp.where(small, v * _horner(_KL_SLOPE, v * v), slope_large)


def _tv(xp: ModuleType, u: Any) -> Any:
    """Return TV(u), for 0 < u <= 30."""
    small = u <= _SERIES_LIMIT
    v = xp.where(small, u, xp.ones_like(u))
    w = xp.where(small, xp.ones_like(u), u)
    langevin = v * _horner(_COTH, v * v)
    tv_small = 0.5 * v * (1.0 - langevin) * (1.0 + langevin)
    q = xp.expm1(2.0 * w)
    complement = 0.5 / w + 2.0 * w * (q + 1.0) / (q * q) - 2.0 / q
    return xp.where(small, tv_small, 1.0 - complement)


def sharp_tv(xp: ModuleType, kl: Any) -> Any:
    """Return the largest TV at each KL.

    Parameters
    ----------
    xp : module
        Array namespace.
    kl : array
        Float64, non-negative, inf allowed.

    Returns
    -------
    array
        TV, to 1e-13 relative.
    """
    ordinary = (kl > 0.0) & (kl <= _LARGE_KL)
    k = xp.where(ordinary, kl, xp.ones_like(kl))
    guess = xp.sqrt(0.25 * xp.expm1(2.0 * k) + 1.5 * k)
    u = guess
    for _ in range(_NEWTON_STEPS):
        value, slope = _kl_and_slope(xp, u)
        u = u + (k - value) / slope
        u = xp.where(u < 0.9 * guess, 0.9 * guess, xp.where(u > 1.1 * guess, 1.1 * guess, u))
    value, _ = _kl_and_slope(xp, u)
    # Pinsker's value is the limit at 0; the minimum keeps rounding from exceeding it.
    tv = xp.minimum(_tv(xp, u) + (k - value) / (2.0 * u), xp.sqrt(0.5 * k))
    large = kl > _LARGE_KL
    return xp.where(ordinary, tv, xp.where(large, -xp.expm1(-kl), xp.zeros_like(kl)))
