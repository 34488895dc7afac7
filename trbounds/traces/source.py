"""Where the bytes of a trace come from: a file, near or remote, or standard input."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from trbounds.errors import InputError, MissingDependency
from trbounds.traces.remote import RemoteFile, is_remote, open_remote

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 16
"""What is decompressed at a time: of a file that is cut, less than this is lost before the cut."""

_BLOCK_BYTES = 1 << 22
_MUCH = 1 << 28
_CHANGED = "the file has changed since it was cut into parts"
MAX_EXPANSION = 500
"""Logs compress 3 to 10 times; gzip can do 1000, Zstandard 100,000. Looked at after 256 MiB."""


class LineRange(NamedTuple):
    """Whole lines of a file: bytes ``start`` to ``stop - 1``, which begin and end with a line.

    ``first_record`` is the number in the file of the first line.
    """

    start: int
    stop: int
    first_record: int


class Source:
    """The bytes of one file, or of standard input (``"-"``).

    Parameters
    ----------
    path : str
        Path of a file, with or without a protocol (``s3://...``), or ``"-"``.
    groups : tuple of int, optional
        Read only the groups ``groups[0]`` to ``groups[1] - 1`` of a format that has independent
        groups (:attr:`trbounds.traces.reader.Reader.groups`); by default everything.
    lines : LineRange, optional
        Read only these lines of a file that is not compressed; by default everything.

    Raises
    ------
    InputError
        From every method, if the file cannot be read or decompressed.
    """

    def __init__(
        self,
        path: str,
        groups: tuple[int, int] | None = None,
        lines: LineRange | None = None,
    ) -> None:
        self.path = path
        self.groups = groups
        self.lines = lines
        self._taken = b""
        self._remote: RemoteFile | None = None

    @property
    def name(self) -> str:
        """The path as messages show it."""
        return "<stdin>" if self.path == "-" else self.path

    def head(self) -> bytes:
        """Return the first bytes after decompression, without using standard input up."""
        if self.path == "-":
            self._taken = self._taken or sys.stdin.buffer.read(_HEAD_BYTES)
            head = self._taken
            if head.startswith((_GZIP, _ZSTD)):
                raise InputError(
                    "found compressed bytes, expected text: decompress them first", file=self.name
                )
        else:
            with self.open() as stream, self._reading():
                head = stream.read(_HEAD_BYTES)
        if not head:
            raise InputError("the file is empty", file=self.name)
        return head

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading, decompressed by what the first bytes say (gzip or Zstandard)."""
        if self.path == "-":
            self.head()  # refuses what is empty or compressed
            yield cast(BinaryIO, _Prefixed(self._taken, sys.stdin.buffer))
            return
        with self.open_raw() as raw:
            magic = self._magic(raw)
            if magic.startswith(_GZIP):
                yield cast(BinaryIO, _Unpacked(gzip.GzipFile(fileobj=raw), raw))
            elif magic == _ZSTD:
                yield cast(BinaryIO, _Unpacked(_zstd_stream(raw), raw))
            else:
                yield raw

    def is_compressed(self) -> bool:
        """Tell by the first bytes whether the file is compressed; not for standard input."""
        with self.open_raw() as raw:
            return self._magic(raw).startswith((_GZIP, _ZSTD))

    def open_raw(self) -> BinaryIO:
        """Open for reading as it is stored, seekable; not for standard input."""
        if is_remote(self.path):
            # What is opened later begins with the blocks that were fetched already.
            self._remote = self._remote or open_remote(self.path)
            return cast(BinaryIO, self._remote.again())
        with self._reading():
            return Path(self.path).open("rb")

    def size(self) -> int:
        """Return the bytes as stored; 0 where that is not known, as of standard input."""
        if self.path == "-":
            return 0
        if is_remote(self.path):
            self._remote = self._remote or open_remote(self.path)
            return self._remote.size
        with self._reading():
            return os.path.getsize(self.path)

    def blocks_of_lines(self, longest: int) -> Iterator[bytes | None]:
        """Yield blocks of whole lines, decompressed, a few MiB each.

        Parameters
        ----------
        longest : int
            Most bytes that a line may have. Memory is bounded by it.

        Yields
        ------
        bytes or None
            None stands for one line that is too long, whose end need not have been found yet.

        Raises
        ------
        InputError
            If the bytes cannot be decompressed, or are not there any more.
        """
        with self._open_lines() as stream:
            pending: list[bytes] = []
            size = 0
            too_long = False
            while True:
                with self._reading():
                    block = stream.read(_BLOCK_BYTES)
                if not block:
                    break
                if too_long:
                    end = block.find(b"\n") + 1
                    if not end:
                        continue
                    block, too_long = block[end:], False
                cut = block.rfind(b"\n") + 1
                if cut:
                    yield b"".join([*pending, block[:cut]])
                    pending, size = [], 0
                pending.append(block[cut:])
                size += len(block) - cut
                if size > longest:
                    yield None
                    pending, size, too_long = [], 0, True
            if size:
                yield b"".join(pending)

    @contextmanager
    def _open_lines(self) -> Iterator[BinaryIO]:
        """Open what ``lines`` says."""
        if self.lines is None:
            with self.open() as stream:
                yield stream
            return
        with self.open_raw() as raw:
            with self._reading():
                stream = cast(BinaryIO, _Slice(raw, self.lines))
            yield stream

    def _magic(self, raw: BinaryIO) -> bytes:
        with self._reading():
            magic = raw.read(4)
            raw.seek(0)
        return magic

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise InputError("no such file", file=self.name) from None
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"cannot be read: {error}", file=self.name) from None


