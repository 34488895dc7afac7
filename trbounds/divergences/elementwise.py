"""The frame of elementwise functions, and exp(x) - 1 - x without cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from trbounds.arrays import array_namespace, device
from trbounds.checks import as_number_arrays
from trbounds.errors import InputError

# exp(x) - 1 - x = x^2 (1/2! + x/3! + ...): below this |x| the series is used. The terms kept reach
# 1e-18 relative to the first; above, the subtraction loses at most a factor 10 of precision.
_SERIES_LIMIT = 0.5
_SERIES = tuple(1.0 / math.factorial(n) for n in range(2, 17))


def elementwise(
    function: Callable[..., Any], values: Mapping[str, Any], *, nonnegative: bool = False
) -> Any:
    """Apply a float64 function to scalars or arrays, keeping their kind, dtype and device.

    Parameters
    ----------
    function : callable
        Takes the namespace and one float64 array per value; returns a float64 array.
    values : mapping of str to scalar or array
        The arguments by name; they broadcast. Scalars and sequences count as numpy.
    nonnegative : bool
        Whether negative values are an error.

    Returns
    -------
    float or array
        A float if every value is a scalar; otherwise an array of the floating dtype that the
        arrays share (float64 for integers and sequences).

    Raises
    ------
    InputError
        If a value is no number, NaN, or negative where that is not allowed.
    """
    xp = array_namespace(*values.values())
    arrays = [v for v in values.values() if device(v) is not None]
    converted = as_number_arrays(values)
    for field, x in converted.items():
        if bool(xp.any(xp.isnan(x))):
            raise InputError("found NaN, expected a number", field=field)
        if nonnegative and bool(xp.any(x < 0.0)):
            raise InputError(f"found {float(xp.min(x))!r}, expected values >= 0", field=field)
    with np.errstate(over="ignore"):  # what float64 cannot hold is infinite
        result = function(xp, *converted.values())
    if not arrays:
        return float(result) if result.ndim == 0 else result
    floating = [v.dtype for v in arrays if xp.isdtype(v.dtype, "real floating")]
    dtype = xp.result_type(*floating) if len(floating) == len(arrays) else xp.float64
    return xp.astype(result, dtype, copy=False)


def expm1_minus_float64(xp: ModuleType, x: Any) -> Any:
    """Evaluate exp(x) - 1 - x on a float64 array; see `expm1_minus`."""
    small = xp.abs(x) <= _SERIES_LIMIT
    t = xp.where(small, x, xp.zeros_like(x))
    series = xp.full_like(t, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = series * t + coefficient
    # exp overflows above 709.78; -inf gives +inf, as the limit says.
    overflow = x > 709.78
    large = xp.where(small | overflow, xp.ones_like(x), x)
    direct = xp.where(overflow, xp.full_like(x, math.inf), xp.expm1(large) - large)
    return xp.where(small, t * t * series, direct)


def expm1_minus(x: Any) -> Any:
    """Return exp(x) - 1 - x, accurate near zero.

    With x = log ρ this is the estimator k3 = ρ - 1 - log ρ; with x a sum of χ² it is the
    second-order term e^X - 1 - X of the path-sum bounds.

    Parameters
    ----------
    x : float or array
        Any real number; -inf and large x give inf.

    Returns
    -------
    float or array
        Non-negative, of the kind, dtype and device of `x`. Relative error at most 2e-15 in
        float64.

    Raises
    ------
    InputError
        If a value is no real number, or NaN.
    """
    return elementwise(expm1_minus_float64, {"x": x})
