"""Arrays in files, read in order and in bounded memory: .npy, members of .npz, .safetensors.

Nothing here is unpickled, and no length a file states is trusted before it is compared with what is
there. A source gives blocks of rows in order; sources on uncompressed files are memory-mapped.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from trbounds.arrays import bfloat16_dtype
from trbounds.errors import InputError

_HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, as its specification says
_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
}


class ArraySource(Protocol):
    """One array of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as the file states it; the size of the file has been compared with it."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""
        ...

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield blocks of `rows` rows (fewer at the end), in order."""
        ...


@dataclass(frozen=True)
class _Mapped:
    """An uncompressed array, memory-mapped; pages that were passed do not stay with the process."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        count = math.prod(self.shape)
        if count == 0:
            return
        with Path(self.path).open("rb") as stream:
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.frombuffer(pages, self.dtype, count, self.offset).reshape(self.shape)
        passed = 0
        for start in range(0, self.shape[0], rows):
            block = array[start : start + rows]
            yield block
            # A mapping for each block would do as well, but make numba's kernel 5 % slower.
            here = self.offset + (start + block.shape[0]) * array.strides[0]
            here -= here % mmap.PAGESIZE
            if here > passed and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED, passed, here - passed)
            passed = here


@dataclass(frozen=True)
class _Zipped:
    """A member of an .npz file, decompressed block by block."""

    path: str
    member: str
    field: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _read_npy_header(stream, self.path, self.field)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = _read_exactly(stream, count * row_bytes)
                if len(data) < count * row_bytes:
                    raise InputError(
                        f"truncated: found {start + len(data) // max(row_bytes, 1)} rows, "
                        f"expected {self.shape[0]}",
                        file=self.path,
                        record=start,
                        field=self.field,
                    )
                block = np.frombuffer(data, dtype=self.dtype)
                yield block.reshape((count, *self.shape[1:]))


def open_sources(path: str | os.PathLike[str], wanted: Collection[str]) -> dict[str, ArraySource]:
    """List the arrays of a file by name.

    Parameters
    ----------
    path : path
        An .npz or .safetensors file, or a directory of .npy files.
    wanted : collection of str
        Names of arrays that matter; others are not looked at.

    Returns
    -------
    dict of str to ArraySource
        Those of the wanted arrays that are there.

    Raises
    ------
    InputError
        If there is no such file, or its format is unknown, damaged or truncated.
    """
    file = os.fspath(path)
    place = Path(file)
    if not place.exists():
        raise InputError("no such file or directory", file=file)
    try:
        if place.is_dir():
            found = {name: place / f"{name}.npy" for name in wanted}
            return {
                name: _open_npy(npy_path) for name, npy_path in found.items() if npy_path.exists()
            }
        if place.suffix == ".npz":
            return _open_npz(file, wanted)
        if place.suffix == ".safetensors":
            return _open_safetensors(file, wanted)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=file) from None
    raise InputError(
        f"found suffix '{place.suffix}', expected .npz, .safetensors or a directory of .npy files",
        file=file,
    )


def _open_npy(path: Path) -> ArraySource:
    with path.open("rb") as stream:
        shape, dtype = _read_npy_header(stream, str(path), path.stem)
        offset = stream.tell()
    _check_size(path.stat().st_size - offset, shape, dtype, str(path), path.stem)
    return _Mapped(str(path), offset, shape, dtype)


def _open_npz(path: str, wanted: Collection[str]) -> dict[str, ArraySource]:
    sources: dict[str, ArraySource] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                field = member.filename.removesuffix(".npy")
                if field not in wanted:
                    continue
                with archive.open(member) as stream:
                    shape, dtype = _read_npy_header(stream, path, field)
                    found = member.file_size - stream.tell()
                _check_size(found, shape, dtype, path, field)
                sources[field] = _Zipped(path, member.filename, field, shape, dtype)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"not a readable .npz file: {error}", file=path) from None
    return sources


def _read_npy_header(
    stream: IO[bytes], path: str, field: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"not a readable .npy array: {error}", file=path, field=field) from None
    if fortran and len(shape) > 1:
        raise InputError(
            "found Fortran order, expected rows one after the other (C order)",
            file=path,
            field=field,
        )
    if dtype.hasobject:
        raise InputError("found pickled objects, expected numbers", file=path, field=field)
    # numpy has no name for bfloat16 and writes it as two plain bytes.
    return shape, bfloat16_dtype() if dtype == np.dtype("V2") else dtype


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    parts, missing = [], count
    try:
        while missing and (part := stream.read(missing)):
            parts.append(part)
            missing -= len(part)
    except (zipfile.BadZipFile, zlib.error, EOFError):  # damaged: what was read so far counts
        return b""
    return b"".join(parts)


def _open_safetensors(path: str, wanted: Collection[str]) -> dict[str, ArraySource]:
    size = Path(path).stat().st_size
    with Path(path).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise InputError(
                f"truncated: the header should take {length} bytes, found {max(size - 8, 0)}",
                file=path,
            )
        text = stream.read(length)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name in wanted}
        return {
            name: _safetensors_source(path, name, entry, 8 + length, size)
            for name, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not a readable safetensors header: {error!r}", file=path) from None


def _safetensors_source(
    path: str, name: str, entry: dict[str, Any], start: int, size: int
) -> ArraySource:
    code = entry["dtype"]
    if code not in _SAFETENSORS_DTYPES:
        raise InputError(
            f"found dtype {code!r}, expected one of {', '.join(_SAFETENSORS_DTYPES)}",
            file=path,
            field=name,
        )
    dtype = bfloat16_dtype() if code == "BF16" else np.dtype(_SAFETENSORS_DTYPES[code])
    shape = tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if not all(isinstance(v, int) and v >= 0 for v in (first, last)):
        raise ValueError(f"offsets of {name!r}")
    if last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"shape and offsets of {name!r} disagree")
    _check_size(size - start - first, shape, dtype, path, name)
    return _Mapped(path, start + first, shape, dtype)


def _check_size(
    found: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: str, field: str
) -> None:
    if not all(type(length) is int and length >= 0 for length in shape):
        raise InputError(
            f"found shape {shape}, expected non-negative whole numbers", file=path, field=field
        )
    expected = math.prod(shape) * dtype.itemsize
    if found < expected:
        raise InputError(
            f"truncated: found {max(found, 0)} bytes, expected {expected} for shape {shape}",
            file=path,
            field=field,
        )
