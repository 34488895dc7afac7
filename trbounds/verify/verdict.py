"""What a check found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from trbounds.errors import no_such
from trbounds.traces.error_estimates import ErrorEstimates
from trbounds.traces.finding import Finding

__all__ = ["Place", "Report", "Status", "Verdict"]

Status = Literal["exact", "plug-in", "estimated"]


class Place(NamedTuple):
    """A token: ``record`` and ``position`` count from 0 within the file.

    A position of all sequences has neither file nor record.
    """

    file: str | None
    record: int | None
    position: int

    def __str__(self) -> str:
        """Return file, record and position in words."""
        if self.file is None:
            return f"position {self.position}"
        return f"{self.file}, record {self.record}, position {self.position}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One check on a trace: ``left <= right``, or ``left = right`` for an estimate.

    Parameters
    ----------
    check : str
        Key of the check.
    family : str
        The kind of check: tokens, samples, profile, orderings, error, sup, gain or acceptance.
    statement : str
        What must hold.
    status : {"exact", "plug-in", "estimated"}
        Exact: checked on every token or on exact sums. Plug-in: a proved inequality between
        values computed from the trace. Estimated: a comparison within standard errors.
    left, right : float, optional
        The two sides.
    tolerance : float
        How far `left` may exceed `right`, for rounding of stored values or sampling error.
    equality : bool
        Whether the two sides must agree, rather than be in order.
    z : float, optional
        Of an estimate: how far it is from what must hold, in standard errors; positive is worse
        for an inequality.
    place : Place, optional
        Where the worst case is.
    holds : bool, optional
        None where there is nothing to decide: the check informs, or its columns are not logged.
    note : str
        What a reader should know besides.
    """

    check: str
    statement: str
    status: Status
    family: str = ""
    left: float | None = None
    right: float | None = None
    tolerance: float = 0.0
    equality: bool = False
    z: float | None = None
    place: Place | None = None
    holds: bool | None = None
    note: str = ""

    @property
    def slack(self) -> float | None:
        """How much room is left: ``right - left``, or ``-|left - right|`` for an equality."""
        if self.left is None or self.right is None:
            return None
        return -abs(self.left - self.right) if self.equality else self.right - self.left

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "check": self.check,
            "family": self.family,
            "statement": self.statement,
            "left": self.left,
            "right": self.right,
            "slack": self.slack,
            "tolerance": self.tolerance,
            "z": self.z,
            "place": None if self.place is None else self.place._asdict(),
            "status": self.status,
            "holds": self.holds,
            "note": self.note,
        }


def at_most(check: str, statement: str, left: float, right: float, **rest: Any) -> Verdict:
    """Return the verdict on ``left <= right + tolerance``."""
    holds = left <= right + rest.get("tolerance", 0.0)
    return Verdict(check=check, statement=statement, left=left, right=right, holds=holds, **rest)


def within_errors(
    check: str,
    statement: str,
    left: float,
    right: float,
    *,
    error: float,
    limit: float,
    equality: bool = False,
    note: str = "",
) -> Verdict:
    """Return the verdict on an estimated comparison.

    Without a standard error, or with an infinite limit, nothing can be decided; with an error of 0
    the comparison is exact.
    """
    distance = left - right
    decided = math.isfinite(error) and math.isfinite(limit)
    if not decided:
        note = "no standard error: fewer than two different sequences"
        z, holds = None, None
    else:
        z = distance / error if error > 0 else math.copysign(math.inf, distance)
        z = 0.0 if distance == 0 else z
        holds = abs(z) <= limit if equality else z <= limit
    return Verdict(
        check=check,
        statement=statement,
        status="estimated",
        left=left,
        right=right,
        tolerance=limit * error if decided else math.nan,
        equality=equality,
        z=z,
        holds=holds,
        note=note,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """What :func:`trbounds.verify.verify` found.

    Parameters
    ----------
    verdicts : tuple of Verdict
        One per check.
    files : tuple of str
        The files of the trace.
    n_sequences, n_tokens, n_prompts, T : int
        Its size: sequences, tokens that count, prompts, longest sequence.
    estimates : ErrorEstimates
        Objective, surrogate and error, with diagnostics of the weights.
    warnings : tuple of str
        Reasons not to trust what is estimated.
    findings : tuple of Finding
        Faults in how the trace was logged, errors first.
    """

    verdicts: tuple[Verdict, ...]
    files: tuple[str, ...]
    n_sequences: int
    n_tokens: int
    n_prompts: int
    T: int
    estimates: ErrorEstimates
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Whether no check is violated and nothing found makes the checks meaningless."""
        return not self.violations and all(item.severity != "error" for item in self.findings)

    @property
    def violations(self) -> tuple[Verdict, ...]:
        """The checks that are violated."""
        return tuple(verdict for verdict in self.verdicts if verdict.holds is False)

    def __getitem__(self, check: str) -> Verdict:
        """Return a verdict by its key.

        Raises
        ------
        InputError
            If there is no such check.
        """
        by_check = {verdict.check: verdict for verdict in self.verdicts}
        if check not in by_check:
            raise no_such("check", check, by_check)
        return by_check[check]

    def __iter__(self) -> Iterator[Verdict]:
        """Yield the verdicts."""
        return iter(self.verdicts)

    def __len__(self) -> int:
        """Return the number of checks."""
        return len(self.verdicts)

    def __repr__(self) -> str:
        violated = ", ".join(verdict.check for verdict in self.violations) or "none"
        found = ", ".join(item.name for item in self.findings) or "none"
        return (
            f"Report({len(self)} checks of {self.n_sequences} sequences; violated: {violated}; "
            f"findings: {found})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "holds": self.holds,
            "violations": [verdict.check for verdict in self.violations],
            "trace": {
                "files": list(self.files),
                "sequences": self.n_sequences,
                "tokens": self.n_tokens,
                "prompts": self.n_prompts,
                "T": self.T,
            },
            "warnings": list(self.warnings),
            "findings": [item.to_dict() for item in self.findings],
            "estimates": self.estimates.to_dict(),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }
