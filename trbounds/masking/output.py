"""Write which sequences a rule accepts, for a training loop to use. Needs pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.masking.effect import MaskEffect
from trbounds.masking.token_masks import token_masks
from trbounds.traces.arrow import import_pyarrow
from trbounds.traces.batch import TraceBatch
from trbounds.traces.summary import TraceSummary
from trbounds.traces.writing import replacing


class _Piece(NamedTuple):
    """Some rows of the file: rows of the summary, and of each rule on tokens its flags."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    keep: list[NDArray[np.bool_]]


def write_masks(
    path: str | os.PathLike[str],
    summary: TraceSummary,
    effects: Sequence[MaskEffect],
    statistics: Mapping[str, NDArray[Any]],
    batches: Iterable[TraceBatch] | None = None,
) -> None:
    """Write a Parquet file with one row per sequence.

    Parameters
    ----------
    path : path
        Written under a temporary name, then renamed.
    summary : TraceSummary
        The trace.
    effects : sequence of MaskEffect
        Of one rule or more.
    statistics : mapping of str to ndarray
        What the rules compared.
    batches : iterable of TraceBatch, optional
        The same trace again, for rules on tokens; their masks are written as it is read.

    Raises
    ------
    InputError
        If the file cannot be written, or the trace is not that of the summary.
    MissingDependency
        If pyarrow is absent.

    Notes
    -----
    Columns: ``file``, ``record`` (zero-based in the file), ``length`` (tokens that count);
    ``accepted``; for a rule on tokens ``kept_tokens``, how many it keeps, and ``keep``, a list
    with a boolean for every token of the record, false where the log masks the token too; then
    each statistic of the sequences under its name. Several rules have ``accepted_1``,
    ``kept_tokens_1``, ``keep_1``, ``accepted_2``, ... The text of each rule is the metadata of
    its columns, under the key ``rule``. Rows are in the order of the summary, with a rule on
    tokens in that of the batches.
    """
    pa = import_pyarrow("Writing masks")
    import pyarrow.parquet as pq

    flags = pa.large_list(pa.field("element", pa.bool_(), nullable=False))
    fields = [
        pa.field("file", pa.dictionary(pa.int32(), pa.string())),
        pa.field("record", pa.int64()),
        pa.field("length", pa.int32()),
    ]
    for name, effect in _named(effects):
        rule = {"rule": str(effect.rule)}
        fields.append(pa.field(f"accepted{name}", pa.bool_(), metadata=rule))
        if effect.on_tokens:
            fields.append(pa.field(f"kept_tokens{name}", pa.int32(), metadata=rule))
            fields.append(pa.field(f"keep{name}", flags, metadata=rule))
    fields += [pa.field(name, pa.float64()) for name in statistics]
    schema = pa.schema(fields)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for piece in _pieces(summary, effects, statistics, batches):
            columns = _columns(pa, flags, summary, effects, piece)
            columns += [pa.array(v[piece.rows].astype(np.float64)) for v in statistics.values()]
            writer.write_table(pa.table(columns, schema=schema))


def _named(effects: Sequence[MaskEffect]) -> Iterator[tuple[str, MaskEffect]]:
    for number, effect in enumerate(effects, start=1):
        yield "" if len(effects) == 1 else f"_{number}", effect


def _pieces(
    summary: TraceSummary,
    effects: Sequence[MaskEffect],
    statistics: Mapping[str, NDArray[Any]],
    batches: Iterable[TraceBatch] | None,
) -> Iterator[_Piece]:
    rules = [effect.rule for effect in effects if effect.on_tokens]
    if not rules:
        yield _Piece(np.arange(summary.n_sequences), np.empty(0, dtype=np.int64), [])
        return
    if batches is None:
        raise InputError(f"'{rules[0]}' needs the tokens: give the trace, not a summary")
    for masks in token_masks(summary, rules, batches, statistics):
        keep = [masks.in_record(keep) for keep in masks.keep]
        yield _Piece(masks.block.rows, masks.block.whole.offsets, keep)


def _columns(
    pa: Any, flags: Any, summary: TraceSummary, effects: Sequence[MaskEffect], piece: _Piece
) -> list[Any]:
    table, rows = summary.sequences, piece.rows
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(table["file"][rows]), pa.array(summary.files)),
        pa.array(table["record"][rows].astype(np.int64)),
        pa.array(table["length"][rows]),
    ]
    keep = iter(piece.keep)
    for effect in effects:
        columns.append(pa.array(effect.accept[rows]))
        if effect.on_tokens:
            columns.append(pa.array(effect.kept.count[rows].astype(np.int32)))
            offsets = pa.array(piece.offsets.astype(np.int64))
            columns.append(pa.LargeListArray.from_arrays(offsets, pa.array(next(keep)), type=flags))
    return columns
