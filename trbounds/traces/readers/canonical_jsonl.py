"""Canonical traces in JSON Lines, plain or compressed with gzip or Zstandard.

Lines go through the standard library's parser: pyarrow's ends the process on some damaged lines
(a segmentation fault, pyarrow 26), and a log of a run that crashed often ends in one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from trbounds.errors import InputError
from trbounds.traces.arrow import ALIASES
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch
from trbounds.traces.reader import Reader
from trbounds.traces.records import batch_from_records
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["READER"]

_REQUIRED = ("rollout_logprobs", "train_logprobs")
_KNOWN = (*TOKEN_FIELDS, *SEQUENCE_FIELDS, *ALIASES)


def _detects(path: str, head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    names: list[str] | None = None
    start = 0
    for block in source.blocks_of_lines():
        if start == 0:
            block = block.removeprefix(b"\xef\xbb\xbf")
        lines = block.splitlines() if b"\r" in block else block.removesuffix(b"\n").split(b"\n")
        if names is None:
            names = _find_names(lines, source.name)
        batch = _parse(lines, start, names or [*_REQUIRED], source, options)
        if batch is not None:
            yield from batch.slices(options.batch_tokens)
        start += len(lines)
    if start == 0:
        raise InputError("the file is empty", file=source.name)


def _find_names(lines: list[bytes], file: str) -> list[str] | None:
    """Return the known fields of the first good record: they are the ones that are read."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and all(name in record for name in _REQUIRED):
            names = [name for name in _KNOWN if record.get(name) is not None]
            for alias, name in ALIASES.items():
                if alias in names and name in names:
                    problem = f"found both {alias} and {name}, expected one"
                    raise InputError(problem, file=file, field=name)
            return names
    return None


def _parse(
    lines: list[bytes],
    start: int,
    names: list[str],
    source: Source,
    options: ReadOptions,
) -> TraceBatch | None:
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
    return batch_from_records(
        records, names, np.array(numbers, dtype=np.int64), file=source.name, options=options
    )


def _decode(line: bytes, number: int, file: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"line {number + 1} is not valid JSON: {error}"
        raise InputError(problem, file=file, record=number) from None
    if not isinstance(record, dict):
        raise InputError(
            f"line {number + 1} holds {type(record).__name__}, expected a JSON object",
            file=file,
            record=number,
        )
    return record


READER = Reader(
    name="canonical-jsonl",
    description="JSON Lines (.gz, .zst too), one object per sequence: rollout_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fallback=True,
)
