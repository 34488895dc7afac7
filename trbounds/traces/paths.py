"""Where logged traces lie: files, directories, patterns, near or remote."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from trbounds.errors import InputError
from trbounds.traces.reader import find_readers
from trbounds.traces.remote import expand_remote, is_hidden, is_remote

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


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
        If there is no path, a file does not exist, a directory cannot be listed, or a directory or
        a pattern holds no trace.
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
            for file in _files_below(path)
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


def _files_below(path: str) -> Iterator[Path]:
    """List a directory at any depth, and refuse one that cannot be listed.

    ``Path.rglob`` passes over those, and a trace would lack a part of itself.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot be listed: {error.strerror}", file=str(error.filename))

    for folder, below, files in os.walk(path, onerror=refuse):
        below[:] = [name for name in below if not is_hidden(name)]
        yield from (Path(folder, name) for name in files)
