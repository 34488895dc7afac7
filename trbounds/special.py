"""Special functions of the bounds, vectorised over any array namespace, with stated accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from trbounds.arrays import array_namespace, asarray_float64, device

if TYPE_CHECKING:
    from trbounds.profile import DivergenceProfile

__all__ = [
    "capped_root_sum",
    "entropy_dual_gain",
    "golden_section",
    "phi",
    "phi_inverse",
    "remaining",
    "root_exp_excess",
    "root_sum",
    "root_times",
    "sum_tv_from_kl",
]

_ZETA_MINUS_HALF = -0.207886224977354566
_TABLE = tuple(math.fsum(math.sqrt(k) for k in range(1, n + 1)) for n in range(16))
# Euler-Maclaurin coefficients of sum sqrt(k), in powers of 1/m^2 after the 1/m term.
_TAIL = (1 / 24, -1 / 1920, 1 / 9216, -11 / 163840)
_GOLDEN_STEPS = 40


def root_sum(n: Any, *, xp: ModuleType | None = None) -> Any:
    """Sum of square roots ``sum_{k=1}^{n} sqrt(k)``.

    The generalised harmonic number of order -1/2. A table below 16, the Euler-Maclaurin expansion
    from there on: relative error below 1e-15 up to n = 1e15, in constant time.

    Parameters
    ----------
    n : array
        Whole numbers of at least 0, float64.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Of the shape of `n`.
    """
    xp = array_namespace(n) if xp is None else xp
    n = asarray_float64(n, xp=xp)
    m = xp.maximum(n, xp.full_like(n, 16.0))
    inverse = 1 / m
    square = inverse * inverse
    tail = _TAIL[0] + square * (_TAIL[1] + square * (_TAIL[2] + square * _TAIL[3]))
    value = xp.sqrt(m) * (m * (2 / 3) + 0.5 + inverse * tail) + _ZETA_MINUS_HALF
    small = n < 16
    if not bool(xp.any(small)):
        return value
    table = asarray_float64(_TABLE, xp=xp, like=n)
    index = xp.astype(xp.where(small, n, xp.zeros_like(n)), xp.int64)
    looked_up = xp.reshape(xp.take(table, xp.reshape(index, (-1,)), axis=0), n.shape)
    return xp.where(small, looked_up, value)


def capped_root_sum(n: Any, step: Any, *, xp: ModuleType | None = None) -> Any:
    """Sum ``sum_{k=0}^{n-1} min(1, sqrt(k * step))`` in constant time.

    Parameters
    ----------
    n : array
        Number of terms, whole numbers of at least 0.
    step : array
        Non-negative; broadcasts against `n`.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Relative error below 1e-14. The sum splits where ``k * step`` passes 1; both sides agree
        there, so rounding of the split point does no harm.
    """
    xp = array_namespace(n, step) if xp is None else xp
    n, step = asarray_float64(n, xp=xp), asarray_float64(step, xp=xp)
    last = xp.maximum(n - 1, xp.zeros_like(n))
    # 1/step overflows for the smallest steps; last is then the minimum all the same.
    tiny = xp.full_like(step, 1e-300)
    below = xp.minimum(last, xp.floor(1 / xp.maximum(step, tiny)))
    return xp.sqrt(step) * root_sum(below, xp=xp) + (last - below)


def phi(x: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``phi(x) = x - log(1 + x)`` for ``x >= 0``, without cancellation near 0.

    Its mean over rollouts at ``x = rho - 1`` is KL(mu || pi).

    Parameters
    ----------
    x : array
        At least 0.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Relative error below 1e-14.
    """
    xp = array_namespace(x) if xp is None else xp
    x = asarray_float64(x, xp=xp)
    small = x < 1
    # log(1+x) = 2 atanh(z): x - log(1+x) = 2z^2/(1-z) - 2(z^3/3 + z^5/5 + ...), z <= 1/3.
    z = xp.where(small, x / (2 + x), xp.zeros_like(x))
    square = z * z
    series = xp.zeros_like(x)
    for k in range(33, 1, -2):
        series = (series + 1 / k) * square
    near = 2 * (square / (1 - z) - z * series)
    return xp.where(small, near, x - xp.log1p(x))


def phi_inverse(y: Any, *, xp: ModuleType | None = None) -> Any:
    """Return the non-negative ``x`` with ``x - log(1 + x) = y``.

    Parameters
    ----------
    y : array
        At least 0.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Relative error below 1e-14 for y from 1e-300 to 1e300: Newton's method on a convex
        function, started above the root, so that it descends without overshooting.
    """
    xp = array_namespace(y) if xp is None else xp
    y = asarray_float64(y, xp=xp)
    # phi(x) >= x^2 / (2 (1 + x)) gives the upper bound y + sqrt(y^2 + 2y).
    x = y + xp.sqrt(y) * xp.sqrt(y + 2)
    for _ in range(4):  # after three steps the relative error is below 1e-10
        slope = x / (1 + x)
        x = x - (phi(x, xp=xp) - y) / xp.where(slope > 0, slope, xp.ones_like(slope))
    return x


