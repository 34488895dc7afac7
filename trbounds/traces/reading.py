"""Open logged traces, whatever their format and wherever they lie."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.reader import detect, find_readers, get_reader
from trbounds.traces.remote import expand_remote, is_hidden, is_remote
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["example_path", "expand_paths", "open_trace", "read_source"]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_STEP = re.compile(r"(?:^|[\\/])step=(\d{1,9})[\\/]")
"""How Spark, Arrow and others write a column by which they divide files into directories."""


def example_path() -> str:
    """Path of the small real trace that ships with trbounds (see ``data/README.md``)."""
    return str(Path(__file__).parents[1] / "data" / "example.jsonl.gz")


def expand_paths(paths: Paths) -> list[str]:
    """Turn files, directories and globs into a list of files.

    Parameters
    ----------
    paths : path or iterable of paths
        Files; directories, searched at any depth for files with the ending of a known format,
        but not where a name begins with ``.`` or ``_``; glob patterns (``**`` allowed); ``"-"``
        for standard input. With a protocol (``s3://bucket/runs``, ``gs://``, ``hf://``, ...), the
        same through fsspec.

    Returns
    -------
    list of str
        Each file once, those of one directory or pattern in sorted order.

    Raises
    ------
    InputError
        If there is no path, a file does not exist, or a directory or a pattern holds no trace.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise InputError("found none, expected at least one file", field="paths")
    files: dict[str, str] = {}
    for path in given:
        for file in _expand(os.fspath(path)):
            own = file == "-" or is_remote(file)
            files.setdefault(file if own else os.path.realpath(file), file)
    return list(files.values())


def _expand(path: str) -> list[str]:
    if path == "-" or os.path.isfile(path):
        return [path]
    suffixes = tuple(suffix for reader in find_readers().values() for suffix in reader.suffixes)
    if is_remote(path):
        found = expand_remote(path, suffixes)
        if not found:
            raise InputError("no such file, and none that matches", file=path)
        return found
    if os.path.isdir(path):
        found = sorted(
            str(file)
            for file in Path(path).rglob("*")
            if file.name.endswith(suffixes)
            and not is_hidden(file.relative_to(path).as_posix())
            and file.is_file()
        )
        if not found:
            raise InputError(
                f"the directory holds no file that ends in {', '.join(sorted(set(suffixes)))} and "
                "begins with neither . nor _",
                file=path,
            )
        return found
    if glob.has_magic(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not found:
            raise InputError("no file matches this pattern", file=path)
        return found
    raise InputError("no such file", file=path)


def open_trace(
    paths: Paths,
    format: str | None = None,
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    on_skip: Callable[[InputError], None] | None = None,
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

    Yields
    ------
    TraceBatch
        Validated, none without sequences.

    Raises
    ------
    InputError
        For a bad path, file or record, naming the place.
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
    files = expand_paths(paths)
    if format is not None:
        get_reader(format)
    # Not a generator itself: what is wrong with the arguments is raised here.
    return (batch for file in files for batch in read_source(Source(file), format, options))


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
