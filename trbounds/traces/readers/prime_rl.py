"""prime-rl: ``token_exports/step_N/rank_R.jsonl``, one line per sequence.

Token lists are unpadded and hold the prompt too, with ``loss_mask`` false; entry 0 is a filler and
values that are not finite are null. There is no reward. ``entropy`` and ``mismatch_kl`` are the
trainer's, of one sampled token each: they are not the rollout policy's exact values and are not
read as such.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.framework_records import (
    FieldError,
    batches_of_framework_lines,
    fields_of_framework_lines,
    prompt_number,
)
from trbounds.traces.json_lines import begins_with_object
from trbounds.traces.reader import Reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["READER"]

_SCHEMA_VERSION = 1
_KEYS = re.compile(rb'[{,]\s*"(export_sequence_idx|inference_logprobs)"\s*:')
_NAMES = {
    "rollout_logprobs": "inference_logprobs",
    "train_logprobs": "trainer_logprobs",
    "mask": "loss_mask",
    "seq_id": "export_sequence_idx",
    "prompt_id": "token_ids",
}


def _detects(path: str, head: bytes) -> bool:
    return begins_with_object(head) and bool(_KEYS.search(head))


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    yield from batches_of_framework_lines(
        source, options, _convert, names=_NAMES, check=_refuse_other_schema
    )


def _fields(source: Source) -> tuple[str, ...] | None:
    return fields_of_framework_lines(source, _convert, _refuse_other_schema)


def _refuse_other_schema(records: Sequence[Mapping[str, Any]], file: str) -> bool:
    """Refuse if the first version that is a number is another; say whether there is one."""
    for record in records:
        version = record.get("schema_version")
        if isinstance(version, int):
            if version != _SCHEMA_VERSION:
                raise InputError(_other_version(version), file=file, field="schema_version")
            return True
    return False


def _other_version(version: Any) -> str:
    return f"found {reprlib.repr(version)}, expected {_SCHEMA_VERSION}"


def _convert(record: Mapping[str, Any]) -> dict[str, Any]:
    version = record.get("schema_version")
    if version != _SCHEMA_VERSION:
        raise FieldError("schema_version", _other_version(version))
    mask = _tokens(record, "loss_mask")
    out: dict[str, Any] = {
        "rollout_logprobs": _tokens(record, "inference_logprobs"),
        "train_logprobs": _tokens(record, "trainer_logprobs"),
        "mask": [False, *mask[1:]] if mask else mask,
    }
    if "advantages" in record:
        out["advantages"] = record["advantages"]
    if "token_ids" in record:
        first = next((i for i, counted in enumerate(mask) if counted), len(mask))
        try:
            out["prompt_id"] = prompt_number(_tokens(record, "token_ids")[:first])
        except (TypeError, ValueError, OverflowError):
            raise FieldError("token_ids", "expected a list of whole numbers") from None
    for name, own in (("step", "step"), ("seq_id", "export_sequence_idx")):
        if own in record:
            out[name] = record[own]
    return out


def _tokens(record: Mapping[str, Any], field: str) -> list[Any]:
    values = record.get(field)
    if not isinstance(values, list):
        found = "no value" if values is None else type(values).__name__
        raise FieldError(field, f"found {found}, expected a list of numbers")
    return values


READER = Reader(
    name="prime-rl",
    description="prime-rl token_exports/step_N/rank_R.jsonl: inference_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fields=_fields,
)
