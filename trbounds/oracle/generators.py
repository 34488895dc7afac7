"""Seeded random tabular pairs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal, TypeAlias, get_args

import numpy as np

from trbounds.errors import InputError
from trbounds.oracle.rewards import worst_reward
from trbounds.oracle.tabular import Array, TabularPair, elementwise, normalised

Kind: TypeAlias = Literal["near", "far", "heavy", "degenerate", "sparse", "two_valued", "truncated"]
RewardKind: TypeAlias = Literal["uniform", "binary", "worst"]

KINDS: tuple[Kind, ...] = ("near", "far", "heavy", "degenerate", "sparse", "two_valued")
"""Kinds of random pair that are absolutely continuous: all but ``truncated``."""


def random_pair(
    rng: np.random.Generator,
    T: int,
    A: int,
    *,
    prompts: int = 1,
    eos: bool = False,
    kind: Kind = "near",
    closeness: float = 0.1,
    reward: RewardKind = "uniform",
) -> TabularPair:
    """Draw a float64 pair.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    T, A : int
        Horizon and vocabulary size, each at least 1.
    prompts : int, optional
        Number of prompts; with several, their distribution is random.
    eos : bool, optional
        Whether the last token of the vocabulary ends a response.
    kind : {"near", "far", "heavy", "degenerate", "sparse", "two_valued", "truncated"}, optional
        How the training policy differs from a random rollout policy. ``near``: Gaussian noise on
        the logits. ``far``: unrelated. ``heavy``: in about half of the contexts one token of
        rollout probability 1e-6 to 1e-2 becomes up to 1000 times likelier. ``degenerate``: in each
        context the policies are equal, or both deterministic, or never use a token, or the
        training policy alone drops one. ``sparse``: the policies differ in one context per prompt.
        ``two_valued``: ``rho`` is ``1 + closeness`` or ``1 - closeness``, each with rollout
        probability 1/2. ``truncated``: the rollout policy drops its least likely token, so that
        absolute continuity fails.
    closeness : float, optional
        Standard deviation of logit noise (``near``, ``sparse``, ``truncated``), or the step of
        ``two_valued``, at most 1. Unused by the other kinds.
    reward : {"uniform", "binary", "worst"}, optional
        Independent uniform rewards, fair coin flips, or the reward with the largest ``|Error|``.

    Returns
    -------
    TabularPair
        A pair with rewards in [0, 1].

    Raises
    ------
    InputError
        If `kind`, `reward` or `closeness` is out of its range.
    """
    if kind not in get_args(Kind):
        raise InputError(f"is {kind!r}; expected one of {', '.join(get_args(Kind))}", field="kind")
    if reward not in get_args(RewardKind):
        expected = ", ".join(get_args(RewardKind))
        raise InputError(f"is {reward!r}; expected one of {expected}", field="reward")
    if not 0 <= closeness <= (1 if kind == "two_valued" else np.inf):
        raise InputError(f"is {closeness}; out of range for kind {kind!r}", field="closeness")
    contexts = sum(A**t for t in range(T))
    rollout, train = _PERTURB[kind](rng, _random_policy(rng, (prompts, contexts, A)), closeness)
    values = rng.random((prompts, A**T))
    pair = TabularPair(
        rollout=_split(rollout, T),
        train=_split(train, T),
        reward=np.round(values) if reward == "binary" else values,
        prompt_probability=rng.dirichlet(np.ones(prompts)),
        eos=A - 1 if eos else None,
    )
    return pair.with_reward(worst_reward(pair)) if reward == "worst" else pair


def random_rational_pair(
    rng: np.random.Generator,
    T: int,
    A: int,
    *,
    prompts: int = 1,
    eos: bool = False,
    kind: Kind = "near",
    closeness: float = 0.1,
    reward: RewardKind = "uniform",
    denominator: int = 10_000,
) -> TabularPair:
    """Draw an exact pair: a random float pair rounded to small fractions.

    Parameters
    ----------
    rng, T, A, prompts, eos, kind, closeness, reward
        As for :func:`random_pair`.
    denominator : int, optional
        Probabilities are rounded to multiples of its reciprocal, never to zero, then normalised.

    Returns
    -------
    TabularPair
        A pair of fractions with the same support as the float pair.
    """
    start: RewardKind = "binary" if reward == "binary" else "uniform"
    draw = random_pair(
        rng, T, A, prompts=prompts, eos=eos, kind=kind, closeness=closeness, reward=start
    )

    def rounded(table: Array) -> Array:
        counts = np.where(table > 0, np.maximum(np.round(table * denominator), 1), 0)
        return normalised(elementwise(Fraction, counts))

    pair = TabularPair(
        rollout=tuple(rounded(table) for table in draw.rollout),
        train=tuple(rounded(table) for table in draw.train),
        reward=elementwise(Fraction, np.round(draw.reward * denominator))
        * Fraction(1, denominator),
        prompt_probability=rounded(draw.prompt_probability),
        eos=draw.eos,
    )
    return pair.with_reward(worst_reward(pair)) if reward == "worst" else pair


def _split(table: Array, T: int) -> tuple[Array, ...]:
    """Cut a table of all contexts into one per position."""
    A = table.shape[-1]
    starts = np.cumsum([A**t for t in range(T)])[:-1]
    return tuple(np.split(table, starts, axis=1))


def _softmax(logits: Array) -> Array:
    return normalised(np.exp(logits - logits.max(axis=-1, keepdims=True)))


def _random_policy(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    # From nearly flat to peaked rows.
    return _softmax(rng.uniform(0.0, 2.0, (*shape[:2], 1)) * rng.standard_normal(shape))


def _near(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    return mu, _softmax(np.log(mu) + closeness * rng.standard_normal(mu.shape))


def _far(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    return mu, _random_policy(rng, mu.shape)


def _heavy(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    rows = mu.shape[:2]
    rare = 10.0 ** rng.uniform(-6, -2, rows)
    raised = np.minimum(rare * 10.0 ** rng.uniform(0, 3, rows), 0.5)
    raised = np.where(rng.random(rows) < 0.5, raised, rare)
    token = _one_token(rng, mu)
    return _with_token(mu, token, rare), _with_token(mu, token, raised)


def _degenerate(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    pi = _random_policy(rng, mu.shape)
    token = _one_token(rng, mu)
    case = rng.integers(4, size=(*mu.shape[:2], 1))
    certain = token.astype(np.float64)
    mu = np.where(case == 1, certain, np.where(case == 2, _without_token(mu, token), mu))
    pi = np.where(case == 1, certain, np.where(case >= 2, _without_token(pi, token), pi))
    return mu, np.where(case == 0, mu, pi)


def _sparse(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    _, pi = _near(rng, mu, closeness)
    chosen = rng.integers(mu.shape[1], size=(mu.shape[0], 1, 1))
    return mu, np.where(np.arange(mu.shape[1])[:, None] == chosen, pi, mu)


def _two_valued(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    if mu.shape[-1] == 1:
        return mu, mu
    token = _one_token(rng, mu)
    sign = rng.choice([-1.0, 1.0], size=(*mu.shape[:2], 1))
    mu = _with_token(mu, token, np.full(mu.shape[:2], 0.5))
    return mu, mu * (1 + closeness * sign * np.where(token, 1.0, -1.0))


def _truncated(rng: np.random.Generator, mu: Array, closeness: float) -> tuple[Array, Array]:
    _, pi = _near(rng, mu, closeness)
    return _without_token(mu, mu == mu.min(axis=-1, keepdims=True)), pi


def _one_token(rng: np.random.Generator, table: Array) -> Array:
    """Choose one token of each row; a mask."""
    chosen = rng.integers(table.shape[-1], size=(*table.shape[:2], 1))
    mask: Array = np.arange(table.shape[-1]) == chosen
    return mask


def _with_token(table: Array, token: Array, probability: Array) -> Array:
    """Give one token of each row a probability, and the others the rest in proportion."""
    if table.shape[-1] == 1:
        return table
    others = _without_token(table, token)
    return np.where(token, probability[..., None], (1 - probability[..., None]) * others)


def _without_token(table: Array, token: Array) -> Array:
    """Take one token out of each row, unless it is the only one."""
    if table.shape[-1] == 1:
        return table
    return normalised(np.where(token, 0.0, table))


_PERTURB: dict[Kind, Callable[[np.random.Generator, Array, float], tuple[Array, Array]]] = {
    "near": _near,
    "far": _far,
    "heavy": _heavy,
    "degenerate": _degenerate,
    "sparse": _sparse,
    "two_valued": _two_valued,
    "truncated": _truncated,
}
