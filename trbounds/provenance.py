"""Where the values of a profile come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trbounds.errors import InputError

__all__ = ["Origin", "Provenance"]

Origin = Literal["given", "derived", "estimated", "observed"]


@dataclass(frozen=True)
class Provenance:
    """Where a value of a profile comes from.

    Parameters
    ----------
    kind : {"given", "derived", "estimated", "observed"}
        Given by the caller; derived from other fields by a proved relation; estimated from
        samples; or the largest value observed in samples, which is not the largest possible.
    by : str
        The relation, or how the estimate was made.
    standard_error : float, optional
        Of an estimate.
    plug_in : bool
        True when the value rests on an estimate or an observed maximum, directly or through
        the fields it is derived from. What is computed from it is then not certified.

    Raises
    ------
    InputError
        If the kind is none of these.
    """

    kind: Origin
    by: str = ""
    standard_error: float | None = None
    plug_in: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Origin):
            expected = ", ".join(get_args(Origin))
            raise InputError(f"found {self.kind!r}, expected one of {expected}", field="kind")
        if self.kind in ("estimated", "observed"):
            object.__setattr__(self, "plug_in", True)
