"""Canonical traces in JSON Lines, plain or compressed with gzip or Zstandard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch
from trbounds.traces.columns import REQUIRED
from trbounds.traces.json_lines import batches_of_lines, begins_with_object, leading_records
from trbounds.traces.reader import Reader
from trbounds.traces.records import batch_from_records, fields_of_most
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions


def _detects(path: str, head: bytes) -> bool:
    return begins_with_object(head)


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    fields = None if source.lines is None else _fields(source)

    def build(
        records: Sequence[dict[str, Any]], numbers: NDArray[np.int64], options: ReadOptions
    ) -> TraceBatch | None:
        nonlocal fields
        fields = fields or fields_of_most(records)
        return batch_from_records(
            records, fields or REQUIRED, numbers, file=source.name, options=options
        )

    yield from batches_of_lines(source, options, build)


def _fields(source: Source) -> tuple[str, ...] | None:
    return fields_of_most(leading_records(source))


READER = Reader(
    name="canonical-jsonl",
    description="JSON Lines (.gz, .zst too), one object per sequence: rollout_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fallback=True,
    fields=_fields,
)
