"""Canonical traces in JSON Lines, plain or compressed with gzip or Zstandard.

Blocks of lines go through pyarrow's parser where pyarrow is installed. What it does not accept,
and everything where it is absent, goes line by line through the standard library, which finds
the line and the field to name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.arrow import ALIASES, columns_from_arrow
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch
from trbounds.traces.reader import Reader
from trbounds.traces.records import columns_from_records
from trbounds.traces.source import Source
from trbounds.traces.validate import Ragged, ReadOptions, assemble

__all__ = ["READER"]

_REQUIRED = ("rollout_logprobs", "train_logprobs")
_KNOWN = (*TOKEN_FIELDS, *SEQUENCE_FIELDS, *ALIASES)

Columns = dict[str, Ragged | NDArray[Any]]


def _detects(path: str, head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    template: dict[str, Any] | None = None
    start = 0
    for block in source.blocks_of_lines():
        if start == 0:
            block = block.removeprefix(b"\xef\xbb\xbf")
        lines = block.splitlines() if b"\r" in block else block.removesuffix(b"\n").split(b"\n")
        if template is None:
            template = _template(lines)
            _check_aliases(template or {}, source.name)
        batch = _fast(block, len(lines), start, template, source, options)
        if batch is None:
            batch = _slow(lines, start, template, source, options)
        if batch is not None:
            yield from batch.slices(options.batch_tokens)
        start += len(lines)
    if start == 0:
        raise InputError("the file is empty", file=source.name)


def _template(lines: list[bytes]) -> dict[str, Any] | None:
    """Return the first good record: its optional fields are the ones that are read."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and all(name in record for name in _REQUIRED):
            return {name: record[name] for name in _KNOWN if record.get(name) is not None}
    return None


def _check_aliases(template: dict[str, Any], file: str) -> None:
    for alias, name in ALIASES.items():
        if alias in template and name in template:
            problem = f"found both {alias} and {name}, expected one"
            raise InputError(problem, file=file, field=name)


def _fast(
    block: bytes,
    n_lines: int,
    first_record: int,
    template: dict[str, Any] | None,
    source: Source,
    options: ReadOptions,
) -> TraceBatch | None:
    """Parse a block with pyarrow; None if it is absent or does not take the block as it is."""
    try:
        import pyarrow as pa
        from pyarrow import json as arrow_json
    except ImportError:
        return None
    if template is None:
        return None
    schema = pa.schema([(name, _arrow_type(pa, value)) for name, value in template.items()])
    try:
        table = arrow_json.read_json(
            io.BytesIO(block),
            arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).combine_chunks()
    except pa.ArrowException:
        return None
    if table.num_rows != n_lines:
        return None
    arrays = {name: table.column(name).chunk(0) for name in table.column_names}
    found = columns_from_arrow(arrays, file=source.name)
    return assemble(
        found.columns,
        file=source.name,
        first_record=first_record,
        missing=found.missing,
        options=options,
    )


def _arrow_type(pa: Any, value: Any) -> Any:
    if isinstance(value, list):
        return pa.list_(pa.bool_() if value and isinstance(value[0], bool) else pa.float64())
    for kind, arrow in ((bool, pa.bool_()), (int, pa.int64()), (str, pa.string())):
        if isinstance(value, kind):
            return arrow
    return pa.float64()


def _slow(
    lines: list[bytes],
    start: int,
    template: dict[str, Any] | None,
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
    names = [*_REQUIRED] if template is None else [*template]
    return columns_from_records(
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
