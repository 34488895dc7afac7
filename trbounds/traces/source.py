"""Where the bytes of a trace come from: a file or standard input, maybe compressed."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from trbounds.errors import InputError, MissingDependency

__all__ = ["Source"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 22
MAX_LINE_BYTES = 1 << 26
"""Longest line of a text format that is read, in bytes."""


class Source:
    """The bytes of one file, or of standard input (``"-"``).

    Parameters
    ----------
    path : str
        Path of a file, or ``"-"``.
    groups : tuple of int, optional
        Read only the groups ``groups[0]`` to ``groups[1] - 1`` of a format that has independent
        groups (:attr:`trbounds.traces.reader.Reader.groups`); by default everything.

    Raises
    ------
    InputError
        From every method, if the file cannot be read or decompressed.
    """

    def __init__(self, path: str, groups: tuple[int, int] | None = None) -> None:
        self.path = path
        self.groups = groups
        self._taken = b""

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
            yield cast(BinaryIO, _Prefixed(self._taken, sys.stdin.buffer))
            return
        with self._reading():
            raw = Path(self.path).open("rb")  # noqa: SIM115 - closed below, outside this guard
        with raw:
            with self._reading():
                magic = raw.read(4)
                raw.seek(0)
            if magic.startswith(_GZIP):
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
            elif magic == _ZSTD:
                yield _zstd_stream(raw)
            else:
                yield raw

    def blocks_of_lines(self) -> Iterator[bytes]:
        """Yield blocks of whole lines, decompressed, a few MiB each.

        Raises
        ------
        InputError
            If a line is longer than 64 MiB, or the bytes cannot be decompressed.
        """
        with self.open() as stream:
            pending: list[bytes] = []
            size = 0
            while True:
                with self._reading():
                    block = stream.read(_BLOCK_BYTES)
                if not block:
                    break
                cut = block.rfind(b"\n") + 1
                if cut:
                    yield b"".join([*pending, block[:cut]])
                    pending, size = [], 0
                pending.append(block[cut:])
                size += len(block) - cut
                if size > MAX_LINE_BYTES:
                    raise InputError(
                        f"found a line of more than {MAX_LINE_BYTES >> 20} MiB, expected one "
                        "sequence a line",
                        file=self.name,
                    )
            if size:
                yield b"".join(pending)

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


def _zstd_stream(raw: BinaryIO) -> BinaryIO:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingDependency(
            "pyarrow", extra="traces", purpose="Reading Zstandard files"
        ) from None
    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
