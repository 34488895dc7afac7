"""What the readers of frameworks' own formats share: records under other names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.records import batch_from_records
from trbounds.traces.validate import ReadOptions

__all__ = ["FieldError", "framework_batches", "number_in_name", "prompt_number"]

Records = tuple[Sequence[dict[str, Any]], NDArray[np.int64]]


class FieldError(Exception):
    """A field of a record that a converter cannot use; :func:`framework_batches` adds the place.

    Parameters
    ----------
    field : str
        Name in the framework's format.
    problem : str
        What was found and what was expected.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


def prompt_number(tokens: Sequence[int] | NDArray[np.int64]) -> int:
    """Return an identifier of a prompt: the same for the same tokens, in every process.

    Parameters
    ----------
    tokens : sequence of int
        Token identifiers of the prompt.
    """
    data = np.asarray(tokens, dtype="<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def number_in_name(path: str, pattern: str) -> int | None:
    """Return the number that group 1 of a pattern finds in a file's name, if any."""
    found = re.search(pattern, os.path.basename(path))
    return int(found.group(1)) if found and len(found.group(1)) < 10 else None


def framework_batches(
    records: Iterable[Records],
    convert: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    names: Mapping[str, str],
    file: str,
    options: ReadOptions,
) -> Iterator[TraceBatch]:
    """Convert records to canonical ones and batch them.

    Parameters
    ----------
    records : iterable of (records, numbers)
        Blocks of decoded records with their numbers in the file.
    convert : callable
        Turns a record into one under canonical names; raises :class:`FieldError`. The fields of
        the first good record are read from all.
    names : mapping of str to str
        The framework's name of each canonical field, for messages.
    file : str
        For messages.
    options : ReadOptions
        Says what to do with a bad record.

    Raises
    ------
    InputError
        For a bad record, unless bad records are skipped.
    """
    fields: tuple[str, ...] | None = None
    for block, numbers in records:
        converted: list[dict[str, Any]] = []
        kept: list[int] = []
        for record, number in zip(block, numbers, strict=True):
            try:
                converted.append(convert(record))
                kept.append(int(number))
            except FieldError as error:
                options.refuse(
                    InputError(error.problem, file=file, record=int(number), field=error.field)
                )
        if not converted:
            continue
        fields = fields or tuple(converted[0])
        with _in_the_words_of(names, options) as translated:
            batch = batch_from_records(
                converted, fields, np.array(kept), file=file, options=translated
            )
        if batch is not None:
            yield from batch.slices(options.batch_tokens)


@contextmanager
def _in_the_words_of(names: Mapping[str, str], options: ReadOptions) -> Iterator[ReadOptions]:
    """Name fields in errors, raised or handed on, as the framework does."""

    def translate(error: InputError) -> InputError:
        problem = error.problem
        for canonical, own in names.items():
            problem = problem.replace(f"as in {canonical}", f"as in {own}")
        field = names.get(error.field or "", error.field)
        return InputError(problem, file=error.file, record=error.record, field=field)

    try:
        yield replace(options, on_skip=lambda error: options.on_skip(translate(error)))
    except InputError as error:
        raise translate(error) from None
