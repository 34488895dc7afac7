"""Files written by ``torch.save``, read without torch.

A file is a zip archive, stored without compression: ``NAME/data.pkl`` describes nested data and
tensors, ``NAME/data/KEY`` holds the numbers of one storage, ``NAME/byteorder`` their byte order.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.restricted_pickle import PickleError, StoredTensor, decode

MAX_PICKLE_BYTES = 1 << 27
"""Largest ``data.pkl`` that is read."""

_MAX_MEMBERS = 1 << 19
_MAX_SPAN = 1 << 24
_CHUNK = 1 << 20
_DTYPES = {
    "bfloat16": "<u2",
    "bool": "|u1",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "int8": "|i1",
    "uint8": "|u1",
}


def is_torch_zip(head: bytes) -> bool:
    """Tell from the first bytes whether a file was written by ``torch.save``."""
    return head.startswith(b"PK\x03\x04") and b"/data.pkl" in head[:4096]


class TorchFile:
    """An open file of ``torch.save``.

    Parameters
    ----------
    stream : file
        Opened for reading bytes, seekable.
    file : str
        For messages.

    Raises
    ------
    InputError
        If the file is damaged, compressed, of another layout, or names anything that is not data.
    """

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self.file = file
        self._stream = stream
        self._checked: dict[str, int] = {}
        with self._reading():
            self.n_bytes = stream.seek(0, 2)
            _check_directory(stream, self.n_bytes)
            self._archive = zipfile.ZipFile(stream)
            self._prefix = self._find_prefix()
            order = self._optional("byteorder")
            if order not in (None, b"little"):
                raise PickleError(f"found byte order {order!r:.20}, expected little")

    def document(self) -> Any:
        """Decode ``data.pkl``; tensors come as :class:`StoredTensor`."""
        with self._reading():
            info = self._archive.getinfo(f"{self._prefix}data.pkl")
            _check_stored(info)
            if info.file_size > MAX_PICKLE_BYTES:
                raise PickleError(
                    f"found {info.file_size} bytes of data.pkl, expected at most "
                    f"{MAX_PICKLE_BYTES}: log tensors, not lists"
                )
            return decode(self._archive.read(info))

    def load(self, tensor: StoredTensor) -> NDArray[Any]:
        """Read the numbers of a tensor: int64 for whole numbers and booleans, else float64."""
        with self._reading():
            start = self._start_of(tensor)
            dtype = np.dtype(_DTYPES[tensor.kind])
            if 0 in tensor.shape:
                return _widened(np.empty(tensor.shape, dtype), tensor.kind)
            span = 1 + sum(
                (n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True)
            )
            if max(span, tensor.size) > _MAX_SPAN:
                raise PickleError(f"a tensor spans {span} numbers, expected at most {_MAX_SPAN}")
            self._stream.seek(start + tensor.offset * dtype.itemsize)
            data = self._stream.read(span * dtype.itemsize)
            if len(data) != span * dtype.itemsize:
                raise PickleError(f"storage {tensor.key} ends early")
            flat = np.frombuffer(data, dtype)
            strides = [step * dtype.itemsize for step in tensor.stride]
            view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
            return _widened(view, tensor.kind)

    def _start_of(self, tensor: StoredTensor) -> int:
        """Return where a storage starts in the file, after checking its size and checksum."""
        name = f"{self._prefix}data/{tensor.key}"
        if name not in self._checked:
            info = self._archive.getinfo(name)
            _check_stored(info)
            self._stream.seek(info.header_offset)
            header = self._stream.read(30)
            if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
                raise PickleError(f"storage {tensor.key} has no header")
            name_size, extra_size = struct.unpack("<HH", header[26:])
            start = info.header_offset + 30 + name_size + extra_size
            self._check_sum(start, info)
            self._checked[name] = start
        expected = tensor.numel * np.dtype(_DTYPES[tensor.kind]).itemsize
        found = self._archive.getinfo(name).file_size
        if found != expected:
            raise PickleError(f"storage {tensor.key} has {found} bytes, expected {expected}")
        return self._checked[name]

    def _check_sum(self, start: int, info: zipfile.ZipInfo) -> None:
        self._stream.seek(start)
        left, checksum = info.file_size, 0
        while left:
            data = self._stream.read(min(left, _CHUNK))
            if not data:
                raise PickleError(f"{info.filename} ends early")
            checksum = zlib.crc32(data, checksum)
            left -= len(data)
        if checksum != info.CRC:
            raise PickleError(f"{info.filename} is damaged: its checksum differs")

    def _find_prefix(self) -> str:
        found = [n for n in self._archive.namelist() if n.endswith("/data.pkl")]
        if len(found) != 1 or found[0].count("/") != 1:
            raise PickleError("found no single NAME/data.pkl, as torch.save writes")
        return found[0].removesuffix("data.pkl")

    def _optional(self, name: str) -> bytes | None:
        if f"{self._prefix}{name}" not in self._archive.namelist():
            return None
        info = self._archive.getinfo(f"{self._prefix}{name}")
        _check_stored(info)
        return self._archive.read(info)[:16] if info.file_size < 64 else b"?"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except PickleError as error:
            raise InputError(str(error), file=self.file) from None
        except (
            EOFError,
            KeyError,
            NotImplementedError,
            OSError,
            RuntimeError,
            ValueError,
            struct.error,
            zipfile.BadZipFile,
        ) as error:
            problem = f"not a readable torch.save file (truncated?): {error}"
            raise InputError(problem, file=self.file) from None


def _check_stored(info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise PickleError(f"{info.filename} is compressed, expected stored as torch.save does")


def _check_directory(stream: BinaryIO, size: int) -> None:
    """Refuse a central directory that would take far more memory than a rollout's."""
    stream.seek(max(size - 65_557, 0))
    tail = stream.read(65_557)
    for mark, layout, place in ((b"PK\x05\x06", "<I", 12), (b"PK\x06\x06", "<Q", 40)):
        at = tail.rfind(mark)
        if at >= 0 and at + place + struct.calcsize(layout) <= len(tail):
            (directory,) = struct.unpack_from(layout, tail, at + place)
            if directory != 0xFFFFFFFF and directory > 64 * _MAX_MEMBERS:
                raise PickleError(f"found a directory of {directory} bytes, too many members")


def _widened(values: NDArray[Any], kind: str) -> NDArray[Any]:
    if kind == "bfloat16":
        # The upper half of a float32.
        halves = np.zeros((*values.shape, 2), dtype="<u2")
        halves[..., 1] = values
        values = halves.view("<f4")[..., 0]
    if kind == "bool":
        values = values != 0
    with np.errstate(invalid="ignore"):  # a signalling NaN stays a NaN
        out: NDArray[Any] = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return out
