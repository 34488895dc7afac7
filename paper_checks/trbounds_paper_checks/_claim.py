"""What a claim is, and the rule that judges it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

from trbounds.errors import InputError

# A printed value may be off by this much, relatively, and still count as a rounding slip.
_SLIP = 0.005
# Room for floating-point error at a tie such as 409.5.
_TIE = 1e-12


class Verdict(Enum):
    """What became of a printed claim."""

    HOLDS = "holds"
    ROUNDING = "rounding"
    REFUTED = "refuted"
    UNSETTLED = "unsettled"

    def __str__(self) -> str:
        """Return the word."""
        return self.value


_WORST_FIRST = (Verdict.UNSETTLED, Verdict.REFUTED, Verdict.ROUNDING, Verdict.HOLDS)


def compare(printed: str, ours: float) -> Verdict:
    """Judge a printed number by ours.

    Parameters
    ----------
    printed : str
        As printed: ``"1,677"``, ``".774"``, ``"3.49e5"``, or ``"<1e-7"`` for an upper limit.
    ours : float
        The recomputed value.

    Returns
    -------
    Verdict
        ``HOLDS`` if ours rounds to the printed digits (within half a unit of the last printed
        digit, a tie included; the zeros that end a whole number are not counted as digits).
        ``ROUNDING`` if it does not, but is within one unit of the last digit or half a percent.
        Otherwise ``REFUTED``.

    Raises
    ------
    InputError
        If `printed` is not a number.
    """
    limit = printed.startswith("<")
    try:
        number = Decimal(printed.removeprefix("<").replace(",", ""))
    except InvalidOperation:
        raise InputError(f"found {printed!r}, expected a number as printed") from None
    value = float(number)
    if limit:
        return Verdict.HOLDS if ours < value else Verdict.REFUTED
    exponent = number.as_tuple().exponent
    if exponent == 0:
        exponent = number.normalize().as_tuple().exponent
    unit = 10.0 ** int(exponent)
    distance = abs(ours - value) - _TIE * abs(value)
    if distance <= unit / 2:
        return Verdict.HOLDS
    return Verdict.ROUNDING if distance <= max(unit, _SLIP * abs(value)) else Verdict.REFUTED


@dataclass(frozen=True)
class Value:
    """A printed number and how the library computes it.

    Parameters
    ----------
    label : str
        What the number is.
    printed : str
        As printed.
    compute : callable
        Returns our value.
    """

    label: str
    printed: str
    compute: Callable[[], float]


@dataclass(frozen=True)
class Entry:
    """A printed number beside ours.

    Parameters
    ----------
    label : str
        What the number is.
    printed : str
        As printed.
    ours : float
        Recomputed.
    verdict : Verdict
        By :func:`compare`.
    """

    label: str
    printed: str
    ours: float
    verdict: Verdict


@dataclass(frozen=True)
class Evidence:
    """What came out of evaluating a statement on instances.

    Parameters
    ----------
    holds : bool
        Whether the printed statement was true in every instance.
    shown : str
        The instances and the numbers found: the counterexample, where there is one.
    true_form : str
        The statement that is right, where the printed one is not.
    true_form_holds : bool
        Whether `true_form` was true in every instance.
    """

    holds: bool
    shown: str
    true_form: str = ""
    true_form_holds: bool = False


@dataclass(frozen=True)
class Result:
    """A judged claim.

    Parameters
    ----------
    claim : Claim
        The claim.
    verdict : Verdict
        What the rule found.
    entries : tuple of Entry
        Printed numbers beside ours; empty for a statement.
    shown : str
        What was evaluated; empty for printed numbers.
    true_form : str
        The statement that is right, where the printed one is not.
    """

    claim: Claim
    verdict: Verdict
    entries: tuple[Entry, ...] = ()
    shown: str = ""
    true_form: str = ""

    @property
    def as_recorded(self) -> bool:
        """Whether the verdict is the one recorded with the claim."""
        return self.verdict is self.claim.recorded

    @property
    def printed(self) -> str:
        """Printed values, or the printed statement."""
        return self.claim.printed

    @property
    def ours(self) -> str:
        """Our values, or what was shown of the statement."""
        if not self.entries:
            return self.shown
        return "; ".join(f"{entry.ours:,.6g}" for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "key": self.claim.key,
            "paper": self.claim.paper,
            "place": self.claim.place,
            "text": self.claim.text,
            "printed": self.printed,
            "ours": self.ours,
            "values": [
                {"label": e.label, "printed": e.printed, "ours": e.ours, "verdict": str(e.verdict)}
                for e in self.entries
            ],
            "true_form": self.true_form,
            "verdict": str(self.verdict),
            "recorded": str(self.claim.recorded),
            "as_recorded": self.as_recorded,
        }


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """Something a paper prints.

    Parameters
    ----------
    key : str
        Name, unique within its paper.
    paper : str
        Paper and version, such as ``"TRM v2"``.
    place : str
        Where it is printed; claims of one table share it.
    text : str
        The claim, in words.
    recorded : Verdict
        The verdict on record. A different one is a failure.
    """

    key: str
    paper: str
    place: str
    text: str
    recorded: Verdict

    @property
    @abstractmethod
    def printed(self) -> str:
        """As printed."""

    @abstractmethod
    def judge(self) -> Result:
        """Recompute the claim and judge it."""


@dataclass(frozen=True, kw_only=True)
class PrintedValues(Claim):
    """Printed numbers. Their verdict is the worst of the numbers' verdicts.

    Parameters
    ----------
    values : tuple of Value
        The numbers.
    """

    values: tuple[Value, ...]

    @property
    def printed(self) -> str:
        """The numbers as printed."""
        return "; ".join(value.printed for value in self.values)

    def judge(self) -> Result:
        """Recompute each number and compare."""
        entries = []
        for value in self.values:
            ours = float(value.compute())
            if not math.isfinite(ours):
                raise RuntimeError(f"{self.paper}, {self.key}: {value.label} is {ours}")
            entries.append(Entry(value.label, value.printed, ours, compare(value.printed, ours)))
        verdict = min((entry.verdict for entry in entries), key=_WORST_FIRST.index)
        return Result(self, verdict, tuple(entries))


@dataclass(frozen=True, kw_only=True)
class Statement(Claim):
    """A printed statement. Refuted only if an instance breaks it and the true form is checked.

    Parameters
    ----------
    evaluate : callable
        Evaluates instances and returns the evidence.
    """

    evaluate: Callable[[], Evidence]

    @property
    def printed(self) -> str:
        """The statement."""
        return self.text

    def judge(self) -> Result:
        """Evaluate the instances."""
        evidence = self.evaluate()
        if evidence.holds:
            verdict = Verdict.HOLDS
        else:
            verdict = Verdict.REFUTED if evidence.true_form_holds else Verdict.UNSETTLED
        return Result(self, verdict, shown=evidence.shown, true_form=evidence.true_form)
