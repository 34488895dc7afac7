"""What everyone who takes numbers checks: that they are numbers, and within their range."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace, asarray_float64, device, to_numpy
from trbounds.errors import InputError

__all__ = [
    "COUNT",
    "as_number",
    "as_number_array",
    "as_number_arrays",
    "as_numpy",
    "is_count",
    "kept",
    "refuse_where",
]

_OTHER_KINDS = "bcSUmM"

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
        If a value is not made of real numbers. Truth values, strings and masked entries are none.
    """
    xp = array_namespace(*fields.values())
    like = next((value for value in fields.values() if device(value) is not None), None)
    return {name: as_number_array(name, v, xp=xp, like=like) for name, v in fields.items()}


def as_number_array(name: str, value: Any, *, xp: ModuleType, like: Any = None) -> Any:
    """Convert one field, as :func:`as_number_arrays` does.

    Parameters
    ----------
    name : str
        Of the field.
    value : number, sequence or array
        What to convert.
    xp : module
        Array namespace.
    like : array, optional
        An array whose device to use.

    Returns
    -------
    array
        Of dtype float64.

    Raises
    ------
    InputError
        If the value is not made of real numbers.
    """
    try:
        if value is None or _is_of_other_kind(value):
            raise TypeError
        return asarray_float64(value, xp=xp, like=like)
    except InputError as error:
        raise InputError(error.problem, field=name) from None
    except (TypeError, ValueError, OverflowError):
        raise _no_numbers(name, value) from None


def _is_of_other_kind(value: Any) -> bool:
    """Tell whether values are truth values, complex, text or dates: all turn into floats."""
    if device(value) is not None and not isinstance(value, np.ndarray):
        return bool(array_namespace(value).isdtype(value.dtype, ("bool", "complex floating")))
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return any(np.asarray(entry).dtype.kind in _OTHER_KINDS for entry in array.flat)
    return array.dtype.kind in _OTHER_KINDS


def _no_numbers(name: str, value: Any) -> InputError:
    return InputError(
        f"found {reprlib.repr(value)}, expected a number or an array of numbers", field=name
    )


def as_number(name: str, value: Any) -> float:
    """Return one number.

    Parameters
    ----------
    name : str
        Of the field.
    value : number or array
        Of no dimension.

    Returns
    -------
    float
        The number.

    Raises
    ------
    InputError
        If it is not one real number.
    """
    array = as_number_arrays({name: value})[name]
    if array.ndim:
        found = f"found an array of shape {tuple(array.shape)}"
        raise InputError(f"{found}, expected one number", field=name)
    return float(array)


def as_numpy(name: str, value: Any) -> NDArray[Any]:
    """Copy a field to numpy, dtype kept; see :func:`trbounds.arrays.to_numpy`.

    Parameters
    ----------
    name : str
        Of the field.
    value : array, scalar or sequence
        Of any supported library.

    Returns
    -------
    ndarray
        The values.

    Raises
    ------
    InputError
        If it is no array, or has masked entries.
    """
    try:
        return to_numpy(value)
    except InputError as error:
        raise InputError(error.problem, field=name) from None
    except (TypeError, ValueError):
        raise _no_numbers(name, value) from None


def kept(array: Any) -> Any:
    """Return an array to keep: a copy of a numpy array that its owner could still change."""
    if isinstance(array, np.ndarray) and _can_change(array):
        array = array.copy()
        array.flags.writeable = False
    return array


def _can_change(array: Any) -> bool:
    """Tell whether an array, or one that it is a view of, can be written to."""
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.base
    return array is not None


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
