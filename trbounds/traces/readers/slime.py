"""slime: ``train_data/{rollout_id}.pt``, written by ``torch.save``; read without torch.

``samples`` holds one dict per sequence. ``tokens`` covers prompt and response, the other token
values cover the response alone. Rewards are those before slime normalises them in each group:
``local_raw_reward`` of the sample, or the entry of the whole batch's ``raw_reward`` at the sample's
``rollout_position``; where neither is there, ``rewards``. See ``trbounds.traces.torch_file`` for
what is admitted.

Held against the sources of slime at commit 624b824 of 21 August 2026. Releases up to 0.3.1 write
``train_data/{rollout_id}_{rank}.pt`` in another form, which is refused: ranks of tensor parallelism
repeat the sequences, ranks of context parallelism hold parts of them, and no file says which.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.framework_records import (
    BatchBuilder,
    FieldError,
    Records,
    number_in_name,
    prompt_number,
)
from trbounds.traces.reader import Reader
from trbounds.traces.restricted_pickle import StoredTensor
from trbounds.traces.source import Source
from trbounds.traces.torch_file import TorchFile, is_torch_zip
from trbounds.traces.validate import ReadOptions

_FORMAT_VERSION = 2
_LARGEST_TOKEN = 2**31
_NAMES = {
    "rollout_logprobs": "rollout_log_probs",
    "train_logprobs": "log_probs",
    "mask": "loss_masks",
    "prompt_id": "tokens",
}


def _detects(path: str, head: bytes) -> bool:
    return is_torch_zip(head)


def _read(source: Source, options: ReadOptions) -> Iterator[TraceBatch]:
    if source.path == "-":
        raise InputError("a .pt file cannot be read from standard input", file=source.name)
    with source.open_raw() as stream:
        file = TorchFile(stream, source.name)
        document = file.document()
        samples = _samples(document, source.name)
        step = document.get("rollout_id")
        if not isinstance(step, int):
            step = number_in_name(source.path, r"(\d+)\.pt$")
        rewards = document.get("raw_reward")
        if rewards is not None and not isinstance(rewards, list):
            found = type(rewards).__name__
            raise InputError(
                f"found {found}, expected a list", file=source.name, field="raw_reward"
            )
        convert = _Converter(file, step, rewards)
        build = BatchBuilder(convert, names=convert.names, file=source.name)
        for records, numbers in _blocks(samples, options.batch_tokens):
            batch = build(records, numbers, options)
            if batch is not None:
                yield from batch.slices(options.batch_tokens)


def _samples(document: Any, file: str) -> list[Any]:
    if not isinstance(document, dict) or "format_version" not in document:
        raise InputError(f"no slime train data: {_other_document(document)}", file=file)
    version = document["format_version"]
    if version != _FORMAT_VERSION:
        raise InputError(
            f"found {reprlib.repr(version)}, expected {_FORMAT_VERSION}",
            file=file,
            field="format_version",
        )
    samples = document.get("samples")
    if not isinstance(samples, list):
        found = type(samples).__name__
        raise InputError(f"found {found}, expected a list", file=file, field="samples")
    return samples


def _other_document(document: Any) -> str:
    if isinstance(document, dict) and "rollout_data" in document:
        return (
            "this is the dump of one rank, as slime wrote it until 0.3.1. Ranks repeat sequences "
            f"or hold parts of them; expected format_version {_FORMAT_VERSION} of later versions, "
            "with a whole rollout in one file"
        )
    return "format_version is missing (dumps of rollouts hold no training log-probabilities)"


def _blocks(samples: list[Any], batch_tokens: int) -> Iterator[Records]:
    """Cut the samples into blocks of about ``batch_tokens`` tokens."""
    start, tokens = 0, 0
    for index, sample in enumerate(samples):
        values = sample.get("rollout_log_probs") if isinstance(sample, dict) else None
        size = values.size if isinstance(values, StoredTensor) else 1
        size = len(values) if isinstance(values, list) else size
        if tokens and tokens + size > batch_tokens:
            yield samples[start:index], np.arange(start, index)
            start, tokens = index, 0
        tokens += size + 1
    if start < len(samples):
        yield samples[start:], np.arange(start, len(samples))


class _Converter:
    """Turns a sample into a record under canonical names; ``names`` has the framework's.

    ``rewards`` are those of the whole batch before normalisation, if the file has them.
    """

    def __init__(self, file: TorchFile, step: int | None, rewards: list[Any] | None) -> None:
        self.names = dict(_NAMES)
        self._file = file
        self._step = step
        self._rewards = rewards
        self._seen: dict[str, int] = {}

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(sample, dict):
            raise FieldError("samples", f"found {type(sample).__name__}, expected a dict")
        rollout = self._logged(sample, "rollout_log_probs")
        length = self._number(sample, "response_lengths")
        if length is not None and length != rollout.size:
            problem = f"found {rollout.size} entries, expected {length:g} (response_lengths)"
            raise FieldError("rollout_log_probs", problem)
        out: dict[str, Any] = {
            "rollout_logprobs": rollout,
            "train_logprobs": self._vector(sample, "log_probs", rollout.size),
        }
        for name, own in (("mask", "loss_masks"), ("advantages", "advantages")):
            if sample.get(own) is not None:
                out[name] = self._vector(sample, own, rollout.size)
        reward = self._reward(sample)
        if reward is not None:
            out["reward"] = reward
        if sample.get("tokens") is not None:
            out["prompt_id"] = self._prompt(sample, rollout.size)
        if self._step is not None:
            out["step"] = self._step
        return out

    def _reward(self, sample: Mapping[str, Any]) -> float | None:
        if "local_raw_reward" in sample or self._rewards is None:
            field = "local_raw_reward" if "local_raw_reward" in sample else "rewards"
            self.names["reward"] = field
            return self._number(sample, field)
        self.names["reward"] = "raw_reward"
        place = sample.get("rollout_position")
        if type(place) is not int or not 0 <= place < len(self._rewards):
            raise FieldError(
                "rollout_position", f"found {reprlib.repr(place)}, expected the place in raw_reward"
            )
        return self._number({"raw_reward": self._rewards[place]}, "raw_reward")

    def _prompt(self, sample: Mapping[str, Any], response: int) -> int:
        tokens = self._logged(sample, "tokens")
        total = self._number(sample, "total_lengths")
        if (total is not None and total != tokens.size) or tokens.size < response:
            expected = f"at least {response}" if total is None else f"{total:g} (total_lengths)"
            raise FieldError("tokens", f"found {tokens.size} entries, expected {expected}")
        if not (np.abs(tokens) < _LARGEST_TOKEN).all():
            raise FieldError("tokens", "expected identifiers of tokens")
        return prompt_number(tokens[: tokens.size - response].astype(np.int64))

    def _logged(self, sample: Mapping[str, Any], field: str) -> NDArray[Any]:
        """Return values that every token has of its own.

        Samples may share a storage, but no file can hold more tokens than it has bytes.
        """
        value = sample.get(field)
        size = value.size if isinstance(value, StoredTensor) else 0
        self._seen[field] = self._seen.get(field, 0) + size
        if self._seen[field] > self._file.n_bytes:
            raise InputError(
                "found more entries than the file has bytes: the samples overlap",
                file=self._file.file,
                field=field,
            )
        return self._vector(sample, field)

    def _vector(
        self, sample: Mapping[str, Any], field: str, length: int | None = None
    ) -> NDArray[Any]:
        value = sample.get(field)
        if isinstance(value, StoredTensor):
            if len(value.shape) != 1:
                raise FieldError(field, f"found shape {value.shape}, expected one dimension")
            if length is not None and value.size != length:
                raise FieldError(
                    field,
                    f"found {value.size} entries, expected {length} as in rollout_log_probs",
                )
            if value.kind != "bool" or field == _NAMES["mask"]:
                return self._file.load(value)
            found = "truth values"
        elif isinstance(value, list):
            kinds = set(map(type, value)) - {float, int}
            if field == _NAMES["mask"]:
                kinds.discard(bool)
            if not kinds:
                try:
                    return np.array(value, dtype=np.float64)
                except OverflowError:
                    raise FieldError(field, "found a whole number too large for float64") from None
            found = f"a list with {kinds.pop().__name__}"
        else:
            found = "no value" if value is None else type(value).__name__
        raise FieldError(field, f"found {found}, expected a tensor or a list of numbers")

    def _number(self, sample: Mapping[str, Any], field: str) -> float | None:
        """Return a number, also from a tensor of one element; None where there is none."""
        value = sample.get(field)
        if value is None:
            return None
        if isinstance(value, StoredTensor) and value.size == 1:
            value = self._file.load(value).item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FieldError(field, f"found {type(value).__name__}, expected a number")
        try:
            return float(value)
        except OverflowError:
            raise FieldError(field, "found a whole number too large for float64") from None


READER = Reader(
    name="slime",
    description="slime train_data/{rollout_id}.pt: rollout_log_probs, log_probs, ...",
    suffixes=(".pt",),
    detects=_detects,
    read=_read,
)
