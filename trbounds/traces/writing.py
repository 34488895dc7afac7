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

__all__ = ["replacing", "write_parquet"]

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
    """Write batches as one canonical Parquet file (float64, Zstandard).

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
                    writer = pq.ParquetWriter(temporary, table.schema, compression="zstd")
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


def _table(pa: Any, batch: TraceBatch) -> Any:
    columns = {}
    for name in SEQUENCE_FIELDS:
        values = getattr(batch, name)
        if values is not None:
            columns[name] = pa.array(values)
    offsets = pa.array(batch.offsets.astype(np.int64))
    for name in TOKEN_FIELDS:
        values = getattr(batch, name)
        if values is not None:
            columns[name] = pa.LargeListArray.from_arrays(offsets, pa.array(values))
    return pa.table(columns)
