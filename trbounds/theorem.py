"""What every proved statement has in common: source, statement, proof and evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from trbounds.arrays import array_namespace, is_numpy
from trbounds.errors import InputError, MissingField

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement

__all__ = ["Kind", "Law", "Source", "Theorem"]

Case = TypeVar("Case")


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


@dataclass(frozen=True, kw_only=True, repr=False)
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

    #: What the letters of its kind mean, each with its meaning.
    notation: ClassVar[tuple[tuple[str, str], ...]] = ()

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

    def __repr__(self) -> str:
        """Return what tells it from others: the functions it is made of say nothing as text."""
        return (
            f"{type(self).__name__}(key={self.key!r}, title={self.title!r}, source='{self.source}')"
        )

    @property
    def kind(self) -> Kind:
        """Tight where an instance attains the value, otherwise upper."""
        return Kind.UPPER if self.attained is None else Kind.TIGHT

    def missing(self, situation: Any) -> tuple[str, ...]:
        """Return the required fields that a situation lacks.

        Parameters
        ----------
        situation : object
            What the theorem is evaluated at. Of a bound, a profile as it is: what completion would
            derive counts as lacking, so pass ``profile.complete()``.

        Returns
        -------
        tuple of str
            Their names; none if it can be evaluated.
        """
        return tuple(name for name in self.requires if getattr(situation, name) is None)


@dataclass(frozen=True, kw_only=True, repr=False)
class Law(Theorem, Generic[Case]):
    """A theorem about cases that are given in full: nothing is completed before evaluation.

    Parameters
    ----------
    key, title, source, quantity, requires, formula, statement, derive, rank, assumes, attained
        As of every :class:`Theorem`.
    relaxed : callable, optional
        ``relaxed(case)``: a simpler, larger value.
    """

    relaxed: Callable[[Case], Any] | None = None

    def evaluate(self, case: Case) -> Any:
        """Evaluate the law.

        Parameters
        ----------
        case : object
            What is known, one case or a batch.

        Returns
        -------
        float or array
            In the unit of the quantity: nats for a KL or a mismatch.

        Raises
        ------
        MissingField
            If the case lacks what the law needs.
        """
        return self._apply(self.formula, case)

    def evaluate_relaxed(self, case: Case) -> Any:
        """Evaluate the relaxed, larger value.

        Parameters
        ----------
        case : object
            As for :meth:`evaluate`.

        Returns
        -------
        float or array
            In the unit of the quantity.

        Raises
        ------
        InputError
            If the law has no relaxed form, or the case lacks what the law needs.
        """
        if self.relaxed is None:
            raise InputError(f"the law '{self.key}' has no relaxed form")
        return self._apply(self.relaxed, case)

    def _apply(self, formula: Callable[[Case], Any], case: Case) -> Any:
        lacking = self.missing(case)
        if lacking:
            raise MissingField(f"the law '{self.key}' needs {', '.join(lacking)}")
        value = formula(case)
        return float(value) if value.ndim == 0 and is_numpy(array_namespace(value)) else value
