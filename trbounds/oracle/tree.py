"""One walk down the context tree: everything that exact truth is read from.

The same code serves float64 arrays and object arrays of fractions. Only logarithms differ; they
live in :class:`Logarithms`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from trbounds.oracle.tabular import Array, Scalar, TabularPair

WORKING_DIGITS = 80
"""Decimal digits of logarithms of fractions: 50 guaranteed, 30 for cancellation."""


@dataclass(frozen=True, eq=False)
class Position:
    """All contexts of one position; arrays of shape ``(prompts, A**t)`` unless said otherwise.

    Attributes
    ----------
    mu, pi : array
        Probability of the context within its prompt under rollout and training policy.
    sampled : bool array
        Contexts that the rollout policy reaches (prompt included).
    reached : bool array
        Contexts that either policy reaches.
    step : array of shape ``(prompts, A**t, A)``
        ``rho - 1`` of each next token; 0 where the rollout policy gives it no probability.
    defect : array
        Probability the training policy gives to tokens outside the rollout policy's support.
    tv, kl, chi2 : array
        TV, KL(rollout‖train) and chi2(train‖rollout) in nats; 0 at contexts nobody reaches.
    """

    mu: Array
    pi: Array
    sampled: NDArray[np.bool_]
    reached: NDArray[np.bool_]
    step: Array
    defect: Array
    tv: Array
    kl: Array
    chi2: Array


@dataclass(frozen=True, eq=False)
class Responses:
    """All whole responses; arrays of shape ``(prompts, A**T)``.

    Attributes
    ----------
    mu, pi : array
        Probability of the response within its prompt.
    sampled : bool array
        Responses that the rollout policy produces. Elsewhere the next three are 0.
    weight_excess : array
        ``W - 1`` with ``W`` the product of the ratios.
    ratio_sum_excess : array
        ``M``, the sum of ``rho_t - 1``.
    residual : array
        ``W - 1 - M``.
    """

    mu: Array
    pi: Array
    sampled: NDArray[np.bool_]
    weight_excess: Array
    ratio_sum_excess: Array
    residual: Array


@dataclass(frozen=True, eq=False)
class Tree:
    """What one walk finds: the contexts of each position, and the responses."""

    positions: tuple[Position, ...]
    responses: Responses


@contextmanager
def working_precision(rational: bool) -> Iterator[None]:
    """Give mpmath the digits that exact arithmetic promises; nothing for floats."""
    if not rational:
        yield
        return
    import mpmath  # only exact arithmetic needs it

    with mpmath.workdps(WORKING_DIGITS):
        yield


def walk(pair: TabularPair) -> Tree:
    """Walk down the context tree of a pair.

    ``W - 1``, ``M`` and ``W - 1 - M`` are carried as such, never formed as differences of
    probabilities, so they keep full relative accuracy for nearly equal policies.

    Parameters
    ----------
    pair : TabularPair
        The two policies.

    Returns
    -------
    Tree
        Contexts and responses.
    """
    one: Scalar = Fraction(1) if pair.rational else 1.0
    zero = one - one
    no_kl = logarithm_of_ratio(zero)
    shape = (pair.prompts, 1)
    likely = (pair.prompt_probability > 0).astype(bool)[:, None]
    sampled = trained = likely
    mu = pi = np.full(shape, one)
    weight = total = residual = np.full(shape, zero)
    positions = []
    for rollout, train in zip(pair.rollout, pair.train, strict=True):
        support = (rollout > 0).astype(bool)
        step = _ratio_excess(rollout, train, support, one)
        reached = sampled | trained
        defect = np.where(support, zero, train).sum(axis=-1)
        tv, kl, chi2 = _divergences(rollout, train, step, defect)
        positions.append(
            Position(
                mu=mu,
                pi=pi,
                sampled=sampled,
                reached=reached,
                step=step,
                defect=defect,
                tv=np.where(reached, tv, zero),
                kl=np.where(reached, kl, no_kl),
                chi2=np.where(reached, chi2, zero),
            )
        )
        residual = _children(residual[..., None] + weight[..., None] * step)
        weight = _children(weight[..., None] + (weight[..., None] + one) * step)
        total = _children(total[..., None] + step)
        mu = _children(mu[..., None] * rollout)
        pi = _children(pi[..., None] * train)
        sampled = _children(sampled[..., None] & support)
        trained = _children(trained[..., None] & (train > 0).astype(bool))
    return Tree(
        tuple(positions),
        Responses(
            mu=mu,
            pi=pi,
            sampled=sampled,
            weight_excess=np.where(sampled, weight, zero),
            ratio_sum_excess=np.where(sampled, total, zero),
            residual=np.where(sampled, residual, zero),
        ),
    )


def response_mean(pair: TabularPair, terms: Array) -> Scalar:
    """Sum terms of shape ``(prompts, n)`` within each prompt, then average over prompts."""
    return (pair.prompt_probability * terms.sum(axis=1)).sum()


def running_sum(terms: list[Array], pair: TabularPair) -> list[Array]:
    """Add a per-context quantity along every path, from the root to each context.

    Parameters
    ----------
    terms : list of arrays
        Entry ``t`` has shape ``(prompts, A**t)``.
    pair : TabularPair
        The pair the terms come from.

    Returns
    -------
    list of arrays
        Entry ``t`` holds, for each context, the sum over itself and the contexts before it.
    """
    sums = [terms[0]]
    for term in terms[1:]:
        sums.append(np.repeat(sums[-1], pair.A, axis=1) + term)
    return sums


def logarithm_of_ratio(step: Scalar) -> Scalar:
    """Return ``log(1 + step)`` of one number; minus infinity at ``step = -1``."""
    if isinstance(step, Fraction):
        import mpmath

        return mpmath.mp.log1p(_to_mpf(step))
    with np.errstate(divide="ignore"):
        return float(np.log1p(step))


def _children(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)


def _ratio_excess(rollout: Array, train: Array, support: Array, one: Scalar) -> Array:
    ratio: Array = np.where(support, train - rollout, one - one) / np.where(support, rollout, one)
    return ratio


def _divergences(
    rollout: Array, train: Array, step: Array, defect: Array
) -> tuple[Array, Array, Array]:
    tv = np.abs(train - rollout).sum(axis=-1) / 2
    # E_mu[rho - 1] is minus the defect, hence the second term.
    kl = (rollout * _log_remainder(step)).sum(axis=-1) + defect
    chi2 = (rollout * step * step).sum(axis=-1)
    return tv, kl, np.where((defect > 0).astype(bool), np.inf, chi2)


def _log_remainder(step: Array) -> Array:
    """Return ``d - log(1 + d)`` elementwise, at least 0, infinite at ``d = -1``."""
    if step.dtype == object:
        result: Array = np.frompyfunc(_log_remainder_fraction, 1, 1)(step)
        return result
    # With s = d / (2 + d): log(1 + d) = 2 atanh(s) and d - 2 s = d s, which leaves no cancellation.
    s = step / (step + 2.0)
    series = s * (step - 2.0 * s * s * _atanh_tail(s * s))
    with np.errstate(divide="ignore"):
        direct = step - np.log1p(step)
    return np.where(np.abs(step) < 0.2, series, direct)


def _atanh_tail(square: Array) -> Array:
    """Return ``sum_k square**k / (2 k + 3)``, to 1e-17 for ``square <= 1/81``."""
    tail = np.zeros_like(square)
    for k in range(8, -1, -1):
        tail = tail * square + 1.0 / (2 * k + 3)
    return tail


def _log_remainder_fraction(step: Fraction) -> Scalar:
    value = _to_mpf(step)
    return value - logarithm_of_ratio(step)


def _to_mpf(value: Fraction) -> Scalar:
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator
