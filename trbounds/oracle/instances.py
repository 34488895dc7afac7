"""Named tabular pairs that decide a point of the theory.

They compute in the arithmetic of their arguments: a ``Fraction`` gives an exact pair. Tokens and
prefixes are numbered as in :mod:`trbounds.oracle.tabular`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from trbounds.errors import InputError
from trbounds.oracle.rewards import worst_reward
from trbounds.oracle.tabular import Scalar, TabularPair

__all__ = [
    "baseline_offset",
    "length_baseline_offset",
    "missing_absolute_continuity",
    "rare_context",
    "rare_reward",
    "two_step_tight",
    "two_valued_ratio",
]


def missing_absolute_continuity(mass: Scalar) -> TabularPair:
    """Return the pair on which every bound fails: the training policy leaves the support.

    ``T = 1``, ``mu = (1, 0)``, ``pi = (1 - mass, mass)``, ``R = (0, 1)``. The ratio is
    ``1 - mass`` at the only token that is ever sampled, the surrogate is 0, and the error is
    `mass`, while every bound proportional to ``T - 1`` is 0.

    Parameters
    ----------
    mass : scalar
        Training probability of the token that is never sampled, from 0 to 1.

    Returns
    -------
    TabularPair
        The counterexample.
    """
    _check_range("mass", mass, 0, 1)
    one = mass * 0 + 1
    return _pair([[[one, 0 * one]]], [[[one - mass, mass]]], [0 * one, one])


def baseline_offset(shift: Scalar = Fraction(1, 8)) -> TabularPair:
    """Return a pair whose baseline-free surrogate exceeds every bound while the objective falls.

    ``T = 2``; the first token decides the reward, and its probability falls from 1/2 to
    ``1/2 - shift``; the second step is the same under both policies. ``J`` falls by `shift` and
    ``L' = -shift``, but ``E_mu[R sum_t rho_t] = 1 - shift``. The classical bound is
    ``4 shift**2``, below it for ``shift <= 1/4``. So ``L > B`` implies improvement for ``L'``
    only.

    Parameters
    ----------
    shift : scalar, optional
        From 0 to 1/2.

    Returns
    -------
    TabularPair
        The counterexample; token 1 is rewarded.
    """
    _check_range("shift", shift, 0, Fraction(1, 2))
    half = shift * 0 + Fraction(1, 2)
    fair = [half, half]
    return _pair(
        [[fair], [fair, fair]],
        [[[half + shift, half - shift]], [fair, fair]],
        [0 * half, 0 * half, 2 * half, 2 * half],
    )


def length_baseline_offset(shift: Scalar = Fraction(1, 8)) -> TabularPair:
    """Return a pair on which even the baseline ``b = J(mu)`` misleads, since lengths vary.

    ``T = 2``; token 1 ends the response. Under the rollout policy the first token ends it with
    probability 1/2, under the training policy with ``1/2 + shift``; a response is rewarded when it
    goes on. ``J`` falls by `shift`, but ``E_mu[(R - J_mu) sum_{t <= length} rho_t]`` is
    ``1/4 - shift``: the offset is the covariance of reward and length. The classical bound is
    ``4 shift**2``, below it for `shift` up to 1/8.

    Parameters
    ----------
    shift : scalar, optional
        From 0 to 1/2.

    Returns
    -------
    TabularPair
        The counterexample.
    """
    _check_range("shift", shift, 0, Fraction(1, 2))
    half = shift * 0 + Fraction(1, 2)
    fair = [half, half]
    return _pair(
        [[fair], [fair, fair]],
        [[[half - shift, half + shift]], [fair, fair]],
        [2 * half, 2 * half, 0 * half, 0 * half],
        eos=1,
    )


def two_valued_ratio(step: Scalar, T: int) -> TabularPair:
    """Return a fair coin whose ratio is ``1 + step`` or ``1 - step``, with its worst reward.

    Every context has TV ``step / 2`` and chi2 ``step**2``. At ``T = 2`` it attains the
    second-order chi2 bound: ``|Error| = step**2 / 2``. For small steps and many of them it
    approaches the path-sum bound on ``E_mu[(W - 1 - M)**2]``.

    Parameters
    ----------
    step : scalar
        From 0 to 1.
    T : int
        Horizon, at least 1.

    Returns
    -------
    TabularPair
        The pair, with vocabulary 2.
    """
    _check_range("step", step, 0, 1)
    half = step * 0 + Fraction(1, 2)
    up, down = half * (1 + step), half * (1 - step)
    pair = _pair(
        [[[half, half]] * 2**t for t in range(T)],
        [[[up, down]] * 2**t for t in range(T)],
        [0 * half] * 2**T,
    )
    return pair.with_reward(worst_reward(pair))


def two_step_tight(tv: Scalar) -> TabularPair:
    """Return the pair that attains half the classical bound: ``|Error| = 2 tv**2`` at ``T = 2``.

    Parameters
    ----------
    tv : scalar
        TV of every context, from 0 to 1/2.

    Returns
    -------
    TabularPair
        The pair of :func:`two_valued_ratio` with step ``2 tv``.
    """
    _check_range("tv", tv, 0, Fraction(1, 2))
    return two_valued_ratio(2 * tv, 2)


def rare_context(probability: Scalar, tv: Scalar = Fraction(1, 4)) -> TabularPair:
    """Return a pair that differs only in a context reached with a given probability.

    ``T = 2``. The sequence KL is ``probability * kl_max`` with ``kl_max = -log(1 - 4 tv**2) / 2``
    whatever the probability: no function of the sequence KL bounds the largest token KL.

    Parameters
    ----------
    probability : scalar
        Of the first token being 1, in (0, 1).
    tv : scalar, optional
        TV in the context that follows it, from 0 to below 1/2.

    Returns
    -------
    TabularPair
        The pair; a response that ends in token 1 is rewarded.
    """
    _check_range("probability", probability, 0, 1)
    _check_range("tv", tv, 0, Fraction(1, 2))
    half = probability * 0 + Fraction(1, 2)
    fair = [half, half]
    first = [[1 - probability, probability]]
    return _pair(
        [first, [fair, fair]],
        [first, [fair, [half - tv, half + tv]]],
        [0 * half, 2 * half] * 2,
    )


def rare_reward(probability: Scalar, gain: Scalar) -> TabularPair:
    """Return the one-token pair that makes the entropy dual ``G(D, v)`` tight in a limit.

    ``mu = (1 - p, p)``, ``pi = (1 - p (1 + gain), p (1 + gain))``, ``R = (0, 1)``, so
    ``L' = J(pi) - J(mu) = p gain``. In the duality behind ``G`` equality needs
    ``rho - 1 = s / (1 - s)`` with ``s = A / lambda``, which one free ratio always meets, and
    ``A = R - J(mu)`` equal to 0 or 1, which holds up to order `p`. Hence
    ``L' / G(D, v) -> 1`` as ``p -> 0``; it is never reached for ``v > 0``.

    Parameters
    ----------
    probability : scalar
        ``p``, in (0, 1).
    gain : scalar
        ``rho - 1`` at the rewarded token, above -1 and at most ``1 / p - 1``.

    Returns
    -------
    TabularPair
        The pair.
    """
    _check_range("probability", probability, 0, 1)
    _check_range("gain", gain, -1, 1 / probability - 1)
    raised = probability * (1 + gain)
    one = raised * 0 + 1
    return _pair(
        [[[one - probability, one * probability]]], [[[one - raised, raised]]], [0 * one, one]
    )


def _pair(
    rollout: Sequence[Sequence[Sequence[Scalar]]],
    train: Sequence[Sequence[Sequence[Scalar]]],
    reward: Sequence[Scalar],
    eos: int | None = None,
) -> TabularPair:
    """Build a pair with one prompt from nested lists ``[position][context][token]``."""
    return TabularPair(
        rollout=tuple(np.array([table]) for table in rollout),
        train=tuple(np.array([table]) for table in train),
        reward=np.array([reward]),
        eos=eos,
    )


def _check_range(name: str, value: Scalar, low: Scalar, high: Scalar) -> None:
    if not low <= value <= high:
        raise InputError(f"is {value}; expected a value from {low} to {high}", field=name)
