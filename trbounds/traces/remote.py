"""Paths with a protocol (``s3://``, ``gs://``, ``hf://``, ...), through fsspec."""

from __future__ import annotations

import io
import logging
import posixpath
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from typing import Any

from trbounds.errors import InputError, MissingDependency, TrboundsError

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""What fsspec needs for a protocol: those that the extra ``remote`` installs."""

_BLOCK_BYTES = 1 << 22
_BLOCKS = 24
"""A storage's own buffer is one range of up to 50 MiB, fetched anew at each jump. The columns of a
Parquet file are read in turns, and a trace has up to 23 of them: with a block for each, and one for
the footer, every block is fetched once."""


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


class RemoteFile(io.BufferedIOBase):
    """A remote file open for reading, whose every error is an InputError.

    It keeps the last 96 MiB that were read, in blocks of 4 MiB.

    Parameters
    ----------
    path : str
        For messages.
    file : file
        As fsspec opened it.
    lock : lock, optional
        Held while the file is read, if others read it too.
    """

    def __init__(self, path: str, file: Any, lock: threading.Lock | None = None) -> None:
        self._path = path
        self._file = file
        self._lock = threading.Lock() if lock is None else lock
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of the file; 0 where the storage does not say."""
        return getattr(self._file, "size", None) or 0

    def again(self) -> RemoteFile:
        """Open the file a second time, at its beginning and with the same blocks.

        Closing one leaves the other as it is; the blocks go when both are gone.
        """
        return RemoteFile(self._path, self._file, self._lock)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte, as in any file; nothing is fetched."""
        with remote_errors(self._path), self._lock:
            if whence == io.SEEK_END:
                offset = self._file.seek(offset, whence)
            self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes, or all that are left."""
        with remote_errors(self._path), self._lock:
            self._file.seek(self._at)
            data: bytes = self._file.read(-1 if size is None else size)
        self._at += len(data)
        return data


def open_remote(path: str) -> RemoteFile:
    """Open a remote file for reading bytes, seekable.

    Raises
    ------
    InputError
        If it cannot be opened; from what is returned, if it cannot be read.
    MissingDependency
        If fsspec is absent, or what it needs for this protocol.
    """
    with remote_errors(path):
        files, inside = _file_system(path)
        file = files.open(
            inside,
            "rb",
            block_size=_BLOCK_BYTES,
            cache_type="blockcache",
            cache_options={"maxblocks": _BLOCKS},
        )
        return RemoteFile(path, file)


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
        # Listings are kept for the whole process: what was written since would not be found.
        files.invalidate_cache()
        kind = _kind(files, inside)
        if kind == "file":
            return [path]
        if kind == "directory":
            found = [
                name
                for name in files.find(inside)
                if name.endswith(suffixes) and not is_hidden(posixpath.relpath(name, inside))
            ]
        elif has_magic(inside):
            matches = files.glob(inside, detail=True)
            found = [name for name, about in matches.items() if about["type"] == "file"]
        else:
            found = []
        return sorted(files.unstrip_protocol(name) for name in found)


def _kind(files: Any, inside: str) -> str | None:
    # Not isfile and isdir: they take any error, such as denied access, for no.
    try:
        return str(files.info(inside)["type"])
    except FileNotFoundError:
        return None


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
        text = " ".join(str(error).split())
        problem = f"cannot be read: {type(error).__name__}: {text}"
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
    # It logs tracebacks of what it raises: not on a terminal where nobody set up logging.
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    return files, inside
