"""Canonical traces in Parquet: one row per sequence, token values in lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any

from trbounds.errors import InputError
from trbounds.traces.arrow import columns_from_arrow, import_pyarrow
from trbounds.traces.batch import TOKEN_FIELDS, TraceBatch
from trbounds.traces.columns import KNOWN, REQUIRED, by_field, field_of
from trbounds.traces.parquet_guard import DamagedError, ParquetPages
from trbounds.traces.reader import Reader
from trbounds.traces.remote import is_remote
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions, assemble


def _detects(path: str, head: bytes) -> bool:
    return head.startswith(b"PAR1")


@contextmanager
def _arrow_errors(file: str, pa: Any) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, DamagedError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"not a readable Parquet file (truncated?): {problem}", file=file
        ) from None


def _columns(file: Any, name: str) -> list[str]:
    """Return the columns to read; refuse a schema with one that no record can make good."""
    names = list(file.schema_arrow.names)
    columns = [column for column in names if column in KNOWN]
    for required in REQUIRED:
        if required not in columns:
            problem = f"the column is missing; found {', '.join(names) or 'none'}"
            raise InputError(problem, file=name, field=required)
    for column in columns:
        if columns.count(column) > 1:
            problem = f"found {columns.count(column)} columns of this name, expected one"
            raise InputError(problem, file=name, field=column)
    by_field(columns, name)
    table = file.schema_arrow.empty_table().select(columns)
    found = columns_from_arrow({c: table[c].combine_chunks() for c in columns}, file=name)
    for required in REQUIRED:
        if required not in found.columns:
            raise InputError(
                "found no value, expected a list of numbers", file=name, field=required
            )
    for column, size in _fixed_size(file, columns).items():
        if size > ReadOptions.max_length:
            problem = f"found lists of {size} entries, expected at most {ReadOptions.max_length}"
            raise InputError(problem, file=name, field=column)
    return columns


def _fixed_size(file: Any, columns: list[str]) -> dict[str, int]:
    """Return the entries of a row in columns where all have as many, by the schema.

    A row without a value takes as much memory as any other, though nothing is stored for it.
    """
    types = {column: file.schema_arrow.field(column).type for column in columns}
    return {column: kind.list_size for column, kind in types.items() if hasattr(kind, "list_size")}


def _open(source: Source, pa: Any) -> Any:
    import pyarrow.parquet as pq

    if source.path == "-":
        raise InputError("Parquet cannot be read from standard input", file=source.name)
    with _arrow_errors(source.name, pa):
        # Streams pages of one row group at a time instead of loading the file; a small buffer
        # per column, as there may be many.
        where = source.open_raw() if is_remote(source.path) else source.path
        with _system_allocator(pa):
            return pq.ParquetFile(
                where, pre_buffer=False, buffer_size=1 << 16, page_checksum_verification=True
            )


@contextmanager
def _system_allocator(pa: Any) -> Iterator[None]:
    """Have what is opened allocate from the system: pyarrow's mimalloc holds several times more."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


def _groups(source: Source) -> list[int]:
    # A fault of the schema is found here, so that it counts once and not in every group.
    # Only totals of a row group are asked for, here and below: pyarrow lets the C++ exceptions
    # that damaged column metadata raise end the process, except while it reads.
    with _open(source, import_pyarrow("Reading Parquet traces")) as file:
        _columns(file, source.name)
        rows = range(file.num_row_groups)
        return [file.metadata.row_group(group).total_byte_size for group in rows]


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    pa = import_pyarrow("Reading Parquet traces")
    with (
        _open(source, pa) as file,
        source.open_raw() as stream,
        _arrow_errors(source.name, pa),
        # Last, so that it has stopped decoding before the file is closed.
        ThreadPoolExecutor(1) as thread,
    ):
        columns = _columns(file, source.name)
        # rollout_logprobs first: it has a value for every token.
        ordered = sorted(columns, key=lambda name: name != REQUIRED[0])
        pages = ParquetPages(stream, ordered, max_length=options.max_length)
        widest = max([1, *_fixed_size(file, columns).values()])
        batch_tokens = _tokens_at_once(columns, options)
        most_rows = max(batch_tokens // widest, 1)
        first, stop = source.groups or (0, file.num_row_groups)
        groups = range(first, min(stop, file.num_row_groups))
        rows = [file.metadata.row_group(group).num_rows for group in range(groups.stop)]
        record = sum(rows[:first])

        def rows_at_once(group: int) -> int:
            return min(pages.rows_at_once(group, batch_tokens), most_rows)

        for group, batches in groupby(
            _read_ahead(_decode(file, groups, columns, rows_at_once), thread), itemgetter(0)
        ):
            try:
                yield from _assembled(batches, record, source.name, options)
            except DamagedError as bad:
                # The groups after it can be read all the same.
                problem = f"row group {group} cannot be read: {bad}"
                options.refuse(InputError(problem, file=source.name, record=record))
            record += rows[group]


def _tokens_at_once(columns: list[str], options: ReadOptions) -> int:
    """Return fewer tokens where they have many values: three batches are in memory at a time."""
    values = sum(field_of(column) in TOKEN_FIELDS for column in columns)
    return max(options.batch_tokens * 2 // max(values, 2), 1)


def _decode(
    file: Any, groups: range, columns: list[str], rows_at_once: Callable[[int], int]
) -> Iterator[tuple[int, Any]]:
    """Yield each row group with its rows, some at a time; or with what is wrong with it."""
    pa = import_pyarrow("Reading Parquet traces")
    for group in groups:
        rows = 1
        try:
            rows = rows_at_once(group)
            for batch in file.iter_batches(rows, [group], columns, use_threads=False):
                yield group, batch
        except DamagedError as error:
            yield group, error
        except InputError:  # of a storage: no fault of this row group
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            yield group, _name_column(file, group, rows, columns, error)


def _name_column(
    file: Any, group: int, rows: int, columns: list[str], error: Exception
) -> DamagedError:
    """Say which column is damaged: pyarrow does not, but one of them fails alone, too."""
    pa = import_pyarrow("Reading Parquet traces")
    for name in columns:
        try:
            for _ in file.iter_batches(rows, [group], [name], use_threads=False):
                pass
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as alone:
            return DamagedError(f"column {name}: {_first_line(alone)}")
    return DamagedError(_first_line(error))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "damaged"


def _read_ahead(
    batches: Iterator[tuple[int, Any]], thread: ThreadPoolExecutor
) -> Iterator[tuple[int, Any]]:
    """Decode the next two batches in a thread while this one is looked at.

    The thread does next to nothing but decode, for which it does not need the interpreter lock.
    Two, because it would wait whenever one is ready: batches do not take equally long, as pages
    are decompressed whole.
    """
    coming = deque(thread.submit(next, batches, None) for _ in range(2))
    while (batch := coming.popleft().result()) is not None:
        coming.append(thread.submit(next, batches, None))
        yield batch


def _assembled(
    batches: Iterator[tuple[int, Any]], record: int, file: str, options: ReadOptions
) -> Iterator[TraceBatch]:
    for _, batch in batches:
        if isinstance(batch, DamagedError):
            raise batch
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        found = columns_from_arrow(arrays, file=file)
        yield assemble(
            found.columns, file=file, first_record=record, missing=found.missing, options=options
        )
        record += batch.num_rows


READER = Reader(
    name="canonical-parquet",
    description="Parquet, one row per sequence: lists rollout_logprobs, train_logprobs, ...",
    suffixes=(".parquet",),
    detects=_detects,
    read=_read,
    fallback=True,
    groups=_groups,
)
