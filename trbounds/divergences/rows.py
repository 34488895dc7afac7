"""Rows of logits: validation, and log-probabilities that keep their digits near p = 1."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from trbounds.arrays import device, to_numpy
from trbounds.checks import as_number_array
from trbounds.errors import InputError


def checked_logits(xp: ModuleType, logits: Any, like: Any, field: str) -> Any:
    """Return logits as float64, after looking at every row.

    Parameters
    ----------
    xp : module
        Array namespace.
    logits : array, shape (..., V)
        -inf is probability 0.
    like : array or None
        An array whose device to use.
    field : str
        Name for error messages.

    Returns
    -------
    array
        Float64, of the same shape.

    Raises
    ------
    InputError
        If they are no numbers, or a row holds NaN or +inf, or is -inf throughout.
    """
    x = as_number_array(field, logits, xp=xp, like=like)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise InputError(f"found shape {tuple(x.shape)}, expected (..., vocabulary)", field=field)
    rows = xp.reshape(x, (-1, x.shape[-1]))
    for bad, found in (
        (xp.any(xp.isnan(rows), axis=-1), "found NaN, expected logits"),
        (xp.any(rows == math.inf, axis=-1), "found +inf, expected logits below +inf"),
        (xp.all(rows == -math.inf, axis=-1), "all logits are -inf, expected at least one token"),
    ):
        if bool(xp.any(bad)):
            record = int(to_numpy(bad).argmax())
            raise InputError(found, record=record, field=field)
    return x


def log_softmax(xp: ModuleType, x: Any) -> Any:
    """Return the log-probabilities of rows of logits.

    Parameters
    ----------
    xp : module
        Array namespace.
    x : array, shape (..., V)
        Float64 logits, as `checked_logits` returns them.

    Returns
    -------
    array
        -inf where the logit is. The log-probability of the likeliest token has a relative error
        of about 1e-15 times the number of tokens' rounding, however close to 0 it is.
    """
    peak = xp.max(x, axis=-1, keepdims=True)
    tokens = xp.arange(x.shape[-1], device=device(x))
    likeliest = tokens == xp.argmax(x, axis=-1, keepdims=True)
    weights = xp.exp(x - peak)
    others = xp.sum(xp.where(likeliest, xp.zeros_like(x), weights), axis=-1, keepdims=True)
    return (x - peak) - xp.log1p(others)
