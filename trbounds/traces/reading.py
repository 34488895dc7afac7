"""Open logged traces, whatever their format and wherever they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.partition import Part, partition
from trbounds.traces.paths import Paths, expand_paths
from trbounds.traces.reader import detect, get_reader
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

_STEP = re.compile(r"(?:^|[\\/])step=(\d{1,9})[\\/]")
"""How Spark, Arrow and others write a column by which they divide files into directories."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Parameters
    ----------
    parts_done, parts : int
        Parts of the inputs.
    bytes_done, bytes : int
        Their sizes.
    sequences, tokens : int
        What was read, in this run and those it continues.
    tokens_read : int
        Tokens read in this run.
    """

    parts_done: int
    parts: int
    bytes_done: int
    bytes: int
    sequences: int
    tokens: int
    tokens_read: int


def open_trace(
    paths: Paths,
    format: str | None = None,
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    on_skip: Callable[[InputError], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[TraceBatch]:
    """Read traces in one pass, in bounded memory.

    Parameters
    ----------
    paths : path or iterable of paths
        Files, directories, glob patterns, near or remote, or ``"-"`` for JSON Lines on standard
        input.
    format : str, optional
        Name of a reader (:func:`trbounds.traces.reader.find_readers`); by default the first
        bytes of each file decide.
    reward_range : tuple of float
        Lowest and highest admissible reward.
    on_error : {"fail", "skip"}
        Stop at the first bad record or file, or leave it out.
    on_skip : callable, optional
        Receives the :class:`~trbounds.errors.InputError` of each record or file left out.
    on_progress : callable, optional
        Called after each batch, and when a part of a file is done. Large JSON Lines files are read
        twice for it.

    Yields
    ------
    TraceBatch
        Validated, none without sequences.

    Raises
    ------
    InputError
        For a bad path, file or record, naming the place; also for saved summaries, which hold no
        tokens.
    MissingDependency
        If pyarrow is needed and absent.

    Examples
    --------
    >>> from trbounds.traces import example_path, open_trace
    >>> sum(batch.n_sequences for batch in open_trace(example_path()))
    128
    """
    options = ReadOptions(reward_range=reward_range, on_error=on_error)
    if on_skip is not None:
        options = replace(options, on_skip=on_skip)
    if format is not None:
        get_reader(format)
    if on_progress is None:
        parts = [Part(file) for file in expand_paths(paths)]
    else:  # cut, which takes a look at every file, and at all lines of large ones
        parts = partition(paths, format)
    for part in parts:
        if part.file.endswith(".tbs"):
            problem = "holds a summary, expected a trace with its tokens"
            raise InputError(problem, file=part.file)
    # Not a generator itself: what is wrong with the arguments is raised here.
    return _read_parts(parts, format, options, on_progress)


def _read_parts(
    parts: list[Part],
    format: str | None,
    options: ReadOptions,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[TraceBatch]:
    total = sum(part.size for part in parts)
    sequences = tokens = finished = 0

    def report(done: int) -> None:
        if on_progress is not None:
            counts = (done, len(parts), finished, total)
            on_progress(Progress(*counts, sequences, tokens, tokens))

    for done, part in enumerate(parts):
        for batch in read_source(part.source(), format, options):
            sequences += batch.n_sequences
            tokens += batch.n_tokens
            yield batch
            report(done)
        finished += part.size
        report(done + 1)


def read_source(source: Source, format: str | None, options: ReadOptions) -> Iterator[TraceBatch]:
    """Read one file, or some of its groups or lines; yield its batches that have sequences.

    Where the file does not say the step, a directory ``step=12`` that it is in does.

    Parameters
    ----------
    source : Source
        The file.
    format : str, optional
        Name of a reader; by default the first bytes decide.
    options : ReadOptions
        A fault of the file as a whole, too, is raised or skipped as these say.
    """
    step = _STEP.search(source.path)
    try:
        for batch in detect(source, format).read(source, options):
            if batch.n_sequences and batch.step is None and step is not None:
                yield replace(batch, step=np.full(batch.n_sequences, int(step[1]), dtype=np.int64))
            elif batch.n_sequences:
                yield batch
    except InputError as error:
        # A fault of the file as a whole: the rest of this file cannot be read.
        options.refuse(error)
