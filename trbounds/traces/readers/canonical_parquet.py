"""Canonical traces in Parquet: one row per sequence, token values in lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trbounds.errors import InputError
from trbounds.traces.arrow import ALIASES, columns_from_arrow, import_pyarrow
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch
from trbounds.traces.reader import Reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions, assemble

__all__ = ["READER"]

_REQUIRED = ("rollout_logprobs", "train_logprobs")
_KNOWN = {*TOKEN_FIELDS, *SEQUENCE_FIELDS, *ALIASES}


def _detects(path: str, head: bytes) -> bool:
    return head.startswith(b"PAR1")


@contextmanager
def _arrow_errors(file: str, pa: Any) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"not a readable Parquet file (truncated?): {problem}", file=file
        ) from None


def _columns(names: list[str], file: str) -> list[str]:
    for name in _REQUIRED:
        if name not in names:
            raise InputError(
                f"the column is missing; found {', '.join(names) or 'none'}", file=file, field=name
            )
    for alias, name in ALIASES.items():
        if alias in names and name in names:
            raise InputError(f"found both {alias} and {name}, expected one", file=file, field=name)
    return [name for name in names if name in _KNOWN]


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    pa = import_pyarrow("Reading Parquet traces")
    import pyarrow.parquet as pq

    if source.path == "-":
        raise InputError("Parquet cannot be read from standard input", file=source.name)
    with _arrow_errors(source.name, pa):
        # Streams pages of one row group at a time instead of loading the file; a small buffer
        # per column, as there may be many.
        file = pq.ParquetFile(source.path, pre_buffer=False, buffer_size=1 << 16)
    with file, _arrow_errors(source.name, pa):
        columns = _columns(list(file.schema_arrow.names), source.name)
        width = _bytes_per_token(file.schema_arrow, pa)
        record = 0
        for group in range(file.num_row_groups):
            # Only totals of a row group are asked for: pyarrow lets the C++ exceptions that
            # damaged column metadata raise end the process, except while it reads.
            size = file.metadata.row_group(group)
            tokens = size.total_byte_size / width
            rows = int(options.batch_tokens * size.num_rows / tokens) if tokens > 0 else 1
            rows = min(max(rows, 1), options.batch_tokens)
            for batch in file.iter_batches(rows, [group], columns, use_threads=False):
                arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
                found = columns_from_arrow(arrays, file=source.name)
                yield assemble(
                    found.columns,
                    file=source.name,
                    first_record=record,
                    missing=found.missing,
                    options=options,
                )
                record += batch.num_rows


def _bytes_per_token(schema: Any, pa: Any) -> int:
    """Bytes that one token takes in all list columns of the file, uncompressed."""
    total = 0
    for kind in schema.types:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            value = kind.value_type
            total += max(value.bit_width // 8, 1) if pa.types.is_primitive(value) else 8
    return max(total, 1)


READER = Reader(
    name="canonical-parquet",
    description="Parquet, one row per sequence: lists rollout_logprobs, train_logprobs, ...",
    suffixes=(".parquet",),
    detects=_detects,
    read=_read,
    fallback=True,
)
