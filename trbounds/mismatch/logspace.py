"""Probabilities given by logarithms, so that neither p nor 1 - p loses digits."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any


def log1mexp(xp: ModuleType, x: Any) -> Any:
    """Return ``log(1 - exp(x))``: the logarithm of 1 - p from that of p, and the reverse.

    Parameters
    ----------
    xp : module
        Array namespace.
    x : array
        At most 0, float64.

    Returns
    -------
    array
        Relative error below 1e-15; -inf at 0.

    References
    ----------
    M. Mächler, "Accurately computing log(1 - exp(-abs(a)))", 2012.
    """
    zero = x == 0.0
    near = (x > -math.log(2.0)) & ~zero
    harmless = xp.full_like(x, -1.0)
    close = xp.log(-xp.expm1(xp.where(near, x, harmless)))
    far = xp.log1p(-xp.exp(xp.where(near | zero, harmless, x)))
    return xp.where(zero, xp.full_like(x, -math.inf), xp.where(near, close, far))


def half_log_odds_difference(xp: ModuleType, logp: Any, logq: Any) -> Any:
    """Return ``|logit(q) - logit(p)| / 2`` with ``logit(p) = log p - log(1 - p)``.

    Parameters
    ----------
    xp : module
        Array namespace.
    logp, logq : array
        At most 0, float64, finite.

    Returns
    -------
    array
        Relative error below 1e-14, subnormal arguments aside; 0 where the two are equal, and inf
        where exactly one is 0.

    Notes
    -----
    Written ``|Delta - log((1-q)/(1-p))| / 2``: the two parts have opposite signs before the
    subtraction, so nothing cancels, and the second is ``log1p((p-q)/(1-p))`` where q is near p.
    """
    certain = (logp == 0.0) | (logq == 0.0)
    harmless = xp.full_like(logp, -1.0)
    x, y = xp.where(certain, harmless, logp), xp.where(certain, harmless, logq)
    delta = y - x
    # (1-q)/(1-p) as a quotient: near p = q = 1 the logarithms of both are large. At most 1 on top,
    # so that nothing overflows; near 1 it is taken from p - q.
    rest_p, rest_q = -xp.expm1(x), -xp.expm1(y)
    quotient = xp.minimum(rest_p, rest_q) / xp.maximum(rest_p, rest_q)
    close = (xp.abs(delta) < 1.0) & (quotient > 0.5)
    moved = xp.exp(x) * xp.expm1(xp.where(close, delta, 0.0)) / xp.where(close, rest_p, 1.0)
    ratio = xp.where(
        close,
        xp.log1p(-moved),
        xp.where(rest_q < rest_p, xp.log(quotient), -xp.log(quotient)),
    )
    value = xp.abs(delta - ratio) / 2
    unbounded = xp.where(logp == logq, xp.zeros_like(value), xp.full_like(value, math.inf))
    return xp.where(certain, unbounded, value)
