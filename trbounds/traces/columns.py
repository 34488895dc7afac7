"""The columns of a canonical trace: which a file must have, their other names, what they hold."""

from __future__ import annotations

from collections.abc import Iterable

from trbounds.errors import InputError
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS

REQUIRED = ("rollout_logprobs", "train_logprobs")

ALIASES = {"loss_mask": "mask", "response_mask": "mask"}
"""Names that frameworks have for a field. Nobody would notice that a mask was not read."""

KNOWN = (*TOKEN_FIELDS, *SEQUENCE_FIELDS, *ALIASES)

NUMBERS = ("reward", "temperature", "top_p")
INTEGERS = ("step", "length", "top_k")
BOOLEANS = ("finished", "accepted")
TRUTH_VALUES = ("mask", "reward", *BOOLEANS)
"""Fields that may hold true and false; anywhere else they are a mistake, and no numbers."""

IDENTIFIERS = ("seq_id", "prompt_id", "group_id")


def field_of(column: str) -> str:
    """Return the field that a column of this name holds."""
    return ALIASES.get(column, column)


def by_field(columns: Iterable[str], file: str, record: int | None = None) -> dict[str, str]:
    """Return which column holds each field.

    Parameters
    ----------
    columns : iterable of str
        Known columns of a file, or of a record.
    file, record : str, int
        For messages.

    Raises
    ------
    InputError
        For two columns of one field, of which only one could be read. It names both.
    """
    found: dict[str, str] = {}
    for column in columns:
        field = field_of(column)
        if field in found:
            both = " and ".join(sorted((found[field], column)))
            raise InputError(
                f"found both {both}, expected one", file=file, record=record, field=field
            )
        found[field] = column
    return found
