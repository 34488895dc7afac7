"""Safe sets and pruned distributions, for rows of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trbounds.arrays import array_namespace, device, to_numpy
from trbounds.checks import as_number
from trbounds.divergences.rows import checked_logits
from trbounds.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
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
    number = as_number("min_p", min_p)
    if not 0.0 < number <= 1.0:
        raise InputError(f"found {number:g}, expected a number in (0, 1]", field="min_p")
    return number


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
        If `kept` has another shape or dtype, a row is not one of logits, or a set has no
        probability.
    """
    xp = array_namespace(logits, kept)
    like = logits if device(logits) is not None else kept
    x = checked_logits(xp, logits, like, field)
    kept = xp.asarray(kept)
    if kept.shape != x.shape or kept.dtype != xp.bool:
        raise InputError(
            f"found shape {tuple(kept.shape)} of {kept.dtype}, expected {tuple(x.shape)} of bool, "
            "the shape of the logits",
            field="kept",
        )
    return Columns.of(xp, x).restrict(kept, field)


@dataclass(frozen=True)
class Columns:
    """Some tokens of whole rows of logits, and the weight of the others.

    Attributes
    ----------
    xp : module
        Array namespace.
    x, weights : array, shape (..., n)
        Logits of these tokens, and their exponentials relative to the peak.
    peak : array, shape (..., 1)
        The largest logit of the whole row.
    outside : array, shape (...)
        Sum of the weights of the tokens that are not here.
    """

    xp: ModuleType
    x: Any
    weights: Any
    peak: Any
    outside: Any

    @classmethod
    def of(cls, xp: ModuleType, x: Any) -> Columns:
        """Take all tokens of rows of checked logits."""
        peak = xp.max(x, axis=-1, keepdims=True)
        weights = xp.exp(x - peak)
        return cls(xp, x, weights, peak, xp.zeros_like(peak[..., 0]))

    def take(self, chosen: Any) -> Columns:
        """Return the tokens chosen by a mask, shape (n,); the others go outside."""
        xp = self.xp
        (indices,) = xp.nonzero(chosen)
        x, weights = (xp.take(a, indices, axis=-1) for a in (self.x, self.weights))
        return Columns(xp, x, weights, self.peak, self.outside + self._sum(~chosen))

    def _sum(self, chosen: Any) -> Any:
        xp = self.xp
        return xp.sum(xp.where(chosen, self.weights, 0.0), axis=-1)

    def restrict(self, kept: Any, field: str) -> Pruned:
        """Prune to a set of these tokens; see :func:`restrict`."""
        xp, x = self.xp, self.x
        kept = kept & (x > -math.inf)
        empty = xp.reshape(~xp.any(kept, axis=-1), (-1,))
        if bool(xp.any(empty)):
            record = int(to_numpy(empty).argmax())
            raise InputError("the policy gives the set no probability", record=record, field=field)
        removed, staying = self.outside + self._sum(~kept), self._sum(kept)
        mass = removed / (removed + staying)
        inside = xp.where(kept, x, xp.full_like(x, -math.inf))
        return Pruned(
            kept=kept,
            logits=inside,
            n_kept=xp.sum(xp.astype(kept, xp.int64), axis=-1),
            pruned_mass=mass,
            log_kept=self._log_kept(inside, mass, removed + staying),
        )

    def _log_kept(self, inside: Any, mass: Any, total: Any) -> Any:
        xp = self.xp
        small = mass < 0.5
        log_kept = xp.log1p(-xp.where(small, mass, xp.zeros_like(mass)))
        if bool(xp.all(small)):
            return log_kept
        # exp(x - peak) may underflow for a whole set; its own logarithm does not.
        top = xp.max(inside, axis=-1, keepdims=True)
        log_staying = xp.log(xp.sum(xp.exp(inside - top), axis=-1)) + (top - self.peak)[..., 0]
        return xp.where(small, log_kept, log_staying - xp.log(total))


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
