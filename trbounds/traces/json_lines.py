"""JSON Lines to records in Python, block by block.

Lines go through orjson where it is installed (the extra ``fast``), and through the standard
library's parser where it is not or refuses: pyarrow's ends the process on some damaged lines
(a segmentation fault, pyarrow 26), and a log of a run that crashed often ends in one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

try:
    import orjson as _orjson
except ImportError:
    _orjson = None  # type: ignore[assignment]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_LINE_BYTES = 1 << 26
"""Longest line that is read, in bytes."""

MAX_LINE_VALUES = 1 << 22
"""Most values on a line. A value of two bytes of text takes up to 72 in memory."""

Record = dict[str, Any]
Build = Callable[[Sequence[Record], NDArray[np.int64], ReadOptions], TraceBatch | None]


def begins_with_object(head: bytes) -> bool:
    """Tell whether the first bytes of a file can be those of one JSON object a line."""
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{")


def holds_key(head: bytes, *names: str, opening: str = "") -> bool:
    """Whether JSON text has one of these keys, before a value that begins with ``opening``."""
    for name in names:
        key = f'"{name}"'.encode()
        # Most files do not have the word; the pattern would look closely at every comma.
        if key in head and re.search(
            rb"[{,]\s*" + key + rb"\s*:\s*" + re.escape(opening.encode()), head
        ):
            return True
    return False


def batches_of_lines(source: Source, options: ReadOptions, build: Build) -> Iterator[TraceBatch]:
    """Decode lines, one JSON object each, and yield the batches that are made of them.

    Lines end in a line feed; blank ones are passed over, and counted. What is raised is the
    first fault in order of the lines, so that it does not depend on where the file is cut.

    Parameters
    ----------
    source : Source
        All lines of a file, or some (``source.lines``).
    options : ReadOptions
        Says what to do with a line that is no JSON object, or too long.
    build : callable
        ``build(records, numbers, options)`` makes a batch of the objects of a block of lines,
        whose numbers in the file, counted from 0, are given; None if nothing is left of them.

    Raises
    ------
    InputError
        If the file is empty, or for a bad line unless those are skipped.
    """
    number = 0 if source.lines is None else source.lines.first_record
    for block in source.blocks_of_lines(MAX_LINE_BYTES):
        if block is None:
            options.refuse(_too_long(number, source.name))
            number += 1
            continue
        lines = _split(block, number)
        batch = _first_fault_first(lines, number, source.name, options, build)
        number += len(lines)
        if batch is not None:
            yield from batch.slices(options.batch_tokens)
    if number == 0:
        raise InputError("the file is empty", file=source.name)


def leading_records(source: Source) -> Iterator[Record]:
    """Yield the objects of the first block of lines of a file, whatever ``source.lines`` says.

    Bad lines are passed over: they are for those who read the lines.

    Parameters
    ----------
    source : Source
        A file; not standard input.
    """
    block = next(Source(source.path).blocks_of_lines(MAX_LINE_BYTES), None)
    quiet = ReadOptions(on_error="skip")
    for number, line in enumerate([] if block is None else _split(block, 0)):
        yield from _decode_all([line], number, source.name, quiet)[0]


def _split(block: bytes, first: int) -> list[bytes]:
    if first == 0:
        block = block.removeprefix(_BYTE_ORDER_MARK)
    return block.removesuffix(b"\n").split(b"\n")


def _first_fault_first(
    lines: list[bytes], first: int, file: str, options: ReadOptions, build: Build
) -> TraceBatch | None:
    try:
        try:
            decoded = _decode_all(lines, first, file, options)
        except InputError:
            _look_at_all(lines, first, file, options, build)
            raise
        return build(*decoded, options)
    except InputError as error:
        if error.record is not None and error.record > first:
            # Faults of one kind are looked for in all lines before those of the next kind: an
            # earlier line may have one of a later kind.
            try:
                _first_fault_first(lines[: error.record - first], first, file, options, build)
            except InputError as earlier:
                if earlier.record is not None:
                    raise earlier from None
        raise


def _look_at_all(
    lines: list[bytes], first: int, file: str, options: ReadOptions, build: Build
) -> None:
    """Have `build` see the good lines after a bad one too: most of all say which fields to read."""
    quiet = replace(options, on_error="skip", on_skip=lambda error: None)
    with suppress(InputError):
        build(*_decode_all(lines, first, file, quiet), quiet)


def _decode_all(
    lines: list[bytes], first: int, file: str, options: ReadOptions
) -> tuple[list[Record], NDArray[np.int64]]:
    records: list[Record] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, first):
        if len(line) <= MAX_LINE_BYTES and not line.strip():
            continue
        try:
            records.append(_decode(line, number, file))
            numbers.append(number)
        except InputError as error:
            options.refuse(error)
    return records, np.array(numbers, dtype=np.int64)


def _too_long(number: int, file: str) -> InputError:
    return InputError(
        f"line {number + 1} has more than {MAX_LINE_BYTES >> 20} MiB, expected one sequence a line",
        file=file,
        record=number,
    )


def _parse(line: bytes) -> Any:
    if _orjson is not None:
        try:
            return _orjson.loads(line)
        except _orjson.JSONDecodeError:
            # Bare NaN, among others: the standard library admits it, or says what is wrong.
            pass
    return json.loads(line)


def _decode(line: bytes, number: int, file: str) -> dict[str, Any]:
    place: dict[str, Any] = {"file": file, "record": number}
    if len(line) > MAX_LINE_BYTES:
        raise _too_long(number, file)
    if len(line) > MAX_LINE_VALUES:
        values = line.count(b",") + line.count(b"[") + line.count(b"{")
        if values > MAX_LINE_VALUES:
            problem = f"line {number + 1} holds more than {MAX_LINE_VALUES} values"
            raise InputError(f"{problem}, expected one sequence a line", **place)
    try:
        record = _parse(line.removesuffix(b"\r"))
    except (ValueError, RecursionError) as error:
        found = str(error)
        if isinstance(error, json.JSONDecodeError):
            found = f"{error.msg} in column {error.colno}"  # its line is always the first
        raise InputError(f"line {number + 1} is not valid JSON: {found}", **place) from None
    if not isinstance(record, dict):
        found = type(record).__name__
        raise InputError(f"line {number + 1} holds {found}, expected a JSON object", **place)
    return record
