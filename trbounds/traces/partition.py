"""Cut the inputs into parts that can be summarised apart, wherever that is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import pairwise

from trbounds.errors import InputError
from trbounds.traces.paths import Paths, expand_paths
from trbounds.traces.reader import Reader, detect
from trbounds.traces.source import LineRange, Source

_PART_BYTES = 1 << 25
"""Bytes a part should hold: some seconds of work, so that little is lost with a worker."""

_SCAN_BYTES = 1 << 20


@dataclass(frozen=True, order=True)
class Part:
    """A piece of the inputs: a file, some of its groups, or some of its lines.

    Parameters
    ----------
    file : str
        Path.
    first, stop : int
        Groups ``first`` to ``stop - 1`` of the file, or, where `first_record` says so, bytes;
        both 0 for the whole file.
    file_size : int
        Bytes of the file when the part was made; 0 where it is not known.
    size : int
        Bytes of the part, uncompressed where it is known, for the progress.
    first_record : int
        Number in the file of the first line, if the part is a range of lines; -1 if not.
    """

    file: str
    first: int = 0
    stop: int = 0
    file_size: int = 0
    size: int = 0
    first_record: int = -1

    def source(self) -> Source:
        """Return where the bytes of the part come from."""
        if self.first_record >= 0:
            return Source(self.file, lines=LineRange(self.first, self.stop, self.first_record))
        return Source(self.file, (self.first, self.stop) if self.stop else None)

    def __str__(self) -> str:
        if not self.stop:
            return self.file
        if self.first_record >= 0:
            return f"{self.file} (bytes {self.first} to {self.stop - 1})"
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
        32 MiB. So is a JSON Lines file between lines, if it is near and not compressed; it is
        read once for that, at about 2 GB/s from memory, because a part has to know the numbers
        of its records. Any other file is one part.

    Raises
    ------
    InputError
        For a bad path. Faults inside a file are found when its part is read.
    """
    return [part for file in expand_paths(paths) for part in _parts_of(file, format)]


def _parts_of(file: str, format: str | None) -> list[Part]:
    near = os.path.exists(file)
    whole = Part(file, file_size=os.path.getsize(file) if near else 0)
    whole = replace(whole, size=whole.file_size)
    if file == "-" or file.endswith(".tbs"):
        return [whole]
    try:
        source = Source(file)
        if not near:
            whole = replace(whole, file_size=source.size(), size=source.size())
        reader = detect(source, format)
        if reader.groups is not None:
            parts = _between_groups(whole, reader.groups(source))
        elif near and whole.size > _PART_BYTES and _has_independent_lines(source, reader):
            parts = _between_lines(whole, source)
        else:
            parts = []
    except (InputError, OSError):
        # Raised again, or skipped, by whoever reads the part.
        return [whole]
    return parts if len(parts) > 1 else [whole]


def _between_groups(whole: Part, sizes: list[int]) -> list[Part]:
    edges, filled = [0], 0
    for group, size in enumerate(sizes):
        if filled and filled + size > _PART_BYTES:
            edges.append(group)
            filled = 0
        filled += size
    edges.append(len(sizes))
    return [
        replace(whole, first=first, stop=stop, size=sum(sizes[first:stop]))
        for first, stop in pairwise(edges)
    ]


def _has_independent_lines(source: Source, reader: Reader) -> bool:
    return (
        reader.fields is not None
        and not source.is_compressed()
        and reader.fields(source) is not None
    )


def _between_lines(whole: Part, source: Source) -> list[Part]:
    """Cut at the first line that begins 32 MiB or more after the last cut, and so on."""
    edges, records = [0], [0]
    position = lines = 0
    with source.open_raw() as stream:
        while block := stream.read(_SCAN_BYTES):
            while True:
                end = block.find(b"\n", max(edges[-1] + _PART_BYTES - 1 - position, 0))
                if end < 0:
                    break
                edges.append(position + end + 1)
                records.append(lines + block.count(b"\n", 0, end + 1))
            lines += block.count(b"\n")
            position += len(block)
    # Not beyond the size that was found first, if the file grows meanwhile.
    edges = [*(edge for edge in edges if edge < whole.file_size), whole.file_size]
    return [
        replace(whole, first=first, stop=stop, size=stop - first, first_record=record)
        for (first, stop), record in zip(pairwise(edges), records, strict=False)
    ]
