"""What the readers of frameworks' own formats share: records under other names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.columns import REQUIRED
from trbounds.traces.json_lines import batches_of_lines, leading_records
from trbounds.traces.records import batch_from_records, fields_of_most
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

Records = tuple[Sequence[dict[str, Any]], NDArray[np.int64]]
Convert = Callable[[Mapping[str, Any]], dict[str, Any]]
Check = Callable[[Sequence[Mapping[str, Any]], str], bool]


class FieldError(Exception):
    """A field of a record that a converter cannot use; :class:`BatchBuilder` adds the place.

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


class BatchBuilder:
    """Converts blocks of a file's records to canonical ones and makes batches of them.

    Parameters
    ----------
    convert : callable
        Turns a record into one under canonical names; raises :class:`FieldError`.
    names : mapping of str to str
        The framework's name of each canonical field, for messages.
    file : str
        For messages.
    fields : tuple of str, optional
        What to read from all records; by default the fields that most of the first block have.
    """

    def __init__(
        self,
        convert: Convert,
        *,
        names: Mapping[str, str],
        file: str,
        fields: tuple[str, ...] | None = None,
    ) -> None:
        self._convert = convert
        self._names = names
        self._file = file
        self._fields = fields

    def __call__(
        self,
        records: Sequence[Mapping[str, Any]],
        numbers: NDArray[np.int64],
        options: ReadOptions,
    ) -> TraceBatch | None:
        """Make a batch of a block of records, given their numbers in the file.

        Raises
        ------
        InputError
            For a bad record, unless bad records are skipped.
        """
        converted: list[dict[str, Any]] = []
        kept: list[int] = []
        for record, number in zip(records, numbers, strict=True):
            try:
                converted.append(self._convert(record))
                kept.append(int(number))
            except FieldError as error:
                options.refuse(
                    InputError(
                        error.problem, file=self._file, record=int(number), field=error.field
                    )
                )
        if not converted:
            return None
        self._fields = self._fields or fields_of_most(converted)
        fields = self._fields or REQUIRED
        with _in_the_words_of(self._names, options) as translated:
            return batch_from_records(
                converted, fields, np.array(kept), file=self._file, options=translated
            )


def batches_of_framework_lines(
    source: Source,
    options: ReadOptions,
    convert: Convert,
    *,
    names: Mapping[str, str],
    check: Check,
) -> Iterator[TraceBatch]:
    """Read a framework's JSON Lines.

    Parameters
    ----------
    source : Source
        All lines of a file, or some: then what the file decides is taken from its beginning.
    options : ReadOptions
        Says what to do with a bad record.
    convert, names
        As for :class:`BatchBuilder`.
    check : callable
        ``check(records, file)`` raises for a fault of the file as a whole, and says whether
        there is nothing left to check; it is asked about blocks of records until then.

    Raises
    ------
    InputError
        For a bad record, unless bad records are skipped, and from ``check``.
    """
    # A file is cut only if its first block was checked.
    checked = source.lines is not None
    fields = _find_fields(leading_records(source), convert) if source.lines is not None else None
    build_batch = BatchBuilder(convert, names=names, file=source.name, fields=fields)

    def build(
        records: Sequence[dict[str, Any]], numbers: NDArray[np.int64], options: ReadOptions
    ) -> TraceBatch | None:
        nonlocal checked
        checked = checked or check(records, source.name)
        return build_batch(records, numbers, options)

    yield from batches_of_lines(source, options, build)


def fields_of_framework_lines(
    source: Source, convert: Convert, check: Check
) -> tuple[str, ...] | None:
    """Return what ``fields`` of a :class:`~trbounds.traces.reader.Reader` has to.

    Parameters
    ----------
    source : Source
        A file.
    convert, check
        As for :func:`batches_of_framework_lines`.
    """
    records = list(leading_records(source))
    return _find_fields(records, convert) if check(records, source.name) else None


def _find_fields(records: Iterable[Mapping[str, Any]], convert: Convert) -> tuple[str, ...] | None:
    return fields_of_most(_converted(records, convert))


def _converted(records: Iterable[Mapping[str, Any]], convert: Convert) -> Iterator[dict[str, Any]]:
    for record in records:
        with suppress(FieldError):
            yield convert(record)


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
