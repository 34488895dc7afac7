"""NeMo-RL: ``train_data_step{N}.jsonl``, one line per sequence.

Every value but ``idx`` is wrapped in a list of length 1. Token lists hold the prompt too and are
padded on the right; entry ``i`` scores token ``i``, entry 0 is unused. The rollout log-probability
is 0 outside generated tokens, so only tokens that ``token_loss_mask`` selects count. Sequences
that the framework's own masking rejected (``sample_loss_mask`` 0) stay in: they were sampled.
Under dynamic sampling ``filtered_rewards`` are those of the sequences; ``rewards`` belong to all
that was sampled, and are not aligned with the lines.

Held against the sources of NeMo-RL 0.6.0, 0.7.0 and commit 7ea279a of 22 August 2026. Versions
before 0.6 did not log the masks, and their files are refused. Where the trainer applies the
rollout's top-p or top-k and a token falls outside of its own set, NeMo-RL puts 0 for the infinite
training log-probability.
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
    number_in_name,
    prompt_number,
)
from trbounds.traces.json_lines import begins_with_object, holds_key
from trbounds.traces.reader import Reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

_FILE_NAME = r"train_data_step(\d+)\.jsonl"
_NEEDED = {
    "generation_logprobs": "distillation runs of NeMo-RL write no log-probabilities",
    "prev_logprobs": "without the training log-probabilities there is nothing to compare",
    "token_loss_mask": "NeMo-RL before 0.6 did not write it, and without it there is no telling "
    "which tokens were generated",
}
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
    keys = holds_key(head, "input_lengths", "generation_logprobs", opening="[")
    return keys or number_in_name(path, _FILE_NAME) is not None


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    convert = _Converter(source)
    yield from batches_of_framework_lines(
        source, options, convert, names=convert.names, check=_refuse_unusable
    )


def _fields(source: Source) -> tuple[str, ...] | None:
    return fields_of_framework_lines(source, _Converter(source), _refuse_unusable)


class _Converter:
    """Turns a line into a record under canonical names; ``names`` has the framework's."""

    def __init__(self, source: Source) -> None:
        self.names = dict(_NAMES)
        self._step = number_in_name(source.path, _FILE_NAME)

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        out = _convert(record)
        for field in ("filtered_rewards", "rewards"):
            if field in record:
                self.names["reward"] = field
                out["reward"] = _unwrap(record, field)
                break
        if self._step is not None:
            out["step"] = self._step
        return out


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
        found = "no value" if values is None else type(values).__name__
        raise FieldError(field, f"found {found}, expected a list of numbers")
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


def _refuse_unusable(records: Sequence[Mapping[str, Any]], file: str) -> bool:
    """Refuse if training log-probabilities were not computed, or no line has what is needed.

    Says whether the records show it.
    """
    for field, reason in _NEEDED.items():
        if records and not any(field in record for record in records):
            raise InputError(f"no line has it: {reason}", file=file, field=field)
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
