"""JSON Lines to records in Python, block by block.

Lines go through orjson where it is installed (the extra ``fast``), and through the standard
library's parser where it is not or refuses: pyarrow's ends the process on some damaged lines
(a segmentation fault, pyarrow 26), and a log of a run that crashed often ends in one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

try:
    import orjson as _orjson
except ImportError:
    _orjson = None  # type: ignore[assignment]

__all__ = ["decoded_lines"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_LINE_VALUES = 1 << 22
"""Most values on a line. A value of two bytes of text takes up to 72 in memory."""


def decoded_lines(
    source: Source, options: ReadOptions
) -> Iterator[tuple[list[dict[str, Any]], NDArray[np.int64]]]:
    """Yield the objects of blocks of lines, and their line numbers counted from 0.

    Parameters
    ----------
    source : Source
        One JSON object a line; blank lines are passed over.
    options : ReadOptions
        Says what to do with a line that is no JSON object.

    Raises
    ------
    InputError
        If the file is empty, or for a bad line unless those are skipped.
    """
    start = 0
    for block in source.blocks_of_lines():
        if start == 0:
            block = block.removeprefix(_BYTE_ORDER_MARK)
        lines = block.splitlines() if b"\r" in block else block.removesuffix(b"\n").split(b"\n")
        records: list[dict[str, Any]] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, start):
            if not line.strip():
                continue
            try:
                records.append(_decode(line, number, source.name))
                numbers.append(number)
            except InputError as error:
                options.refuse(error)
        yield records, np.array(numbers, dtype=np.int64)
        start += len(lines)
    if start == 0:
        raise InputError("the file is empty", file=source.name)


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
    if len(line) > MAX_LINE_VALUES:
        values = line.count(b",") + line.count(b"[") + line.count(b"{")
        if values > MAX_LINE_VALUES:
            problem = f"line {number + 1} holds more than {MAX_LINE_VALUES} values"
            raise InputError(f"{problem}, expected one sequence a line", **place)
    try:
        record = _parse(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number + 1} is not valid JSON: {error}", **place) from None
    if not isinstance(record, dict):
        found = type(record).__name__
        raise InputError(f"line {number + 1} holds {found}, expected a JSON object", **place)
    return record
