"""Canonical traces in JSON Lines, plain or compressed with gzip or Zstandard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch
from trbounds.traces.columns import KNOWN, REQUIRED, check_names
from trbounds.traces.json_lines import batches_of_lines, begins_with_object, leading_records
from trbounds.traces.reader import Reader
from trbounds.traces.records import batch_from_records
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["READER"]


def _detects(path: str, head: bytes) -> bool:
    return begins_with_object(head)


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    names = None if source.lines is None else _fields(source)

    def build(
        records: Sequence[dict[str, Any]], numbers: NDArray[np.int64], options: ReadOptions
    ) -> TraceBatch | None:
        nonlocal names
        names = names or _find_names(records, source.name)
        return batch_from_records(
            records, names or REQUIRED, numbers, file=source.name, options=options
        )

    yield from batches_of_lines(source, options, build)


def _fields(source: Source) -> list[str] | None:
    return _find_names(leading_records(source), source.name)


def _find_names(records: Iterable[dict[str, Any]], file: str) -> list[str] | None:
    """Return the known fields that a good record has: they are read from all; None without one."""
    found: set[str] = set()
    for record in records:
        if all(record.get(name) is not None for name in REQUIRED):
            found.update(name for name in KNOWN if record.get(name) is not None)
    names = [name for name in KNOWN if name in found]
    check_names(names, file)
    return names or None


READER = Reader(
    name="canonical-jsonl",
    description="JSON Lines (.gz, .zst too), one object per sequence: rollout_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fallback=True,
    fields=_fields,
)
