"""Cut the inputs into parts that can be summarised apart, wherever that is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

from trbounds.errors import InputError
from trbounds.traces.reader import detect
from trbounds.traces.reading import Paths, expand_paths
from trbounds.traces.source import Source

__all__ = ["Part", "partition"]

_PART_BYTES = 1 << 25
"""Bytes a part should hold: some seconds of work, so that little is lost with a worker."""


@dataclass(frozen=True, order=True)
class Part:
    """A piece of the inputs: a file, or a range of its groups.

    Parameters
    ----------
    file : str
        Path.
    first, stop : int
        Groups ``first`` to ``stop - 1`` of the file; both 0 for the whole file.
    file_size : int
        Bytes of the file when the part was made; 0 where it is not known.
    size : int
        Bytes of the part, uncompressed where it is known, for the progress.
    """

    file: str
    first: int = 0
    stop: int = 0
    file_size: int = 0
    size: int = 0

    def source(self) -> Source:
        """Return where the bytes of the part come from."""
        return Source(self.file, (self.first, self.stop) if self.stop else None)

    def __str__(self) -> str:
        if not self.stop:
            return self.file
        return f"{self.file} (row groups {self.first} to {self.stop - 1})"


def partition(paths: Paths, format: str | None = None) -> list[Part]:
    """Cut the inputs into parts.

    The parts depend on the files alone, never on how many workers there are, so that a run can
    be continued by another engine.

    Parameters
    ----------
    paths : path or iterable of paths
        As :func:`trbounds.traces.open_trace` takes them; or saved summaries (``.tbs``), each of
        which is a part.
    format : str, optional
        Name of a reader; by default the first bytes of each file decide.

    Returns
    -------
    list of Part
        In order of the paths. A Parquet file is cut between row groups into parts of about
        32 MiB, any other file is one part.

    Raises
    ------
    InputError
        For a bad path. Faults inside a file are found when its part is read.
    """
    return [part for file in expand_paths(paths) for part in _parts_of(file, format)]


def _parts_of(file: str, format: str | None) -> list[Part]:
    file_size = os.path.getsize(file) if os.path.exists(file) else 0
    whole = Part(file, file_size=file_size, size=file_size)
    sizes = _group_sizes(file, format)
    if len(sizes) < 2:
        return [whole]
    edges, filled = [0], 0
    for group, size in enumerate(sizes):
        if filled and filled + size > _PART_BYTES:
            edges.append(group)
            filled = 0
        filled += size
    edges.append(len(sizes))
    if len(edges) == 2:
        return [whole]
    return [
        Part(file, first, stop, file_size, sum(sizes[first:stop]))
        for first, stop in pairwise(edges)
    ]


def _group_sizes(file: str, format: str | None) -> list[int]:
    if file == "-" or file.endswith(".tbs"):
        return []
    try:
        source = Source(file)
        groups = detect(source, format).groups
        return [] if groups is None else groups(source)
    except InputError:
        # Raised again, or skipped, by whoever reads the part.
        return []
