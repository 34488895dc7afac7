"""The contract of a trace reader, and how readers are found.

A reader is one file in ``trbounds/traces/readers/`` that holds one ``READER``. Nothing else has
to be edited to add a format.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

_FOREIGN = {
    b"[": "a JSON array, expected JSON Lines: one object a line, without commas between them",
    b"\xff\xfe": "text in UTF-16, expected UTF-8",
    b"\xfe\xff": "text in UTF-16, expected UTF-8",
    b"BZh": "a file compressed with bzip2, expected gzip, Zstandard or none",
    b"\xfd7zXZ": "a file compressed with xz, expected gzip, Zstandard or none",
    b"ARROW1": "an Arrow (Feather) file, expected Parquet",
}
"""What else people have, by its first bytes."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One trace format.

    Parameters
    ----------
    name : str
        What ``format=`` takes, for example ``"canonical-parquet"``.
    description : str
        One line for people.
    suffixes : tuple of str
        File name endings that a directory is searched for.
    detects : callable
        ``detects(path, head)`` says from the first bytes (decompressed, up to 64 KiB) whether
        the file has this format. Cheap; never raises.
    read : callable
        ``read(source, options)`` yields validated batches. Bad records go through
        ``options.refuse`` and :func:`trbounds.traces.validate.assemble`.
    fallback : bool
        Whether it is asked only when no other reader detects the file.
    groups : callable, optional
        ``groups(source)`` returns the sizes, in bytes, of the groups that a file can be read by:
        ``read`` then respects ``source.groups``. None for a format without independent groups.
    fields : callable, optional
        For a format of one record a line: ``fields(source)`` returns the fields that the first
        block of lines says to read from all, None if it does not say, and raises
        :class:`~trbounds.errors.InputError` for a fault of the file as a whole. Where it
        returns fields, a file can be cut between lines: ``read`` then respects
        ``source.lines``, and takes the fields from the beginning of the file. None for other
        formats.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    detects: Callable[[str, bytes], bool]
    read: Callable[[Source, ReadOptions], Iterator[TraceBatch]]
    fallback: bool = False
    groups: Callable[[Source], list[int]] | None = None
    fields: Callable[[Source], Sequence[str] | None] | None = None


@cache
def find_readers() -> dict[str, Reader]:
    """Return every reader by name, those of a specific format before the fallbacks."""
    from trbounds.traces import readers as folder

    modules = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    found = [importlib.import_module(f"{folder.__name__}.{name}").READER for name in modules]
    return {reader.name: reader for reader in sorted(found, key=lambda item: item.fallback)}


def get_reader(name: str) -> Reader:
    """Return the reader of this name.

    Raises
    ------
    InputError
        If there is none; it lists the known formats.
    """
    readers = find_readers()
    if name not in readers:
        raise InputError(f"found {name!r}, expected one of {', '.join(readers)}", field="format")
    return readers[name]


def detect(source: Source, format: str | None = None) -> Reader:
    """Choose the reader of a file.

    Parameters
    ----------
    source : Source
        The file.
    format : str, optional
        Name of a reader; by default the first bytes decide.

    Raises
    ------
    InputError
        If the name is unknown or no reader detects the file; it lists the known formats.
    """
    if format is not None:
        return get_reader(format)
    readers, head = find_readers(), source.head()
    for reader in readers.values():
        if reader.detects(source.path, head):
            return reader
    for beginning, found in _FOREIGN.items():
        if head.lstrip().startswith(beginning):
            raise InputError(f"found {found}", file=source.name)
    if not head.strip():
        raise InputError("found blank lines only, expected records", file=source.name)
    raise InputError(
        f"format not recognised, expected one of {', '.join(readers)}", file=source.name
    )
