"""Exact divergences of two distributions over a vocabulary, on any array API namespace.

With x and y the logits of μ and π, c the difference of their log-normalisers,
d = (y - x) - c = log ρ and e = expm1(d) = ρ - 1:

    kl = sum mu (e - d)      tv = sum mu |e| / 2      chi2 = sum mu e^2

Every term of the first and third is non-negative and none is a difference of large sums, so nothing
cancels when the policies are close. The normalisers give c to about 1e-15 only, which would spoil a
TV below 1e-5; c is therefore corrected by log(sum mu exp(d)), which is 0 at the true c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trbounds.arrays import array_namespace, device
from trbounds.divergences.elementwise import expm1_minus_float64
from trbounds.divergences.rows import checked_logits
from trbounds.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergences:
    """The divergences of pairs of distributions (μ, π): float64, in nats, one entry per pair.

    Attributes
    ----------
    kl : array
        KL(μ‖π) = Σ μ log(μ/π); inf where μ has mass that π lacks.
    kl_reverse : array
        KL(π‖μ); inf where π has mass that μ lacks.
    tv : array
        Total variation, Σ |π - μ| / 2, in [0, 1].
    chi2 : array
        χ²(π‖μ) = Σ π²/μ - 1; inf where π has mass that μ lacks.
    entropy : array
        Entropy of μ.
    max_abs_log_ratio : array
        Largest |log π - log μ| over the tokens that either policy can produce.
    unsupported_mass : array
        π-mass of tokens with μ = 0. Where it is positive, π is not absolutely continuous with
        respect to μ, E_μ[ρ] falls short of 1 by this amount, and no bound on the error applies.
    """

    kl: Any
    kl_reverse: Any
    tv: Any
    chi2: Any
    entropy: Any
    max_abs_log_ratio: Any
    unsupported_mass: Any


@dataclass(frozen=True)
class Ratio:
    """Two distributions, token by token; divergences are sums of terms made from these."""

    xp: ModuleType
    log_mu: Any  # 0 where absent
    mu: Any
    pi: Any
    shared: Any  # both policies can produce the token
    close: Any  # shared, and log rho < 1: expm1(log rho) is used
    log_ratio: Any  # log rho where shared, else 0
    difference: Any  # pi - mu, without cancellation


@dataclass(frozen=True)
class Normaliser:
    """log Σ exp(logit) of rows, in two parts: their sum would lose what a huge peak leaves."""

    peak: Any  # the largest logit
    rest: Any  # log Σ exp(logit - peak)

    @property
    def log(self) -> Any:
        """The log-normaliser."""
        return self.peak + self.rest


def normaliser(xp: ModuleType, x: Any) -> Normaliser:
    """Return the normaliser over the last axis, kept as an axis of length 1."""
    peak = xp.max(x, axis=-1, keepdims=True)
    return Normaliser(peak, xp.log(xp.sum(xp.exp(x - peak), axis=-1, keepdims=True)))


def _ratio(rollout_logits: Any, train_logits: Any) -> Ratio:
    xp = array_namespace(rollout_logits, train_logits)
    like = rollout_logits if device(rollout_logits) is not None else train_logits
    x = checked_logits(xp, rollout_logits, like, "rollout_logits")
    y = checked_logits(xp, train_logits, like, "train_logits")
    if x.shape[-1] != y.shape[-1]:
        raise InputError(
            f"found vocabulary {y.shape[-1]}, expected {x.shape[-1]} as in 'rollout_logits'",
            field="train_logits",
        )
    try:
        x, y = xp.broadcast_arrays(x, y)
    except ValueError:
        raise InputError(
            f"found shape {tuple(y.shape)}, expected leading axes that broadcast with "
            f"{tuple(x.shape)} of 'rollout_logits'",
            field="train_logits",
        ) from None
    norms = normaliser(xp, x), normaliser(xp, y)
    shifts = norms[1].peak - norms[0].peak, norms[1].rest - norms[0].rest
    first = ratio_at(xp, x, y, *norms, shifts)
    excess = xp.sum(first.difference, axis=-1, keepdims=True)
    return ratio_at(xp, x, y, *norms, (*shifts, xp.log1p(excess)))


def ratio_at(
    xp: ModuleType, x: Any, y: Any, norm_x: Normaliser, norm_y: Normaliser, shifts: Sequence[Any]
) -> Ratio:
    """Compare rows, or parts of rows, of logits at known normalisers.

    Parameters
    ----------
    xp : module
        Array namespace.
    x, y : array, shape (..., n)
        Float64 logits of μ and π.
    norm_x, norm_y : Normaliser
        Of the whole rows, their parts floats or arrays of shape (..., 1).
    shifts : sequence of float or array, shape (..., 1)
        Their sum is the log-normaliser of y less that of x. They are subtracted one after the
        other, since the later ones may be smaller than what rounding leaves of the first.

    Returns
    -------
    Ratio
        The pair, token by token.
    """
    in_mu, in_pi = x > -math.inf, y > -math.inf
    shared = in_mu & in_pi
    zero = xp.zeros_like(x)
    log_mu = xp.where(in_mu, (xp.where(in_mu, x, zero) - norm_x.peak) - norm_x.rest, zero)
    log_pi = (xp.where(in_pi, y, zero) - norm_y.peak) - norm_y.rest
    mu = xp.where(in_mu, xp.exp(log_mu), zero)
    pi = xp.exp(xp.where(in_pi, log_pi, -math.inf))
    log_ratio = xp.where(shared, y, zero) - xp.where(shared, x, zero)
    for shift in shifts:
        log_ratio = log_ratio - shift
    log_ratio = xp.where(shared, log_ratio, zero)
    close = shared & (log_ratio < 1.0)
    rise = xp.expm1(xp.where(close, log_ratio, zero))
    difference = xp.where(close, mu * rise, pi - mu)
    return Ratio(xp, log_mu, mu, pi, shared, close, log_ratio, difference)


def _kl(r: Ratio) -> Any:
    xp = r.xp
    small = xp.where(r.close, r.log_ratio, xp.zeros_like(r.log_ratio))
    terms = xp.where(
        r.close, r.mu * expm1_minus_float64(xp, small), r.difference - r.mu * r.log_ratio
    )
    lost = xp.any((r.mu > 0.0) & ~r.shared, axis=-1)
    total = xp.sum(terms, axis=-1)
    return xp.where(lost, xp.full_like(total, math.inf), total)


def _unsupported(r: Ratio) -> Any:
    xp = r.xp
    return xp.where(~r.shared & (r.mu == 0.0), r.pi, xp.zeros_like(r.pi))


def _inf_where_unsupported(r: Ratio, total: Any) -> Any:
    xp = r.xp
    return xp.where(xp.any(_unsupported(r) > 0.0, axis=-1), xp.full_like(total, math.inf), total)


def _kl_reverse(r: Ratio) -> Any:
    # sum pi d - (pi - mu): every term is non-negative, and for small d it is mu d^2 / 2.
    xp = r.xp
    close = r.shared & (xp.abs(r.log_ratio) < 1.0)
    d = xp.where(close, r.log_ratio, xp.zeros_like(r.log_ratio))
    near = r.mu * (d * xp.expm1(d) - expm1_minus_float64(xp, d))
    far = r.pi * r.log_ratio - r.difference
    return _inf_where_unsupported(r, xp.sum(xp.where(close, near, far), axis=-1))


def _tv(r: Ratio) -> Any:
    return r.xp.clip(0.5 * r.xp.sum(r.xp.abs(r.difference), axis=-1), max=1.0)


def _chi2(r: Ratio) -> Any:
    xp = r.xp
    rise = xp.expm1(xp.where(r.close, r.log_ratio, xp.zeros_like(r.log_ratio)))
    # pi^2/mu through logarithms: mu alone may underflow, or pi/mu overflow.
    # One after the other, because twice the largest float overflows.
    far_ratio = xp.where(r.close, xp.zeros_like(r.mu), r.log_ratio)
    exponent = (r.log_mu + far_ratio) + far_ratio
    overflow = exponent > 709.78
    square = xp.exp(xp.where(overflow, xp.zeros_like(exponent), exponent))
    square = xp.where(overflow, xp.full_like(square, math.inf), square)
    far = xp.where(r.shared, square - 2.0 * r.pi + r.mu, r.mu)
    terms = xp.where(r.close, r.mu * rise * rise, far)
    return _inf_where_unsupported(r, xp.sum(terms, axis=-1))


def sum_divergences(r: Ratio) -> Divergences:
    """Sum every divergence over the tokens of the last axis."""
    xp = r.xp
    one_sided = xp.any(((r.mu > 0.0) | (r.pi > 0.0)) & ~r.shared, axis=-1)
    largest = xp.max(xp.abs(r.log_ratio), axis=-1)
    return Divergences(
        kl=_kl(r),
        kl_reverse=_kl_reverse(r),
        tv=_tv(r),
        chi2=_chi2(r),
        entropy=-xp.sum(r.mu * r.log_mu, axis=-1),
        max_abs_log_ratio=xp.where(one_sided, xp.full_like(largest, math.inf), largest),
        unsupported_mass=xp.sum(_unsupported(r), axis=-1),
    )


def divergences(rollout_logits: Any, train_logits: Any) -> Divergences:
    """Compute every divergence of pairs of distributions given by logits.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (..., V)
        Logits or log-probabilities of the rollout policy μ and the training policy π along the
        last axis; each row is normalised here. The leading axes broadcast. -inf is probability 0.

    Returns
    -------
    Divergences
        Float64 arrays of the leading shape, on the device of the arguments.

    Raises
    ------
    InputError
        If they are no real numbers, a row holds NaN or +inf or is -inf throughout, or the
        vocabularies differ; the record is the index of the row.

    Notes
    -----
    Relative error of kl, tv and chi2 below 1e-10 for TV from 1e-10 to 1, for logits of magnitude up
    to 1000; beyond, the rounding of the logits themselves shows in small divergences. Several
    temporaries of the size of the arguments are made: for rows of a large vocabulary use
    `trbounds.logits.row_divergences`.

    Examples
    --------
    >>> import numpy as np
    >>> result = divergences(np.log([0.5, 0.5]), np.log([0.25, 0.75]))
    >>> round(float(result.tv), 12), round(float(result.chi2), 12)
    (0.25, 0.25)
    """
    return sum_divergences(_ratio(rollout_logits, train_logits))


def kl_divergence(rollout_logits: Any, train_logits: Any) -> Any:
    """Return KL(μ‖π) = Σ μ log(μ/π), in nats.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (..., V)
        As for `divergences`.

    Returns
    -------
    array
        Float64, of the leading shape; inf where μ has mass that π lacks.

    Raises
    ------
    InputError
        As for `divergences`.
    """
    return _kl(_ratio(rollout_logits, train_logits))


def total_variation(rollout_logits: Any, train_logits: Any) -> Any:
    """Return the total variation Σ |π - μ| / 2.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (..., V)
        As for `divergences`.

    Returns
    -------
    array
        Float64, of the leading shape, in [0, 1].

    Raises
    ------
    InputError
        As for `divergences`.
    """
    return _tv(_ratio(rollout_logits, train_logits))


def chi2_divergence(rollout_logits: Any, train_logits: Any) -> Any:
    """Return χ²(π‖μ) = Σ π²/μ - 1.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (..., V)
        As for `divergences`.

    Returns
    -------
    array
        Float64, of the leading shape; inf where π has mass that μ lacks.

    Raises
    ------
    InputError
        As for `divergences`.
    """
    return _chi2(_ratio(rollout_logits, train_logits))
