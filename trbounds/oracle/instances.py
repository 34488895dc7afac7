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


def missing_absolute_continuity(mass: Scalar) -> TabularPair:
    """Return a pair whose training policy leaves the support, where bounds that need it fail.

    ``T = 1``, ``mu = (1, 0)``, ``pi = (1 - mass, mass)``, ``R = (0, 1)``. The ratio is
    ``1 - mass`` at the only token that is ever sampled, the surrogate is 0, and the error is
    `mass`, while every bound proportional to ``T - 1`` is 0. The bounds ``sequence_kl`` and
    ``triangle`` hold all the same.

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


def rare_switch(moved: Scalar, rarity: Scalar, steps: int) -> TabularPair:
    """Return a pair whose error approaches the sequence KL, the most that it allows.

    ``T = steps + 1``. At each of the first `steps` positions, until it is drawn, token 1 has
    rollout probability `rarity` and training probability `moved`. After it, the next token is
    almost surely 0 under the rollout and almost surely 1 under the training policy. The two agree
    elsewhere. A response fails if its first 1 is followed by 0.

    As ``rarity -> 0`` the rollout never meets what changes: ``J(mu) = J(pi) = 1`` and the reward's
    variance is 0 in the limit, but ``L' = -steps * moved``, since the ratio of a rare failure is
    large. The sequence KL is ``-steps * log(1 - moved)``, so that ``|Error| / kl_seq -> 1`` for
    small `moved`, at any sequence KL with steps enough.

    Parameters
    ----------
    moved : scalar
        Training probability of a rare token, from 0 to below 1.
    rarity : scalar
        Its rollout probability, in (0, 1).
    steps : int
        Positions with a rare token, at least 1; there are ``2**(steps + 1)`` responses.

    Returns
    -------
    TabularPair
        The pair, with vocabulary 2.
    """
    _check_range("moved", moved, 0, 1)
    _check_range("rarity", rarity, 0, 1)
    _check_range("steps", steps, 1, 20)
    zero = 0 * moved * rarity
    one, half = zero + 1, zero + Fraction(1, 2)
    agree = [half, half]
    rare, kept = [one - rarity, zero + rarity], [one - moved, zero + moved]
    rollout, train = [], []
    for t in range(steps + 1):
        # Context 0 has only zeros, context 1 its first 1 at the end.
        contexts = 2**t
        rollout.append([rare if c <= 1 else agree for c in range(contexts)])
        train.append([(kept, rare[::-1])[c] if c <= 1 else agree for c in range(contexts)])
    rollout[-1][0] = train[-1][0] = agree
    reward = [one] * 2 ** (steps + 1)
    for t in range(steps):
        # A 1 at position t + 1, the next token 0, then anything.
        later = 2 ** (steps - 1 - t)
        reward[2 * later : 3 * later] = [zero] * later
    return _pair(rollout, train, reward)


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
