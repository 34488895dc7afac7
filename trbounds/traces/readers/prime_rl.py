"""prime-rl: ``token_exports/step_N/rank_R.jsonl``, one line per sequence.

Token lists are unpadded and hold the prompt too, with ``loss_mask`` false; entry 0 is a filler and
values that are not finite are null. ``entropy`` and ``mismatch_kl`` are the trainer's, of one
sampled token each: they are not the rollout policy's exact values and are not read as such.

``rl_weights``, ``ce_weights`` and ``ref_kl_weights`` say which losses a token has; a stream of
nulls is the default (1, 0 and 0). Tokens whose only loss is the cross-entropy come from a frozen
model and do not count, although ``loss_mask`` is true. Those without any loss, because their
advantage is 0, do count: the policy sampled them.

Held against the sources of prime-rl 0.6.0, 0.7.0, 0.8.0 and commit 559b447 of 21 August 2026,
which all write ``schema_version`` 1. 0.6 has no weights but a ``training_mode``, which is "sft" for
what a frozen model wrote, and ``rewards``, one number repeated at every token; later versions log
no reward.
"""

from __future__ import annotations

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
from trbounds.traces.json_lines import begins_with_object, holds_key
from trbounds.traces.reader import Reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

_SCHEMA_VERSION = 1
_NO_POLICY = (
    "all of the response is from a frozen model, so that there is no policy to compare with"
)
_NAMES = {
    "rollout_logprobs": "inference_logprobs",
    "train_logprobs": "trainer_logprobs",
    "mask": "loss_mask",
    "reward": "rewards",
    "seq_id": "export_sequence_idx",
    "prompt_id": "token_ids",
}


def _detects(path: str, head: bytes) -> bool:
    keys = ("export_sequence_idx", "inference_logprobs")
    return begins_with_object(head) and holds_key(head, *keys)


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
    if record.get("training_mode") == "sft":
        raise FieldError("training_mode", f"found 'sft': {_NO_POLICY}")
    mask = _tokens(record, "loss_mask")
    counted = _sampled(record, mask)
    out: dict[str, Any] = {
        "rollout_logprobs": _tokens(record, "inference_logprobs"),
        "train_logprobs": _tokens(record, "trainer_logprobs"),
        "mask": [False, *counted[1:]] if counted else counted,
    }
    reward = _reward(record)
    if reward is not None:
        out["reward"] = reward
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


def _sampled(record: Mapping[str, Any], mask: list[Any]) -> list[Any]:
    """Return the mask without the tokens whose only loss is the cross-entropy."""
    cross_entropy = _weights(record, "ce_weights", mask)
    rl = _weights(record, "rl_weights", mask)
    if cross_entropy is None or rl is None:
        return mask
    ref_kl = _weights(record, "ref_kl_weights", mask) or [0.0] * len(mask)
    counted = [
        flag if ce == 0 or one != 0 or other != 0 else False
        for flag, ce, one, other in zip(mask, cross_entropy, rl, ref_kl, strict=True)
    ]
    if any(mask) and not any(counted):
        raise FieldError("ce_weights", f"found no other loss: {_NO_POLICY}")
    return counted


def _weights(record: Mapping[str, Any], field: str, mask: list[Any]) -> list[Any] | None:
    """Return a stream of weights; None where the batch has none."""
    if record.get(field) is None:
        return None
    values = _tokens(record, field)
    if len(values) != len(mask):
        problem = f"found {len(values)} entries, expected {len(mask)} as in loss_mask"
        raise FieldError(field, problem)
    if all(value is None for value in values):
        return None
    kinds = set(map(type, values)) - {float, int}
    if kinds:
        raise FieldError(
            field, f"found a list with {kinds.pop().__name__}, expected a list of numbers"
        )
    return values


def _reward(record: Mapping[str, Any]) -> Any:
    """Return the reward of the sequence, where the version logs one."""
    if record.get("rewards") is None:
        return None
    values = [value for value in _tokens(record, "rewards") if value is not None]
    if any(value != values[0] for value in values):
        raise FieldError("rewards", "found several, expected one number for all tokens")
    return values[0] if values else None


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
