"""Write traces in the canonical Parquet form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trbounds.errors import InputError
from trbounds.traces.arrow import import_pyarrow
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch

_GROUP_TOKENS = 1_000_000
"""Tokens in a row group: large enough to compress, small enough to stream."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary name beside ``path``; rename it on success, remove it on failure.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    target = os.fspath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=target) from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_parquet(batches: Iterable[TraceBatch], path: str | os.PathLike[str]) -> None:
    """Write batches as one canonical Parquet file.

    Lists of float64 without nulls, split into byte streams and compressed with Zstandard: of the
    layouts that keep every bit this one is the smallest, and is decoded in about half the time
    of Parquet's defaults.

    Parameters
    ----------
    batches : iterable of TraceBatch
        All with the same optional fields. Record numbers start again at 0.
    path : path
        Written under a temporary name, then renamed: it is complete or it is not there.

    Raises
    ------
    InputError
        If there is no batch, the optional fields differ, or the file cannot be written.
    MissingDependency
        If pyarrow is absent.
    """
    pa = import_pyarrow("Writing Parquet")
    import pyarrow.parquet as pq

    writer = None
    pending: list[Any] = []
    tokens = 0
    with replacing(path) as temporary:
        try:
            for batch in batches:
                table = _table(pa, batch)
                if writer is None:
                    writer = pq.ParquetWriter(
                        temporary,
                        table.schema,
                        compression="zstd",
                        use_dictionary=False,
                        use_byte_stream_split=_float_columns(pa, table.schema),
                    )
                elif table.schema != writer.schema:
                    raise InputError(
                        f"found fields {', '.join(table.schema.names)}, expected those of the "
                        f"first batch, {', '.join(writer.schema.names)}",
                        file=batch.file,
                        record=batch.first_record,
                    )
                pending.append(table)
                tokens += batch.n_tokens
                if tokens >= _GROUP_TOKENS:
                    writer.write_table(pa.concat_tables(pending).combine_chunks())
                    pending, tokens = [], 0
            if writer is None:
                raise InputError("found no sequence, expected at least one", field="batches")
            if pending:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
        finally:
            if writer is not None:
                writer.close()


def _float_columns(pa: Any, schema: Any) -> list[str]:
    """Return the columns of floating-point numbers, as Parquet names them."""
    names = []
    for field in schema:
        if pa.types.is_floating(field.type):
            names.append(field.name)
        elif pa.types.is_large_list(field.type) and pa.types.is_floating(field.type.value_type):
            names.append(f"{field.name}.list.element")
    return names


def _table(pa: Any, batch: TraceBatch) -> Any:
    columns, fields = [], []
    for name in SEQUENCE_FIELDS:
        values = getattr(batch, name)
        if values is not None:
            columns.append(pa.array(values))
            fields.append(pa.field(name, columns[-1].type, nullable=False))
    offsets = pa.array(batch.offsets.astype(np.int64))
    for name in TOKEN_FIELDS:
        values = getattr(batch, name)
        if values is not None:
            tokens = pa.array(values)
            kind = pa.large_list(pa.field("element", tokens.type, nullable=False))
            columns.append(pa.LargeListArray.from_arrays(offsets, tokens, type=kind))
            fields.append(pa.field(name, kind, nullable=False))
    return pa.table(columns, schema=pa.schema(fields))
