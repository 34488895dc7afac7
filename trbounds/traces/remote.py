"""Paths with a protocol (``s3://``, ``gs://``, ``hf://``, ...), through fsspec."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from trbounds.errors import InputError, MissingDependency, TrboundsError

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""What fsspec needs for a protocol: those that the extra ``remote`` installs."""


def is_remote(path: str) -> bool:
    """Tell whether a path has a protocol."""
    return "://" in path


def is_hidden(path: str) -> bool:
    """Tell whether a file below a directory is none of its data.

    As for Spark and Arrow: a part of the path begins with ``.`` or ``_``, such as
    ``.ipynb_checkpoints``, which holds copies, or ``_temporary``, which holds parts.

    Parameters
    ----------
    path : str
        Relative to the directory, with slashes.
    """
    return any(part.startswith((".", "_")) for part in path.split("/"))


def open_remote(path: str) -> BinaryIO:
    """Open a remote file for reading bytes, seekable.

    Raises
    ------
    InputError
        If it cannot be opened.
    MissingDependency
        If fsspec is absent, or what it needs for this protocol.
    """
    with remote_errors(path):
        files, inside = _file_system(path)
        return cast(BinaryIO, files.open(inside, "rb"))


def expand_remote(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Turn a remote file, directory or pattern into a sorted list of files.

    Parameters
    ----------
    path : str
        With a protocol; ``*``, ``**``, ``?`` and ``[...]`` are patterns.
    suffixes : tuple of str
        Endings of the files to take from a directory.

    Returns
    -------
    list of str
        Paths with the protocol; empty where nothing matches.

    Raises
    ------
    InputError
        If the storage cannot be listed.
    MissingDependency
        If fsspec is absent, or what it needs for this protocol.
    """
    with remote_errors(path):
        files, inside = _file_system(path)
        if files.isfile(inside):
            return [path]
        if files.isdir(inside):
            found = [
                name
                for name in files.find(inside)
                if name.endswith(suffixes) and not is_hidden(posixpath.relpath(name, inside))
            ]
        else:
            found = [name for name in files.glob(inside) if files.isfile(name)]
        return sorted(files.unstrip_protocol(name) for name in found)


@contextmanager
def remote_errors(path: str) -> Iterator[None]:
    """Turn whatever a storage raises into an InputError: each has errors of its own."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("no such file", file=path) from None
    except TrboundsError:
        raise
    except Exception as error:
        problem = f"cannot be read: {type(error).__name__}: {error}"
        raise InputError(problem, file=path) from error


def _file_system(path: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingDependency("fsspec", extra="remote", purpose=f"Reading {path}") from None
    try:
        files, inside = url_to_fs(path)
    except ImportError as error:
        package = _PACKAGES.get(path.partition("://")[0])
        if package is None:
            # fsspec says which package to install.
            raise InputError(f"cannot be read: {error}", file=path) from None
        raise MissingDependency(package, extra="remote", purpose=f"Reading {path}") from None
    return files, inside
