"""Masking rules: conditions on statistics of a sequence or a token, joined by and, or, not."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]

_SINGLE = "token "


class Rule(ABC):
    """What accepts a sequence, or keeps a token. Its text, ``str(rule)``, parses to the same rule.

    A rule with a condition on tokens (``token k2 <= 0.05``) says of every token whether it is
    kept; its conditions on sequences hold for all tokens of a sequence or for none.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of all that it compares, each once, in order."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of :attr:`names` that are statistics of a sequence."""
        return tuple(name for name in self.names if not name.startswith(_SINGLE))

    @property
    def token_statistics(self) -> tuple[str, ...]:
        """Those of :attr:`names` that are terms of a token; none for a rule on sequences."""
        return tuple(name for name in self.names if name.startswith(_SINGLE))

    @abstractmethod
    def accept(self, columns: Columns) -> NDArray[np.bool_]:
        """Say of every sequence, or of every token, whether it is accepted.

        Parameters
        ----------
        columns : mapping of str to ndarray
            By name, one entry per sequence; for a rule on tokens one entry per token, statistics
            of a sequence repeated.
        """

    @abstractmethod
    def caps(self) -> dict[str, float]:
        """Upper limits that all that is accepted keeps."""


@dataclass(frozen=True)
class Interval(Rule):
    """A statistic of a sequence, or a term of a token, lies in an interval.

    Parameters
    ----------
    statistic : str
        Its name.
    low, high : float
        Ends; infinite where there is none.
    low_open, high_open : bool
        Whether the end itself is outside.
    """

    statistic: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that it compares, each once, in order."""
        return (self.statistic,)

    def accept(self, columns: Columns) -> NDArray[np.bool_]:
        """Say of every sequence, or of every token, whether it is accepted."""
        values = columns[self.statistic]
        # An end beyond single precision is infinite beside a statistic that has it.
        with np.errstate(over="ignore"):
            above = values > self.low if self.low_open else values >= self.low
            below = values < self.high if self.high_open else values <= self.high
        return np.asarray(above & below, dtype=bool)

    def caps(self) -> dict[str, float]:
        """Upper limits that all that is accepted keeps."""
        return {self.statistic: self.high} if math.isfinite(self.high) else {}

    def __str__(self) -> str:
        below, above = "<" if self.high_open else "<=", ">" if self.low_open else ">="
        if math.isinf(self.low):
            return f"{self.statistic} {below} {self.high!r}"
        if math.isinf(self.high):
            return f"{self.statistic} {above} {self.low!r}"
        return (
            f"{self.low!r} {'<' if self.low_open else '<='} {self.statistic} {below} {self.high!r}"
        )


@dataclass(frozen=True)
class _Several(Rule):
    parts: tuple[Rule, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that it compares, each once, in order."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def _join(self, word: str) -> str:
        return f" {word} ".join(
            str(part) if isinstance(part, Interval) else f"({part})" for part in self.parts
        )


@dataclass(frozen=True)
class And(_Several):
    """Every part accepts."""

    def accept(self, columns: Columns) -> NDArray[np.bool_]:
        """Say of every sequence, or of every token, whether it is accepted."""
        return np.asarray(np.all([part.accept(columns) for part in self.parts], axis=0))

    def caps(self) -> dict[str, float]:
        """Upper limits that all that is accepted keeps."""
        out: dict[str, float] = {}
        for part in self.parts:
            for name, cap in part.caps().items():
                out[name] = min(cap, out.get(name, math.inf))
        return out

    def __str__(self) -> str:
        return self._join("and")


@dataclass(frozen=True)
class Or(_Several):
    """Some part accepts."""

    def accept(self, columns: Columns) -> NDArray[np.bool_]:
        """Say of every sequence, or of every token, whether it is accepted."""
        return np.asarray(np.any([part.accept(columns) for part in self.parts], axis=0))

    def caps(self) -> dict[str, float]:
        """Upper limits that all that is accepted keeps: those that every part has."""
        first, *rest = (part.caps() for part in self.parts)
        common = set(first).intersection(*rest)
        return {name: max(caps[name] for caps in (first, *rest)) for name in common}

    def __str__(self) -> str:
        return self._join("or")


@dataclass(frozen=True)
class Not(Rule):
    """The part does not accept."""

    part: Rule

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that it compares, each once, in order."""
        return self.part.names

    def accept(self, columns: Columns) -> NDArray[np.bool_]:
        """Say of every sequence, or of every token, whether it is accepted."""
        return ~self.part.accept(columns)

    def caps(self) -> dict[str, float]:
        """Return none: nothing is derived from what is refused."""
        return {}

    def __str__(self) -> str:
        return f"not ({self.part})"
