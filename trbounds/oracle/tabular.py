"""Tabular policy pairs: two policies over a small context tree, and a reward.

A response of ``T`` tokens from a vocabulary of ``A`` is a path in a tree. The context before
position ``t`` (zero-based) is one of ``A**t`` prefixes, numbered in base ``A`` with the earliest
token as the leading digit: token ``y`` leads from prefix ``c`` to prefix ``c * A + y``. The same
numbering of whole responses indexes the reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from numbers import Rational
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trbounds.errors import InputError

Array: TypeAlias = NDArray[Any]
"""A float64 array, or an object array of ``fractions.Fraction``."""

Scalar: TypeAlias = Any
"""A ``float``, or in exact arithmetic a ``Fraction`` (for logarithms an ``mpmath.mpf``)."""

MAX_RESPONSES = 1 << 22
"""Largest ``prompts * A**T``: enumeration keeps every response in memory."""

SUM_TOLERANCE = 1e-12
"""How far float probabilities may be from summing to one."""


def _one_prompt() -> Array:
    return np.ones(1)


@dataclass(frozen=True, eq=False)
class TabularPair:
    """A rollout policy, a training policy and a reward, given as tables.

    The arithmetic is float64, or exact when any array holds ``fractions.Fraction`` (dtype object).
    All arrays are copied and made read-only.

    Parameters
    ----------
    rollout, train : sequence of arrays
        One array per position ``t = 0..T-1``, of shape ``(prompts, A**t, A)``: the conditional
        probabilities of the next token, in the numbering of :mod:`trbounds.oracle.tabular`.
    reward : array of shape ``(prompts, A**T)``
        Reward of every response, within `reward_range`.
    prompt_probability : array of shape ``(prompts,)``, optional
        Distribution of prompts. The default is a single prompt.
    reward_range : pair of numbers, optional
        Smallest and largest possible reward; ``(0, 1)`` by default.
    eos : int, optional
        Token that ends a response. After it both policies repeat `eos` with certainty, whatever
        the tables say there: ``rho = 1``, every divergence is 0, and the reward of a finished
        response is the one stored for it padded with `eos`.

    Raises
    ------
    InputError
        On wrong shapes, probabilities that are negative, not finite or do not sum to one (exactly
        for fractions, within 1e-12 for floats), rewards outside the range, an `eos` outside the
        vocabulary, fractions mixed with inexact floats, or more than 2**22 responses.
    """

    rollout: tuple[Array, ...]
    train: tuple[Array, ...]
    reward: Array
    prompt_probability: Array = field(default_factory=_one_prompt)
    reward_range: tuple[Scalar, Scalar] = (0, 1)
    eos: int | None = None

    def __post_init__(self) -> None:
        tables = [np.asarray(table) for table in (*self.rollout, *self.train)]
        others = [np.asarray(self.reward), np.asarray(self.prompt_probability)]
        rational = any(array.dtype == object for array in (*tables, *others))
        convert = _to_fractions if rational else _to_floats
        self._check_shapes()
        for name in ("rollout", "train"):
            policy = tuple(
                self._absorb(convert(table, f"{name}[{t}]"), t)
                for t, table in enumerate(getattr(self, name))
            )
            for t, table in enumerate(policy):
                _check_distribution(table, f"{name}[{t}]")
                table.setflags(write=False)
            object.__setattr__(self, name, policy)
        for name in ("reward", "prompt_probability"):
            array = convert(getattr(self, name), name)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_distribution(self.prompt_probability, "prompt_probability")
        low, high = convert(np.asarray(self.reward_range, dtype=object), "reward_range")
        limits = (low, high) if rational else (float(low), float(high))
        object.__setattr__(self, "reward_range", limits)
        self._check_reward()

    @property
    def T(self) -> int:
        """Horizon: the longest response."""
        return len(self.rollout)

    @property
    def A(self) -> int:
        """Vocabulary size."""
        return int(np.shape(self.rollout[0])[-1])

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return int(np.shape(self.rollout[0])[0])

    @property
    def rational(self) -> bool:
        """Whether the arithmetic is exact."""
        return bool(self.reward.dtype == object)

    def with_reward(self, reward: ArrayLike) -> TabularPair:
        """Return the same policies with another reward.

        Parameters
        ----------
        reward : array of shape ``(prompts, A**T)``
            The new reward, within the same range.

        Returns
        -------
        TabularPair
            A new pair.
        """
        return replace(self, reward=np.asarray(reward))

    def to_rational(self) -> TabularPair:
        """Return the pair in exact arithmetic.

        Every float becomes the fraction it stands for, and each distribution is divided by its
        exact sum, so that it sums to one exactly.

        Returns
        -------
        TabularPair
            The pair itself when it is exact already.
        """
        if self.rational:
            return self
        return replace(
            self,
            rollout=tuple(normalised(_exact(table)) for table in self.rollout),
            train=tuple(normalised(_exact(table)) for table in self.train),
            reward=_exact(self.reward),
            prompt_probability=normalised(_exact(self.prompt_probability)),
            reward_range=(Fraction(self.reward_range[0]), Fraction(self.reward_range[1])),
        )

    def to_float(self) -> TabularPair:
        """Return the pair in float64, every fraction rounded to the nearest float.

        Returns
        -------
        TabularPair
            The pair itself when it is in float64 already.
        """
        if not self.rational:
            return self
        return replace(
            self,
            rollout=tuple(table.astype(np.float64) for table in self.rollout),
            train=tuple(table.astype(np.float64) for table in self.train),
            reward=self.reward.astype(np.float64),
            prompt_probability=self.prompt_probability.astype(np.float64),
            reward_range=(float(self.reward_range[0]), float(self.reward_range[1])),
        )

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of every response, the `eos` token included.

        Returns
        -------
        array of shape ``(A**T,)``
            Between 1 and ``T``; ``T`` everywhere without an `eos`.
        """
        return response_lengths(self.A, self.T, self.eos)

    def _check_shapes(self) -> None:
        T = len(self.rollout)
        if T == 0:
            raise InputError("has no positions; expected at least one", field="rollout")
        if len(self.train) != T:
            raise InputError(f"has {len(self.train)} positions; rollout has {T}", field="train")
        first = np.shape(self.rollout[0])
        if len(first) != 3 or first[0] < 1 or first[1] != 1 or first[2] < 1:
            raise InputError(
                f"has shape {first}; expected (prompts, 1, vocabulary)", field="rollout[0]"
            )
        prompts, _, A = first
        if prompts * A**T > MAX_RESPONSES:
            raise InputError(
                f"has {prompts} prompts x {A}**{T} responses; expected at most {MAX_RESPONSES}",
                field="rollout",
            )
        if self.eos is not None and not 0 <= self.eos < A:
            raise InputError(f"is {self.eos}; expected a token from 0 to {A - 1}", field="eos")
        expected = {"reward": (prompts, A**T), "prompt_probability": (prompts,)}
        expected["reward_range"] = (2,)
        for name, shape in expected.items():
            _check_shape(getattr(self, name), shape, name)
        for name in ("rollout", "train"):
            for t, table in enumerate(getattr(self, name)):
                _check_shape(table, (prompts, A**t, A), f"{name}[{t}]")

    def _absorb(self, table: Array, t: int) -> Array:
        if self.eos is None or t == 0:
            return table
        # A prefix of t tokens is finished when it is shorter than t, or ends with eos.
        lengths = response_lengths(self.A, t, self.eos)
        finished = (lengths < t) | (np.arange(self.A**t) % self.A == self.eos)
        table[:, finished, :] = table.dtype.type(0) if table.dtype != object else Fraction(0)
        table[:, finished, self.eos] += 1
        return table

    def _check_reward(self) -> None:
        low, high = self.reward_range
        if not low < high:
            raise InputError(f"is ({low}, {high}); expected low < high", field="reward_range")
        outside = ~((self.reward >= low) & (self.reward <= high)).astype(bool)
        if outside.any():
            prompt, response = np.argwhere(outside)[0]
            raise InputError(
                f"is {self.reward[prompt, response]} for prompt {prompt}, response {response}; "
                f"expected a value from {low} to {high}",
                field="reward",
            )


