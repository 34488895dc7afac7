"""What every proved statement has in common: source, statement, proof and evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement

__all__ = ["Kind", "Source", "Theorem"]


class Kind(Enum):
    """What a theorem says of its quantity."""

    UPPER = "upper"  # it is at most the value
    TIGHT = "tight"  # at most the value, and some instance attains it
    EXACT = "exact"  # it equals the value
    LEADING_ORDER = "leading order"  # it equals the value up to a remainder of higher order


@dataclass(frozen=True)
class Source:
    """Where a theorem comes from.

    Parameters
    ----------
    work : str
        ``"TRM v2"``, ``"TRM v3"`` (arXiv 2512.23075) or ``"trbounds"``.
    place : str
        Theorem, section or equation.
    """

    work: str
    place: str

    @property
    def is_paper(self) -> bool:
        """Whether a paper printed it."""
        return self.work != "trbounds"

    def __str__(self) -> str:
        """Return work and place as one phrase."""
        return f"{self.work}, {self.place}" if self.place else self.work


@dataclass(frozen=True, kw_only=True)
class Theorem:
    """A statement about one quantity, with its proof and an evaluator.

    Bounds on |Error|, laws of the log-probability mismatch and laws of pruning are theorems about
    different quantities. Each kind names, as `requires`, the fields of the object that describes
    a situation, and evaluates its formula there.

    Parameters
    ----------
    key : str
        Name in code and on the command line; also the name of its file.
    title : str
        Name for people.
    source : Source
        Where it is from.
    quantity : str
        What it is about.
    requires : tuple of str
        The fields of the situation that it needs.
    formula : callable
        ``formula(situation)``: vectorised, on any array namespace.
    statement : callable
        The same value as a sympy expression (imports sympy).
    derive : callable
        The proof, as checked steps that end at the statement (imports sympy).
    rank : int
        Place in lists.
    assumes : tuple of str
        Assumptions beyond the situation.
    attained : callable, optional
        Returns an instance in which the quantity equals the value.
    """

    key: str
    title: str
    source: Source
    quantity: str
    requires: tuple[str, ...]
    formula: Callable[[Any], Any]
    statement: Callable[[], Statement]
    derive: Callable[[], Derivation]
    rank: int
    assumes: tuple[str, ...] = ()
    attained: Callable[[], Any] | None = None

    @property
    def kind(self) -> Kind:
        """Tight where an instance attains the value, otherwise upper."""
        return Kind.UPPER if self.attained is None else Kind.TIGHT

    def missing(self, situation: Any) -> tuple[str, ...]:
        """Return the required fields that a situation lacks."""
        return tuple(name for name in self.requires if getattr(situation, name) is None)
