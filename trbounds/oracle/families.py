"""Families of tabular pairs with few parameters, for searches over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.oracle.tabular import Array, TabularPair, normalised

# Largest |logit| of a rollout token, and of the log-ratio before normalisation.
_SPAN = 14.0
_MOST_CLASSES = 24
_MOST_RESPONSES = 4096  # A**T


@dataclass(frozen=True, eq=False)
class Family:
    """Pairs in which contexts of one class share their distributions.

    Parameters
    ----------
    name : str
        How contexts are grouped.
    T, A : int
        Horizon and vocabulary.
    eos : bool
        Whether the last token ends a response.
    classes : tuple of int arrays
        Per position, the class of each context, in the numbering of :class:`TabularPair`.
    """

    name: str
    T: int
    A: int
    eos: bool
    classes: tuple[NDArray[np.int64], ...]

    @property
    def count(self) -> int:
        """Number of classes."""
        return 1 + max(int(c.max()) for c in self.classes)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return 2 * (self.A - 1) * self.count

    def pair(self, parameters: Array) -> TabularPair:
        """Return the pair of a point of the cube ``[-1, 1]^size``.

        The first half are rollout logits in units of 14, the second half log-ratios, whose cube is
        taken so that policies close to each other fill much of the range. The last token's logits
        are 0.
        """
        logits, change = _SPAN * parameters.reshape(2, self.count, self.A - 1)
        change = change * parameters.reshape(2, self.count, self.A - 1)[1] ** 2
        rollout, train = _softmax(logits), _softmax(logits + change)
        return TabularPair(
            rollout=tuple(rollout[None, c] for c in self.classes),
            train=tuple(train[None, c] for c in self.classes),
            reward=np.zeros((1, self.A**self.T)),
            eos=self.A - 1 if self.eos else None,
        )

    def sample(self, rng: np.random.Generator) -> Array:
        """Draw parameters: anything, or peaked or flat, near or far, sparse or everywhere."""
        shape = (self.count, self.A - 1)
        if rng.random() < 0.25:
            return rng.uniform(-1, 1, self.size)
        peaked = rng.choice([0.0, 0.1, 0.5])
        logits = np.clip(peaked * rng.standard_normal(shape), -1, 1)
        # A log-ratio from 1e-4 up, through the cube of the parameter.
        size = np.cbrt(10.0 ** rng.uniform(-4, 1) / _SPAN)
        change = size * (
            rng.standard_normal(shape) if rng.random() < 0.5 else rng.choice([-1.0, 1.0], shape)
        )
        if rng.random() < 0.3:
            change = np.where(rng.random((self.count, 1)) < 0.5, change, 0.0)
        return np.concatenate([logits.ravel(), np.clip(change, -1, 1).ravel()])


def families(horizons: Iterable[int], vocabularies: Iterable[int]) -> tuple[Family, ...]:
    """Return the families of all shapes that are small enough to enumerate often.

    Parameters
    ----------
    horizons, vocabularies : iterable of int
        Shapes.

    Returns
    -------
    tuple of Family
        Contexts grouped by nothing (``context``), by position, by last token, by both, by position
        and first token, and by whether they lie on one chosen path; with and without an end token.
    """
    found = []
    for T, A, eos in product(horizons, vocabularies, (False, True)):
        if A < 2 or _MOST_RESPONSES < A**T:
            continue
        for name, key in _GROUPINGS.items():
            family = Family(name, T, A, eos, _classes(T, A, eos, key))
            if family.count <= _MOST_CLASSES:
                found.append(family)
    return tuple(found)


_GROUPINGS: dict[str, Any] = {
    "context": lambda tokens: tokens,
    "position": len,
    "last token": lambda tokens: tokens[-1:],
    "position and last token": lambda tokens: (len(tokens), tokens[-1:]),
    "position and first token": lambda tokens: (len(tokens), tokens[:1]),
    "one path": lambda tokens: None if any(tokens) else len(tokens),
}


def _classes(T: int, A: int, eos: bool, key: Any) -> tuple[NDArray[np.int64], ...]:
    numbers: dict[Any, int] = {}
    tables = []
    for t in range(T):
        table = np.zeros(A**t, dtype=np.int64)
        for prefix, tokens in enumerate(product(range(A), repeat=t)):
            # After the end token nothing is read.
            if not (eos and A - 1 in tokens):
                table[prefix] = numbers.setdefault(key(tokens), len(numbers))
        tables.append(table)
    return tuple(tables)


def _softmax(logits: Array) -> Array:
    whole = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
    return normalised(np.exp(whole - whole.max(axis=1, keepdims=True)))
