"""Canonical traces in JSON Lines, plain or compressed with gzip or Zstandard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trbounds.errors import InputError
from trbounds.traces.arrow import ALIASES
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch
from trbounds.traces.json_lines import decoded_lines
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
    for records, numbers in decoded_lines(source, options):
        names = names or _find_names(records, source.name)
        batch = batch_from_records(
            records, names or _REQUIRED, numbers, file=source.name, options=options
        )
        if batch is not None:
            yield from batch.slices(options.batch_tokens)


def _find_names(records: Sequence[dict[str, Any]], file: str) -> list[str] | None:
    """Return the known fields of the first good record: they are the ones that are read."""
    for record in records:
        if all(record.get(name) is not None for name in _REQUIRED):
            names = [name for name in _KNOWN if record.get(name) is not None]
            for alias, name in ALIASES.items():
                if alias in names and name in names:
                    problem = f"found both {alias} and {name}, expected one"
                    raise InputError(problem, file=file, field=name)
            return names
    return None


READER = Reader(
    name="canonical-jsonl",
    description="JSON Lines (.gz, .zst too), one object per sequence: rollout_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fallback=True,
)
