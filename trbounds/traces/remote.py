"""Paths with a protocol (``s3://``, ``gs://``, ``hf://``, ...), through fsspec."""

from __future__ import annotations

import errno
import io
import logging
import os
import posixpath
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from glob import has_magic
from typing import Any, cast

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


class _Blocks:
    """The bytes of a remote file, of which the blocks that were read last are kept.

    fsspec's own cache refers to itself, so that its blocks stay until the garbage collector comes.
    """

    def __init__(self, path: str, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._path = path
        self._fetch = fetch
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.size = size

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop - 1``, which the file must have."""
        if start >= stop:
            return b""
        first, last = start // _BLOCK_BYTES, (stop - 1) // _BLOCK_BYTES
        with self._lock:
            pieces = [self._block(number) for number in range(first, last + 1)]
        pieces[-1] = pieces[-1][: stop - last * _BLOCK_BYTES]
        pieces[0] = pieces[0][start - first * _BLOCK_BYTES :]
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        start = number * _BLOCK_BYTES
        expected = min(_BLOCK_BYTES, self.size - start)
        data = self._fetch(start, start + expected)
        if len(data) != expected:
            problem = f"found {start + len(data)} bytes, expected {self.size}: it has changed"
            raise InputError(problem, file=self._path)
        self._kept[number] = data
        if len(self._kept) > _BLOCKS:
            self._kept.popitem(last=False)
        return data


class RemoteFile(io.BufferedIOBase):
    """A remote file open for reading, whose every error of the storage is an InputError.

    It keeps the last 96 MiB that were read, in blocks of 4 MiB.

    Parameters
    ----------
    path : str
        For messages.
    blocks : _Blocks
        Its bytes.
    """

    def __init__(self, path: str, blocks: _Blocks) -> None:
        self._path = path
        self._blocks = blocks
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._blocks.size

    def again(self) -> RemoteFile:
        """Open the file a second time, at its beginning and with the same blocks.

        Closing one leaves the other as it is; the blocks go when both are gone. Each may be read
        in a thread of its own.
        """
        return RemoteFile(self._path, self._blocks)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte, as in any file; nothing is fetched."""
        self._check_open()
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes, or all that are left."""
        self._check_open()
        left = max(self.size - self._at, 0)
        stop = self._at + (left if size is None or size < 0 else min(size, left))
        with remote_errors(self._path):
            data = self._blocks.read(self._at, stop)
        self._at = stop
        return data

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


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
        return RemoteFile(path, _blocks(path, files, inside))


def _blocks(path: str, files: Any, inside: str) -> _Blocks:
    """Open a file as it is now, for every block has to be of that.

    s3fs sees to it itself, by the ETag; storages of other protocols may have nothing of the kind.
    """
    protocol = path.partition("://")[0]
    if protocol == "hf":
        inside = _at_commit(files, inside)
    else:
        # Listings are kept for the whole process, and are of the file as it was then.
        files.invalidate_cache(inside)
    if protocol in ("gs", "gcs"):
        about = files.info(inside)
        fetch = partial(files.cat_file, inside, generation=about.get("generation"))
        return _Blocks(path, lambda start, stop: fetch(start=start, end=stop), about["size"])
    file = files.open(inside, "rb", block_size=_BLOCK_BYTES, cache_type="none")

    def read(start: int, stop: int) -> bytes:
        file.seek(start)
        return cast(bytes, file.read(stop - start))

    size = getattr(file, "size", None)
    blocks = _Blocks(path, read, file.seek(0, io.SEEK_END) if size is None else size)
    # An archive closes its files when it is gone: it is kept for as long.
    weakref.finalize(blocks, _close, file, files)
    return blocks


def _close(file: Any, files: Any) -> None:
    file.close()


def _at_commit(files: Any, inside: str) -> str:
    """Return the path of a file of the Hub in the commit that its branch is at now."""
    place = files.resolve_path(inside)
    if not hasattr(place, "repo_id"):  # a bucket, which has no commits
        files.invalidate_cache(inside)
        return inside
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # As its own downloads do: what describes a repository may be asked for less often.
    url = hf_hub_url(
        place.repo_id,
        place.path_in_repo,
        repo_type=place.repo_type,
        revision=place.revision,
        endpoint=files.endpoint,
    )
    commit = get_hf_file_metadata(url, token=files.token, retry_on_errors=True).commit_hash
    if not commit:
        raise ValueError("the server does not name the commit (X-Repo-Commit)")
    return str(replace(place, revision=commit, _raw_revision=None).unresolve())


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
        # Of a chain, such as zip://a::s3://b, the first link that has a path is of the file.
        links = path.split("::")
        at = next(at for at, link in enumerate(links) if is_remote(link))
        names = sorted(files.unstrip_protocol(name) for name in found)
        return ["::".join([*links[:at], name, *links[at + 1 :]]) for name in names]


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
