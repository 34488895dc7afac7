"""Safe sets and pruned distributions, for rows of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trbounds.arrays import array_namespace, device, to_numpy
from trbounds.divergences.rows import checked_logits
from trbounds.errors import InputError

__all__ = ["Pruned", "checked_min_p", "prune", "restrict", "safe_set"]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Rows of logits with the tokens outside a set removed.

    Attributes
    ----------
    kept : array of bool, shape (..., V)
        The set S: tokens with positive probability that stay.
    logits : array, shape (..., V)
        The logits, -inf outside the set. Normalised, they are the pruned distribution.
    n_kept : array of int, shape (...)
        Number of tokens that stay.
    pruned_mass : array, shape (...)
        ``1 - Z``, the probability removed, a sum of the removed probabilities: no digits are lost
        where it is small. It is the TV between the pruned and the full row.
    log_kept : array, shape (...)
        ``log Z``; its negative is KL(pruned‖full) in nats.
    """

    kept: Any
    logits: Any
    n_kept: Any
    pruned_mass: Any
    log_kept: Any

    @property
    def tv(self) -> Any:
        """TV between the pruned and the full distribution of each row."""
        return self.pruned_mass

    @property
    def kl(self) -> Any:
        """KL(pruned‖full) of each row, in nats."""
        return -self.log_kept


def checked_min_p(min_p: float) -> float:
    """Return a threshold, or raise `InputError` if it is outside (0, 1]."""
    if isinstance(min_p, (bool, str)) or not 0.0 < float(min_p) <= 1.0:
        raise InputError(f"found {min_p!r}, expected a number in (0, 1]", field="min_p")
    return float(min_p)


def safe_set(logits: Any, min_p: float) -> Any:
    """Return the min-p safe set ``S = {i : p_i >= min_p max_k p_k}`` of each row.

    Parameters
    ----------
    logits : array, shape (..., V)
        Logits or log-probabilities; -inf is probability 0.
    min_p : float
        Threshold in (0, 1]. At 1 only the likeliest tokens stay.

    Returns
    -------
    array of bool, shape (..., V)
        Never empty. Compared as logarithms in float64; a token within rounding of the threshold
        may fall on either side.

    Raises
    ------
    InputError
        If `min_p` is outside (0, 1] or a row is not one of logits.
    """
    threshold = math.log(checked_min_p(min_p))
    xp = array_namespace(logits)
    x = checked_logits(xp, logits, None, "logits")
    return x - xp.max(x, axis=-1, keepdims=True) >= threshold


def restrict(logits: Any, kept: Any, *, field: str = "logits") -> Pruned:
    """Prune rows of logits to given sets.

    Parameters
    ----------
    logits : array, shape (..., V)
        Logits or log-probabilities; -inf is probability 0.
    kept : array of bool, shape (..., V)
        The sets, such as another policy's safe sets.
    field : str
        Name of the logits in error messages.

    Returns
    -------
    Pruned
        Float64, on the namespace and device of the logits.

    Raises
    ------
    InputError
        If the shapes differ, a row is not one of logits, or a set has no probability.
    """
    xp = array_namespace(logits, kept)
    like = logits if device(logits) is not None else kept
    x = checked_logits(xp, logits, like, field)
    kept = xp.asarray(kept, dtype=xp.bool)
    if kept.shape != x.shape:
        raise InputError(
            f"found shape {tuple(kept.shape)}, expected {tuple(x.shape)} as the logits",
            field="kept",
        )
    kept = kept & (x > -math.inf)
    empty = xp.reshape(~xp.any(kept, axis=-1), (-1,))
    if bool(xp.any(empty)):
        record = int(to_numpy(empty).argmax())
        raise InputError("the policy gives the set no probability", record=record, field=field)
    zero = xp.zeros_like(x)
    weights = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    removed = xp.sum(xp.where(kept, zero, weights), axis=-1)
    staying = xp.sum(xp.where(kept, weights, zero), axis=-1)
    # exp(x - max) may underflow for a whole set; its own logarithm does not.
    inside = xp.where(kept, x, xp.full_like(x, -math.inf))
    peak = xp.max(inside, axis=-1, keepdims=True)
    log_staying = xp.log(xp.sum(xp.exp(inside - peak), axis=-1)) + xp.reshape(
        peak - xp.max(x, axis=-1, keepdims=True), removed.shape
    )
    mass = removed / (removed + staying)
    small = mass < 0.5
    log_kept = xp.where(
        small,
        xp.log1p(-xp.where(small, mass, xp.zeros_like(mass))),
        log_staying - xp.log(removed + staying),
    )
    return Pruned(
        kept=kept,
        logits=inside,
        n_kept=xp.sum(xp.astype(kept, xp.int64), axis=-1),
        pruned_mass=mass,
        log_kept=log_kept,
    )


def prune(logits: Any, min_p: float) -> Pruned:
    """Prune rows of logits to their own min-p safe sets.

    Parameters
    ----------
    logits : array, shape (..., V)
        Logits or log-probabilities; -inf is probability 0.
    min_p : float
        Threshold in (0, 1].

    Returns
    -------
    Pruned
        Float64, on the namespace and device of the logits.

    Raises
    ------
    InputError
        As :func:`safe_set`.

    Notes
    -----
    Source: trbounds' derivation of claims of DVP (arXiv 2512.23087).

    Examples
    --------
    >>> import numpy as np
    >>> pruned = prune(np.log([0.6, 0.3, 0.1]), 0.2)
    >>> pruned.kept.tolist(), round(float(pruned.tv), 12)
    ([True, True, False], 0.1)
    """
    return restrict(logits, safe_set(logits, min_p))