class _Prefixed:
    """A stream of which the first bytes were already taken."""

    def __init__(self, taken: bytes, rest: BinaryIO) -> None:
        self._taken = taken
        self._rest = rest

    def read(self, size: int) -> bytes:
        taken, self._taken = self._taken, b""
        return taken or self._rest.read(size)


class _Slice:
    """The bytes of some lines of a file that must still be where they were."""

    def __init__(self, raw: BinaryIO, lines: LineRange) -> None:
        self._raw = raw
        self._left = lines.stop - lines.start
        size = raw.seek(0, os.SEEK_END)
        for edge in (lines.stop, lines.start):
            raw.seek(max(edge - 1, 0))
            if edge > size or (0 < edge < size and raw.read(1) != b"\n"):
                raise OSError(_CHANGED)
        raw.seek(lines.start)

    def read(self, size: int) -> bytes:
        data = self._raw.read(min(size, self._left))
        if self._left and not data:
            raise OSError(_CHANGED)
        self._left -= len(data)
        return data


class _Unpacked:
    """A decompressed stream that ends where it unfolds as no log does.

    What comes before the place where the bytes are cut is read all the same. Of what is read
    together with damaged bytes nothing is: damage is noticed late, and numbers before may be wrong.
    """

    def __init__(self, stream: io.BufferedIOBase, raw: BinaryIO) -> None:
        self._stream = stream
        self._raw = raw
        self._seen = 0
        self._fault: Exception | None = None

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left and self._fault is None:
            try:
                piece = self._stream.read1(min(left, _PIECE_BYTES))
            except (OSError, EOFError) as error:
                if not _says_cut(error):
                    raise
                self._fault = error
                break
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        if self._fault is not None and not pieces:
            raise self._fault
        self._seen += size - left
        if self._seen > _MUCH and self._seen > MAX_EXPANSION * self._raw.tell():
            raise OSError(f"it unfolds to more than {MAX_EXPANSION} times its size")
        return b"".join(pieces)


def _says_cut(error: Exception) -> bool:
    # gzip's, and pyarrow's of Zstandard, which has no type of its own.
    return isinstance(error, EOFError) or str(error).startswith("Truncated")


def _zstd_stream(raw: BinaryIO) -> io.BufferedIOBase:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingDependency(
            "pyarrow", extra="traces", purpose="Reading Zstandard files"
        ) from None
    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    # Its own read() leaks what it was going to fill when the bytes are damaged (pyarrow 26).
    return io.BufferedReader(stream)
