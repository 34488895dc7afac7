"""Array namespace and device: the only module that imports array_api_compat.

Every function of trbounds that takes arrays works on any library that follows the Python array
API standard (numpy, CuPy, torch, JAX, array_api_strict). This module finds the library of its
arguments; plain Python numbers, sequences and numpy scalars count as numpy unless an array of
another library stands beside them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import array_api_compat
import array_api_compat.numpy
import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency

__all__ = [
    "array_namespace",
    "asarray_float64",
    "bfloat16_dtype",
    "device",
    "is_numpy",
    "to_numpy",
]


def _is_array(x: object) -> bool:
    return array_api_compat.is_array_api_obj(x) and not isinstance(x, np.generic)


def array_namespace(*arrays: Any) -> ModuleType:
    """Return the array API namespace that the arguments share.

    Parameters
    ----------
    *arrays : array, scalar, sequence or None
        Numbers, sequences, numpy scalars and ``None`` do not decide the namespace.

    Returns
    -------
    module
        The namespace of the arrays; numpy's (as array_api_compat presents it) when there is none.

    Raises
    ------
    TypeError
        If two arguments belong to different libraries.
    """
    found = [x for x in arrays if _is_array(x)]
    namespace: ModuleType = (
        array_api_compat.array_namespace(*found) if found else array_api_compat.numpy
    )
    return namespace


def is_numpy(xp: ModuleType) -> bool:
    """Tell whether a namespace is numpy's.

    Parameters
    ----------
    xp : module
        As :func:`array_namespace` returns it.

    Returns
    -------
    bool
        True for numpy and for numpy as array_api_compat presents it.
    """
    return bool(array_api_compat.is_numpy_namespace(xp))


def device(x: object) -> object:
    """Return the device of an array.

    Parameters
    ----------
    x : object
        An array of any supported library, or anything else.

    Returns
    -------
    object
        As the library names it; ``None`` for what is no array.
    """
    where: object = array_api_compat.device(x) if _is_array(x) else None
    return where


def to_numpy(x: Any) -> NDArray[Any]:
    """Copy an array to numpy on the host.

    Parameters
    ----------
    x : array, scalar or sequence
        Of any supported library, on any device.

    Returns
    -------
    ndarray
        The values, dtype kept.

    Raises
    ------
    InputError
        If it is a numpy array with masked entries.
    MissingDependency
        If a torch tensor holds bfloat16 and ml_dtypes is not installed.
    """
    _refuse_masked(x)
    if isinstance(x, np.ndarray) or not _is_array(x):
        return np.asarray(x)
    if array_api_compat.is_cupy_array(x):
        host: NDArray[Any] = x.get()
        return host
    if array_api_compat.is_torch_array(x):
        x, torch = x.detach().cpu(), sys.modules["torch"]
        if x.dtype == torch.bfloat16:  # torch has no way to numpy for it, other than as its bits
            return np.asarray(x.view(torch.int16)).view(bfloat16_dtype())
        return np.asarray(x)
    if array_api_compat.is_jax_array(x):
        return np.asarray(x)
    return np.from_dlpack(x)


def asarray_float64(x: Any, *, xp: ModuleType | None = None, like: Any = None) -> Any:
    """Convert to a float64 array of a namespace, on a device.

    Parameters
    ----------
    x : array, scalar or sequence
        What to convert. A float64 array of the right place is returned as it is, without a copy.
    xp : module, optional
        The namespace; that of `x` and `like` by default.
    like : array, optional
        An array whose device to use; the device of `x` by default.

    Returns
    -------
    array
        Of dtype float64.

    Raises
    ------
    InputError
        If it is a numpy array with masked entries.
    """
    _refuse_masked(x)
    if xp is None:
        xp = array_namespace(x, like)
    where = device(like) if _is_array(like) else device(x)
    if _is_array(x) and not isinstance(x, np.ndarray):
        # torch warns of a tensor with a gradient in asarray, not here.
        return array_api_compat.to_device(xp.astype(x, xp.float64, copy=False), where)
    if not _is_array(x):
        x = np.asarray(x, dtype=np.float64)
        x = x if is_numpy(xp) else x.item() if x.ndim == 0 else x.tolist()
    return xp.asarray(x, dtype=xp.float64, device=where)


def _refuse_masked(x: object) -> None:
    # Conversion would drop the mask, and count what it hides.
    if np.ma.is_masked(x):
        raise InputError("found masked entries, expected none: leave them out or fill them")


def bfloat16_dtype() -> np.dtype[Any]:
    """Return the numpy dtype of bfloat16.

    Returns
    -------
    dtype
        That of ml_dtypes.

    Raises
    ------
    MissingDependency
        If ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ImportError:
        raise MissingDependency("ml_dtypes", extra="logits", purpose="Reading bfloat16") from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
