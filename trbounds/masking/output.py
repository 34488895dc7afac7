"""Write which sequences a rule accepts, for a training loop to use. Needs pyarrow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.masking.effect import MaskEffect
from trbounds.traces.arrow import import_pyarrow
from trbounds.traces.summary import TraceSummary
from trbounds.traces.writing import replacing

__all__ = ["write_masks"]


def write_masks(
    path: str | os.PathLike[str],
    summary: TraceSummary,
    effects: Sequence[MaskEffect],
    statistics: Mapping[str, NDArray[Any]],
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

    Raises
    ------
    InputError
        If the file cannot be written.
    MissingDependency
        If pyarrow is absent.

    Notes
    -----
    Columns: ``file``, ``record`` (zero-based in the file), ``length``; ``accepted``, or for
    several rules ``accepted_1``, ``accepted_2``, ...; then each statistic under its name. The
    text of each rule is the metadata of its column, under the key ``rule``.
    """
    pa = import_pyarrow("Writing masks")
    import pyarrow.parquet as pq

    table = summary.sequences
    files = pa.DictionaryArray.from_arrays(pa.array(table["file"]), pa.array(summary.files))
    columns = [
        (pa.field("file", files.type), files),
        (pa.field("record", pa.int64()), pa.array(table["record"].astype(np.int64))),
        (pa.field("length", pa.int32()), pa.array(table["length"])),
    ]
    for number, effect in enumerate(effects, start=1):
        name = "accepted" if len(effects) == 1 else f"accepted_{number}"
        field = pa.field(name, pa.bool_(), metadata={"rule": str(effect.rule)})
        columns.append((field, pa.array(effect.accept)))
    for name, values in statistics.items():
        columns.append((pa.field(name, pa.float64()), pa.array(values.astype(np.float64))))
    schema = pa.schema([field for field, _ in columns])
    with replacing(path) as temporary:
        pq.write_table(pa.table([array for _, array in columns], schema=schema), temporary)
