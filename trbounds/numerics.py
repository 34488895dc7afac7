"""Powers and products near 1 without their first-order part, free of cancellation and overflow."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from trbounds.arrays import array_namespace, asarray_float64

__all__ = [
    "power_excess",
    "prefix_sums",
    "root_power_excess",
    "root_product_excess",
    "suffix_sums",
]

# The binomial series, used where |n x| < 1: its terms fall at least as fast as 1/j!.
_SERIES_TERMS = 20
# A square beyond exp(1300) is treated as infinite, a bound beyond exp(650) likewise.
_LARGEST_LOG = 1300.0


def power_excess(x: Any, n: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``(1 + x)^n - 1 - n x``.

    Parameters
    ----------
    x : array
        At least -1.
    n : array
        Whole numbers of at least 1, float64; broadcasts against `x`.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Non-negative; exactly 0 for ``n = 1``. Relative error below 1e-12; infinite where the value
        overflows, and 0 where it is below the smallest float.
    """
    x, n, xp = _prepare(x, n, xp)
    power, above = _power(x, n, xp)
    fits = power < 709.0
    large = xp.expm1(xp.where(fits, power, xp.zeros_like(power))) - n * above
    large = xp.where(fits, large, xp.full_like(large, float("inf")))
    is_small, near = _near(x, n, xp)
    # Two factors of order n x: the square of a tiny x would underflow sooner.
    small = (n * near) * ((n - 1) * near) / 2 * _series(near, n)
    return xp.where(n > 1, xp.where(is_small, small, large), xp.zeros_like(x))


def root_power_excess(x: Any, n: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``sqrt((1 + x)^n - 1 - n x)``, also where the square is out of range.

    Parameters
    ----------
    x : array
        At least 0.
    n : array
        Whole numbers of at least 1, float64; broadcasts against `x`.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Exactly 0 for ``n = 1``. Relative error below 1e-12; infinite beyond exp(650), about
        1e282.
    """
    x, n, xp = _prepare(x, n, xp)
    power, above = _power(x, n, xp)
    fits = power < _LARGEST_LOG
    power = xp.where(fits, power, xp.ones_like(power))
    # 1 + n x <= (1 + x)^n, and where n x >= 1 well below it: no cancellation.
    share = (1 + n * above) * xp.exp(-power)
    large = xp.exp(power / 2) * xp.sqrt(xp.maximum(1 - share, xp.zeros_like(share)))
    large = xp.where(fits, large, xp.full_like(large, float("inf")))
    is_small, near = _near(x, n, xp)
    small = near * xp.sqrt(n * (n - 1) / 2 * _series(near, n))
    return xp.where(n > 1, xp.where(is_small, small, large), xp.zeros_like(x))


def _prepare(x: Any, n: Any, xp: ModuleType | None) -> tuple[Any, Any, ModuleType]:
    xp = array_namespace(x, n) if xp is None else xp
    x, n = xp.broadcast_arrays(asarray_float64(x, xp=xp), asarray_float64(n, xp=xp))
    return x, n, xp


def _power(x: Any, n: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Return ``n log(1 + x)`` and an x that may be multiplied by n without overflow."""
    # At x = -1 the power is 0, as exp is at -1e4.
    is_end = x <= -1
    power = n * xp.log1p(xp.where(is_end, xp.zeros_like(x), x))
    power = xp.where(is_end, xp.full_like(power, -1e4), power)
    return power, xp.minimum(x, xp.full_like(x, 1e290))


def _near(x: Any, n: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Return where ``|n x| < 1``, and x there, 0 elsewhere."""
    is_small = xp.abs(x) < 1 / n
    return is_small, xp.where(is_small, x, xp.zeros_like(x))


def _series(x: Any, n: Any) -> Any:
    """Return ``((1+x)^n - 1 - n x) / (n (n-1) x^2 / 2)`` for ``|n x| < 1``; exact for n <= 2.

    The binomial series in nested form. Its factor ``n - j`` ends it for whole n.
    """
    total = 1 + 0 * x
    for j in range(_SERIES_TERMS, 1, -1):
        total = 1 + (n - j) * x / (j + 1) * total
    return total


def prefix_sums(x: Any, *, xp: ModuleType | None = None) -> Any:
    """Return the sums of what comes before each position: ``sum_{s<t} x_s`` for t = 1..T.

    Parameters
    ----------
    x : array
        Non-negative, positions on the last axis.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Of the shape of `x`; 0 at the first position. Nothing is subtracted, so small entries
        beside large ones keep their accuracy; summed in about ``sqrt(T)`` blocks of that length,
        so that rounding grows with ``sqrt(T)`` at most.
    """
    xp = array_namespace(x) if xp is None else xp
    *batch, length = x.shape
    block = math.isqrt(length - 1) + 1
    fill = -length % block
    whole = xp.concat([x, xp.zeros_like(x[..., :fill])], axis=-1) if fill else x
    rows = xp.reshape(whole, (*batch, (length + fill) // block, block))
    within = _shifted_sums(rows, xp)
    before = _shifted_sums(within[..., -1] + rows[..., -1], xp)
    return xp.reshape(within + before[..., None], (*batch, length + fill))[..., :length]


def _shifted_sums(x: Any, xp: ModuleType) -> Any:
    return xp.concat([xp.zeros_like(x[..., :1]), xp.cumulative_sum(x[..., :-1], axis=-1)], axis=-1)


def suffix_sums(x: Any, *, xp: ModuleType | None = None) -> Any:
    """Return the sums of what comes after each position: ``sum_{s>t} x_s`` for t = 1..T.

    Parameters
    ----------
    x : array
        Non-negative, positions on the last axis.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Of the shape of `x`; 0 at the last position.
    """
    xp = array_namespace(x) if xp is None else xp
    return xp.flip(prefix_sums(xp.flip(x, axis=-1), xp=xp), axis=-1)


def root_product_excess(x: Any, *, xp: ModuleType | None = None) -> Any:
    """Return ``sqrt(prod_t (1 + x_t) - 1 - sum_t x_t)``, the product over the last axis.

    Summed as ``x_t (prod_{s<t} (1 + x_s) - 1)``, all terms non-negative, in units of the largest
    entry so that no square leaves the range.

    Parameters
    ----------
    x : array
        Non-negative, positions on the last axis.
    xp : module, optional
        Array namespace, inferred once by default.

    Returns
    -------
    array
        Of the shape of `x` without its last axis; infinite where the product exceeds exp(650).
        Up to a million positions the relative error is below 1e-12 for a product up to exp(10),
        and below 1e-10 beyond, where the bound has long lost its meaning.
    """
    xp = array_namespace(x) if xp is None else xp
    x = asarray_float64(x, xp=xp)
    logs = xp.log1p(x)
    fits = xp.sum(logs, axis=-1) < _LARGEST_LOG / 2
    before = xp.where(fits[..., None], prefix_sums(logs, xp=xp), xp.zeros_like(logs))
    unit = xp.max(x, axis=-1, keepdims=True)
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    scaled = xp.sum(x / unit * (xp.expm1(before) / unit), axis=-1)
    root = xp.sqrt(scaled) * unit[..., 0]
    return xp.where(fits, root, xp.full_like(root, float("inf")))