@lru_cache(maxsize=128)
def response_lengths(A: int, T: int, eos: int | None) -> NDArray[np.int64]:
    """Return the length, `eos` included, of every response of `T` tokens (read-only)."""
    lengths = np.full(A**T, T, dtype=np.int64)
    if eos is not None:
        responses = np.arange(A**T)
        for t in range(T - 1, -1, -1):
            lengths[responses // A ** (T - 1 - t) % A == eos] = t + 1
    lengths.setflags(write=False)
    return lengths


def _check_shape(array: ArrayLike, expected: tuple[int, ...], name: str) -> None:
    found = np.shape(array)
    if found != expected:
        raise InputError(f"has shape {found}; expected {expected}", field=name)


def _to_floats(array: ArrayLike, name: str) -> Array:
    floats = np.array(array, dtype=np.float64)
    if not np.isfinite(floats).all():
        raise InputError("holds NaN or infinity; expected finite numbers", field=name)
    return floats


def _to_fractions(array: ArrayLike, name: str) -> Array:
    def convert(value: object) -> Fraction:
        if isinstance(value, Rational):
            return Fraction(value)
        if isinstance(value, float) and value.is_integer():
            return Fraction(value)
        raise InputError(f"holds {value!r}; exact tables hold Fraction or int", field=name)

    return elementwise(convert, np.asarray(array).astype(object))


def elementwise(function: Callable[[Any], Any], array: Array) -> Array:
    """Apply a function of one number to each element of an object array or of floats."""
    result: Array = np.frompyfunc(function, 1, 1)(array)
    return result


def _exact(array: Array) -> Array:
    return elementwise(Fraction, array.astype(object))


def normalised(array: Array) -> Array:
    """Divide each row by its sum."""
    result: Array = array / array.sum(axis=-1, keepdims=True)
    return result


def _check_distribution(array: Array, name: str) -> None:
    if (array < 0).any():
        where = tuple(int(i) for i in np.argwhere(array < 0)[0])
        raise InputError(
            f"is {array[where]} at {where}; expected a probability of at least 0", field=name
        )
    sums = np.asarray(array.sum(axis=-1))
    wrong = sums != 1 if array.dtype == object else np.abs(sums - 1) > SUM_TOLERANCE
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f"sums to {sums[where]} at {where}; expected 1", field=name)
