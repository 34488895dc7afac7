"""What a summary lacks: records that were left out, parts of the inputs that are not done."""

from __future__ import annotations

from dataclasses import dataclass

from trbounds.errors import InputError
from trbounds.traces.partition import Part


@dataclass(frozen=True, order=True)
class Skipped:
    """A record (or a whole file: ``record`` is -1) that was left out, and why."""

    file: str
    record: int
    field: str
    problem: str

    @classmethod
    def of(cls, error: InputError) -> Skipped:
        """Take the place and the problem from an error."""
        record = -1 if error.record is None else error.record
        return cls(error.file or "", record, error.field or "", error.problem)

    def error(self) -> InputError:
        """Return the error it was made of."""
        record = None if self.record < 0 else self.record
        return InputError(
            self.problem, file=self.file or None, record=record, field=self.field or None
        )


@dataclass(frozen=True)
class Partial:
    """What a summary holds of its inputs when the run that made it did not come to its end.

    Parameters
    ----------
    done : frozenset of Part
        Parts of the inputs that are in the summary.
    left : int
        Number of parts that are not.
    """

    done: frozenset[Part]
    left: int

    def merge(self, other: Partial) -> Partial:
        """Return what the merged summary lacks."""
        return Partial(self.done | other.done, self.left + other.left)

    def __str__(self) -> str:
        return f"partial: {len(self.done)} of {len(self.done) + self.left} parts of the inputs"
