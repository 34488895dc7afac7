"""Records already in Python (decoded JSON lines, unpickled samples) to a batch."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch, offsets_of
from trbounds.traces.columns import (
    BOOLEANS,
    INTEGERS,
    KNOWN,
    NUMBERS,
    REQUIRED,
    TRUTH_VALUES,
    by_field,
    field_of,
)
from trbounds.traces.validate import Ragged, ReadOptions, assemble

_LISTS = frozenset(TOKEN_FIELDS)
_KNOWN = frozenset(KNOWN)
_NUMBER_TYPES = frozenset({float, int, type(None)})


def fields_of_most(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """Return the fields that at least half of the records have: what to read from a whole file.

    So no record of a damaged or foreign kind decides what the others must have.

    Parameters
    ----------
    records : iterable of mappings
        The first ones of a file. Those without both log-probabilities do not count.

    Returns
    -------
    tuple of str or None
        None if no record counts.
    """
    n, counts = 0, Counter[str]()
    for record in records:
        if all(record.get(name) is not None for name in REQUIRED):
            n += 1
            counts.update({field_of(column) for column in _columns(record)})
    if not n:
        return None
    return tuple(name for name in (*TOKEN_FIELDS, *SEQUENCE_FIELDS) if 2 * counts[name] >= n)


def batch_from_records(
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    numbers: NDArray[np.int64],
    *,
    file: str,
    options: ReadOptions,
) -> TraceBatch | None:
    """Build a validated batch from mappings under canonical names.

    Parameters
    ----------
    records : sequence of mappings
        One per sequence, under canonical names or their aliases; token fields as lists of numbers,
        ``None`` for a missing entry, or as arrays of numbers.
    names : sequence of str
        The fields to take; each record must have all of them, and no other that is known.
    numbers : ndarray of int64
        Record number of each in the file.
    file : str
        For messages.
    options : ReadOptions
        Passed to :func:`trbounds.traces.validate.assemble`.

    Returns
    -------
    TraceBatch or None
        None if no record is left.

    Raises
    ------
    InputError
        For a bad record, unless bad records are skipped.
    """
    rows: list[dict[str, Any]] = []
    kept: list[int] = []
    for record, number in zip(records, numbers, strict=True):
        try:
            rows.append(_row(record, names, file, int(number)))
            kept.append(int(number))
        except InputError as error:
            options.refuse(error)
    if not rows:
        return None
    columns: dict[str, Ragged | NDArray[Any]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in _LISTS:
            offsets = offsets_of([value.size for value in values])
            columns[name] = Ragged(offsets, np.concatenate(values))
        else:
            columns[name] = _stack(name, values)
    return assemble(
        columns,
        file=file,
        first_record=kept[0],
        records=np.array(kept, dtype=np.int64),
        options=options,
    )


def _columns(record: Mapping[str, Any]) -> list[str]:
    """Return the known columns in which a record has a value."""
    return [column for column in _KNOWN.intersection(record) if record[column] is not None]


def _row(record: Mapping[str, Any], names: Sequence[str], file: str, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    columns = by_field(_columns(record), file, number)
    for name in names:
        column = columns.pop(name, None)
        try:
            if column is None:
                raise TypeError("no value, expected one in every record")
            row[name] = _convert(name, record[column])
        except (TypeError, OverflowError) as error:
            raise InputError(
                f"found {error}", file=file, record=number, field=column or name
            ) from None
    if columns:
        problem = (
            "found a value, expected none: most records at the beginning of the file have none"
        )
        raise InputError(problem, file=file, record=number, field=min(columns.values()))
    version = row.get("weight_version")
    if version is not None and version.ndim == 0:
        row["weight_version"] = np.repeat(version, row["rollout_logprobs"].size)
    return row


def _convert(name: str, value: Any) -> Any:
    if name == "weight_version" and not isinstance(value, list):
        return np.array(_whole(value), dtype=np.int64)
    if name in _LISTS:
        return _numbers(name, value)
    if name in NUMBERS:
        if not isinstance(value, int | float) or (
            isinstance(value, bool) and name not in TRUTH_VALUES
        ):
            raise TypeError(f"{type(value).__name__}, expected a number")
        return float(value)
    if name in INTEGERS:
        return _whole(value)
    if name in BOOLEANS:
        if not isinstance(value, bool):
            raise TypeError(f"{type(value).__name__}, expected true or false")
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise TypeError(f"{reprlib.repr(value)}, which is not valid Unicode") from None
        return value
    if name == "logprobs_mode":
        raise TypeError(f"{type(value).__name__}, expected a string")
    return _whole(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise TypeError(f"{reprlib.repr(value)}, expected a whole number")
    if abs(value) >= 2**63:
        raise OverflowError(f"{reprlib.repr(value)}, expected a whole number of 64 bits")
    return int(value)


def _numbers(name: str, value: Any) -> NDArray[np.float64]:
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            raise TypeError(f"an array of shape {value.shape}, expected one dimension")
        return value.astype(np.float64)
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__}, expected a list of numbers")
    kinds = set(map(type, value)) - _NUMBER_TYPES
    if name in TRUTH_VALUES:
        kinds.discard(bool)
    if kinds:
        raise TypeError(f"a list with {kinds.pop().__name__}, expected a list of numbers")
    try:
        return np.array(value, dtype=np.float64)
    except OverflowError:
        raise OverflowError("a whole number too large for float64") from None


def _stack(name: str, values: list[Any]) -> NDArray[Any]:
    if name in NUMBERS:
        return np.array(values, dtype=np.float64)
    if name in BOOLEANS:
        return np.array(values, dtype=bool)
    if name in INTEGERS or not any(isinstance(value, str) for value in values):
        return np.array(values, dtype=np.int64)
    return np.array([str(value) for value in values], dtype=object)
