"""What everyone who takes numbers checks: that they are numbers, and within their range."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from trbounds.arrays import array_namespace, asarray_float64, device, to_numpy
from trbounds.errors import InputError

__all__ = ["COUNT", "as_number_arrays", "is_count", "refuse_where"]

#: What :func:`is_count` accepts, in words.
COUNT = "a whole number from 1 to 2^53"


def as_number_arrays(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert fields to float64 arrays of the namespace and device that they share.

    Parameters
    ----------
    fields : mapping of str to number, sequence or array
        By name. Plain numbers go where the first array is.

    Returns
    -------
    dict of str to array
        By name, the shapes kept.

    Raises
    ------
    InputError
        If a value is not made of real numbers. Truth values and strings are none.
    """
    xp = array_namespace(*fields.values())
    like = next((value for value in fields.values() if device(value) is not None), None)
    return {name: _as_numbers(name, value, xp, like) for name, value in fields.items()}


def _as_numbers(name: str, value: Any, xp: ModuleType, like: Any) -> Any:
    try:
        dtype = np.asarray(value).dtype if device(value) is None else value.dtype
        if value is None or getattr(dtype, "kind", "") in ("b", "c", "S", "U", "m", "M"):
            raise TypeError
        return asarray_float64(value, xp=xp, like=like)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"found {reprlib.repr(value)}, expected a number or an array of numbers", field=name
        ) from None


def is_count(x: Any, xp: ModuleType) -> Any:
    """Tell which numbers are whole, at least 1, and exact in float64."""
    return (x >= 1) & (x == xp.round(x)) & (x <= 2.0**53)


def refuse_where(bad: Any, array: Any, expected: str, field: str) -> None:
    """Raise an `InputError` that shows the first bad value, if there is one.

    Parameters
    ----------
    bad : array of bool
        Where values are out of range.
    array : array
        The values.
    expected : str
        The range, in words.
    field : str
        Name of the values.
    """
    if bool(array_namespace(bad).any(bad)):
        found = to_numpy(array)[to_numpy(bad)].ravel()[0]
        raise InputError(f"found {found:g}, expected {expected}", field=field)
