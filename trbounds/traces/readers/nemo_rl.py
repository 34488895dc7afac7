"""NeMo-RL: ``train_data_step{N}.jsonl``, one line per sequence.

Every value but ``idx`` is wrapped in a list of length 1. Token lists hold the prompt too and are
padded on the right; entry ``i`` scores token ``i``, entry 0 is unused. The rollout log-probability
is 0 outside generated tokens, so only tokens that ``token_loss_mask`` selects count. Sequences
that the framework's own masking rejected (``sample_loss_mask`` 0) stay in: they were sampled.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.framework_records import (
    FieldError,
    batches_of_framework_lines,
    fields_of_framework_lines,
    number_in_name,
    prompt_number,
)
from trbounds.traces.json_lines import begins_with_object
from trbounds.traces.reader import Reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["READER"]

_FILE_NAME = r"train_data_step(\d+)\.jsonl"
_FIRST_KEYS = re.compile(rb'[{,]\s*"(input_lengths|generation_logprobs)"\s*:\s*\[')
_NAMES = {
    "rollout_logprobs": "generation_logprobs",
    "train_logprobs": "prev_logprobs",
    "mask": "token_loss_mask",
    "reward": "rewards",
    "accepted": "sample_loss_mask",
    "seq_id": "idx",
    "prompt_id": "token_ids",
}


def _detects(path: str, head: bytes) -> bool:
    if not begins_with_object(head):
        return False
    return bool(_FIRST_KEYS.search(head) or number_in_name(path, _FILE_NAME) is not None)


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    yield from batches_of_framework_lines(
        source, options, _converter(source), names=_NAMES, check=_refuse_forced_on_policy
    )


def _fields(source: Source) -> tuple[str, ...] | None:
    return fields_of_framework_lines(source, _converter(source), _refuse_forced_on_policy)


def _converter(source: Source) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    step = number_in_name(source.path, _FILE_NAME)
    return lambda record: {**_convert(record), **({} if step is None else {"step": step})}


def _convert(record: Mapping[str, Any]) -> dict[str, Any]:
    length = _unwrap(record, "input_lengths")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise FieldError(
            "input_lengths", f"found {reprlib.repr(length)}, expected a positive whole number"
        )
    mask = _tokens(record, "token_loss_mask", length)
    mask[0] = 0
    out: dict[str, Any] = {
        "rollout_logprobs": _tokens(record, "generation_logprobs", length),
        "train_logprobs": _tokens(record, "prev_logprobs", length),
        "mask": mask,
    }
    if "rewards" in record:
        out["reward"] = _unwrap(record, "rewards")
    if "sample_loss_mask" in record:
        out["accepted"] = _flag(_unwrap(record, "sample_loss_mask"))
    if "advantages" in record:
        advantages = _unwrap(record, "advantages")
        out["advantages"] = (
            _tokens(record, "advantages", length)
            if isinstance(advantages, list)
            else [advantages] * length
        )
    if "token_ids" in record:
        first = next((i for i, counted in enumerate(mask) if counted), length)
        out["prompt_id"] = _prompt(_tokens(record, "token_ids", length)[:first])
    if "idx" in record:
        out["seq_id"] = record["idx"]
    return out


def _unwrap(record: Mapping[str, Any], field: str) -> Any:
    value = record.get(field)
    if not isinstance(value, list) or len(value) != 1:
        found = f"a list of {len(value)}" if isinstance(value, list) else f"{reprlib.repr(value)}"
        raise FieldError(field, f"found {found}, expected the value in a list of length 1")
    return value[0]


def _tokens(record: Mapping[str, Any], field: str, length: int) -> list[Any]:
    """Return the values of a padded token list without the padding."""
    values = _unwrap(record, field)
    if not isinstance(values, list):
        raise FieldError(field, f"found {type(values).__name__}, expected a list of numbers")
    if len(values) < length:
        raise FieldError(field, f"found {len(values)} entries, expected at least {length}")
    return values[:length]


def _flag(value: Any) -> bool:
    if value not in (0, 1):
        raise FieldError("sample_loss_mask", f"found {reprlib.repr(value)}, expected 0 or 1")
    return bool(value)


def _prompt(tokens: list[Any]) -> int:
    try:
        return prompt_number(tokens)
    except (TypeError, ValueError, OverflowError):
        raise FieldError("token_ids", "expected a list of whole numbers") from None


def _refuse_forced_on_policy(records: Sequence[Mapping[str, Any]], file: str) -> bool:
    """Refuse if training log-probabilities were not computed; say whether the records show it."""
    generated = any(_any_nonzero(record, "generation_logprobs") for record in records)
    if generated and not any(_any_nonzero(record, "prev_logprobs") for record in records):
        raise InputError(
            "every value is 0: the run was forced on-policy, so that training "
            "log-probabilities were never computed and there is nothing to compare. Turn "
            "that off to log them",
            file=file,
            field="prev_logprobs",
        )
    return generated


def _any_nonzero(record: Mapping[str, Any], field: str) -> bool:
    values = record.get(field)
    if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], list):
        return False
    return any(value != 0 for value in values[0])


READER = Reader(
    name="nemo-rl",
    description="NeMo-RL train_data_step{N}.jsonl: generation_logprobs, prev_logprobs, ...",
    suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    detects=_detects,
    read=_read,
    fields=_fields,
)