def entropy_dual_gain(kl: Any, variance: Any, *, xp: ModuleType | None = None) -> Any:
    """Largest gain ``G(D, v) = inf_{lambda > 1} [lambda D + v (-1 - lambda log(1 - 1/lambda))]``.

    The infimum is reached where ``phi(w) = D/v`` with ``w = 1/(lambda - 1)``, and its value there
    is ``v w``: so ``G = v phi_inverse(D/v)``, the limit at ``v = 0`` being D.

    Parameters
    ----------
    kl : array
        D, the sequence KL in nats, at least 0.
    variance : array
        v, at least 0; broadcasts against `kl`.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Relative error below 1e-13.

    Notes
    -----
    Source: trbounds.
    """
    xp = array_namespace(kl, variance) if xp is None else xp
    kl, variance = asarray_float64(kl, xp=xp), asarray_float64(variance, xp=xp)
    # Beyond a ratio of 1e290 the logarithmic term is below rounding, and G = D.
    has_variance = variance > kl * 1e-290
    divisor = xp.where(has_variance, variance, xp.ones_like(variance))
    ratio = xp.where(has_variance, kl, xp.zeros_like(kl)) / divisor
    return xp.where(has_variance, divisor * phi_inverse(ratio, xp=xp), kl)


def sum_tv_from_kl(profile: DivergenceProfile, n: Any, kl: Any) -> Any:
    """Sum ``sum_{k=0}^{n-1} TV(k * kl)`` by the profile's conversion from KL to TV.

    Parameters
    ----------
    profile : DivergenceProfile
        Its conversion is used: Pinsker in closed form; the sharp one term by term up to 64 and
        then by Gregory's formula, its integral by Gauss-Legendre quadrature in log k.
    n : array
        Number of terms, at least 1.
    kl : array
        KL of one step; broadcasts against `n`.

    Returns
    -------
    array
        Relative error below 1e-14 (Pinsker) or 1e-12 (sharp).
    """
    xp = profile.xp
    if profile.conversion == "pinsker":
        return capped_root_sum(n, kl / 2, xp=xp)
    n, kl = xp.broadcast_arrays(asarray_float64(n, xp=xp), asarray_float64(kl, xp=xp))

    def term(k: Any) -> Any:
        return profile.tv_from_kl(k * kl)

    direct = 64
    total = xp.zeros_like(kl)
    for k in range(1, direct):
        beyond = n > k
        if not bool(xp.any(beyond)):
            return total
        total = total + xp.where(beyond, term(k), 0.0)
    first = xp.full_like(n, direct - 0.5)
    last = xp.maximum(n, xp.full_like(n, direct + 1.0)) - 0.5
    span = xp.log(last / first)
    integral = xp.zeros_like(kl)
    for node, weight in zip(*_legendre(96), strict=True):
        at = first * xp.exp(span * ((node + 1) / 2))
        integral = integral + weight / 2 * at * term(at)
    ends = _end_correction(term, last) - _end_correction(term, first)
    return total + xp.where(n > direct, span * integral + ends, 0.0)


def _legendre(count: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes.tolist(), weights.tolist()


def _end_correction(term: Callable[[Any], Any], at: Any) -> Any:
    """First and third central differences of the sum-integral (midpoint) expansion at `at`."""
    far, near = term(at + 1.5) - term(at - 1.5), term(at + 0.5) - term(at - 0.5)
    return -near / 24 + (far - 3 * near) * (17 / 5760)


def remaining(profile: DivergenceProfile) -> Any:
    """Tokens left after each position, ``T - t`` for t = 1..T, where positions are known."""
    like = profile.tv_mean if profile.tv_mean is not None else profile.kl_mean
    xp = profile.xp
    return xp.flip(xp.arange(like.shape[-1], dtype=like.dtype, device=device(like)))


def root_exp_excess(x: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``sqrt(exp(x) - 1 - x)`` for ``x >= 0``, also where the square is out of range.

    Parameters
    ----------
    x : array
        At least 0.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Relative error below 1e-14 from x = 1e-300 to 1400; infinite from there on.
    """
    xp = array_namespace(x) if xp is None else xp
    x = asarray_float64(x, xp=xp)
    near = xp.minimum(x, xp.ones_like(x))
    series = xp.zeros_like(x)
    for k in range(20, 2, -1):
        series = (1 + series) * near / k
    fits = x < 1400
    far = xp.where(fits, x, xp.ones_like(x))
    share = xp.maximum(1 - (1 + far) * xp.exp(-far), xp.zeros_like(x))
    large = xp.where(fits, xp.exp(far / 2) * xp.sqrt(share), xp.full_like(x, float("inf")))
    return xp.where(x < 1, near * xp.sqrt((1 + series) / 2), large)


def root_times(variance: Any, factor: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``sqrt(variance) * factor``: 0 where the variance is, though the factor be infinite.

    Parameters
    ----------
    variance : array
        At least 0.
    factor : array
        At least 0, possibly infinite.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        The product.
    """
    xp = array_namespace(variance, factor) if xp is None else xp
    return xp.sqrt(variance) * xp.where(variance > 0, factor, xp.zeros_like(factor))


def golden_section(
    f: Callable[[Any], Any], low: Any, high: Any, *, xp: ModuleType | None = None
) -> Any:
    """Return the minimum of a function of one variable, element by element.

    Parameters
    ----------
    f : callable
        Vectorised; on ``[low, high]`` it falls and then rises.
    low, high : array
        Ends of the interval, of the same shape.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        The smallest value met. Each of 40 steps shortens the interval by a factor 0.618, and the
        value at a minimum is known to the square of the interval's last width: that suffices for
        a width of 10 and 1e-14.
    """
    xp = array_namespace(low, high) if xp is None else xp
    ratio = (math.sqrt(5) - 1) / 2
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    f_inner, f_outer = f(inner), f(outer)
    for _ in range(_GOLDEN_STEPS):
        left = f_inner < f_outer
        low, high = xp.where(left, low, inner), xp.where(left, outer, high)
        step = ratio * (high - low)
        point = xp.where(left, high - step, low + step)
        value = f(point)
        inner, outer = xp.where(left, point, outer), xp.where(left, inner, point)
        f_inner, f_outer = xp.where(left, value, f_outer), xp.where(left, f_inner, value)
    return xp.minimum(f_inner, f_outer)
