"""Count the values of a Parquet file from its footer and page headers, before any is decoded.

Run-length encoding lets a kilobyte stand for billions of values, which a decoder then allocates;
and damaged column metadata can end the process inside pyarrow. Both are found here, by reading the
few Thrift structures that say how much is there (parquet-format, ``parquet.thrift``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_MAX_FOOTER = 1 << 28
_MAX_PAGE = 1 << 27
_HEADER_BYTES = 1 << 13
_LONGEST_HEADER = 1 << 24
_DEEPEST = 24

MAX_VALUES_PER_BYTE = 64
"""Log-probabilities do not compress below this, apart from the first million of a row group."""

_FEW_VALUES = 1 << 20
_MAX_STRINGS = 1 << 28
_BYTE_ARRAY = 6


class DamagedError(Exception):
    """The metadata of a file or of a row group is damaged, or declares what no trace has."""


class ParquetPages:
    """The row groups and pages of a Parquet file, as far as they say how much is there.

    Parameters
    ----------
    stream : file
        A Parquet file opened for reading bytes, seekable.
    columns : sequence of str
        Top-level columns that will be read; no page of another is looked at. The first must hold
        a value per token.
    max_length : int
        Longest admissible list.

    Raises
    ------
    DamagedError
        If the footer is damaged.
    """

    def __init__(self, stream: BinaryIO, columns: Sequence[str], *, max_length: int) -> None:
        self._stream = stream
        self._columns = columns
        self._max_length = max_length
        self._groups = _list(_footer(stream), 4)

    def rows_at_once(self, group: int, batch_tokens: int) -> int:
        """Return how many rows of a row group to decode together.

        Parameters
        ----------
        group : int
            Number of the row group.
        batch_tokens : int
            Tokens that the rows should hold, on average.

        Raises
        ------
        DamagedError
            If metadata is damaged, a column has far more values than its rows may hold, a page is
            larger than 128 MiB, or values are packed as no log-probabilities can be.
        """
        if not 0 <= group < len(self._groups):
            raise DamagedError("the footer has another number of row groups")
        rows, tokens, longest = _number(self._groups[group], 3), 0, 1
        for chunk in _list(self._groups[group], 1):
            metadata = _struct(chunk, 3)
            path = _list(metadata, 3)
            name = path[0].decode("utf-8", "replace") if path and type(path[0]) is bytes else ""
            if name not in self._columns:
                continue
            values = _number(metadata, 5)
            # A list that is a little too long is better named by its record.
            if values > _FEW_VALUES + rows * (self._max_length + 1):
                raise DamagedError(
                    f"column {name} has {values} values in {rows} rows, expected lists of at most "
                    f"{self._max_length}"
                )
            size, largest = _pages(self._stream, metadata, name, values)
            if metadata.get(1) == _BYTE_ARRAY:
                longest = max(longest, largest)
            if name == self._columns[0]:
                tokens = values
                if values > _FEW_VALUES + MAX_VALUES_PER_BYTE * size:
                    raise DamagedError(
                        f"column {name} has {values} values in {size} bytes, which no logged "
                        "log-probabilities have"
                    )
        # Every row may have, or repeat, a string as long as the largest page.
        at_once = min(batch_tokens * rows // max(tokens, 1), batch_tokens, _MAX_STRINGS // longest)
        return max(at_once, 1)


def _pages(stream: BinaryIO, metadata: Any, name: str, values: int) -> tuple[int, int]:
    """Walk the page headers of a column chunk; return the bytes of its pages and of the largest.

    The first are those in the file, the second those after decompression.
    """
    at = _number(metadata, 9)
    dictionary = metadata.get(11)
    if isinstance(dictionary, int) and 0 < dictionary < at:
        at = dictionary
    start, seen, largest = at, 0, 0
    while seen < values:
        try:
            header, size = _page_header(stream, at)
            plain, packed = _number(header, 2), _number(header, 3)
            # Data pages of either version; a dictionary counts for nothing.
            data = [_struct(header, field) for field in (5, 8) if field in header]
            seen += sum(_number(page, 1) for page in data)
        except DamagedError as error:
            problem = f"column {name} has a damaged page header at byte {at}: {error}"
            raise DamagedError(problem) from None
        if max(plain, packed) > _MAX_PAGE:
            raise DamagedError(f"column {name} has a page of {max(plain, packed)} bytes")
        largest = max(largest, plain)
        if seen > values:
            raise DamagedError(f"column {name} has more than the {values} values it declares")
        at += size + packed
    return at - start, largest


def _page_header(stream: BinaryIO, at: int) -> tuple[Any, int]:
    stream.seek(at)
    data = stream.read(_HEADER_BYTES)
    while True:
        reader = _Thrift(data)
        try:
            return reader.struct(0), reader.at
        except DamagedError:
            # A header may hold long statistics.
            more = stream.read(len(data) * 7) if len(data) < _LONGEST_HEADER else b""
            if not more:
                raise
            data += more


def _footer(stream: BinaryIO) -> Any:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(size - 8, 0))
    tail = stream.read(8)
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != _MAGIC or not 0 < length <= size - 12:
        raise DamagedError("it does not end as a Parquet file does")
    if length > _MAX_FOOTER:
        raise DamagedError(f"found a footer of {length} bytes")
    stream.seek(size - 8 - length)
    return _Thrift(stream.read(length)).struct(0)


def _number(struct: Any, field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DamagedError(f"field {field} of its metadata is no count")
    return value


def _struct(struct: Any, field: int) -> Any:
    value = struct.get(field)
    if not isinstance(value, dict):
        raise DamagedError(f"field {field} of its metadata is no structure")
    return value


def _list(struct: Any, field: int) -> list[Any]:
    value = struct.get(field)
    if not isinstance(value, list):
        raise DamagedError(f"field {field} of its metadata is no list")
    return value


class _Thrift:
    """Thrift's compact protocol: structures become dicts from field number to value."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise DamagedError("its metadata ends early")
        self.at += 1
        return self.data[self.at - 1]

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise DamagedError("its metadata ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise DamagedError("a number in its metadata is too long")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise DamagedError("its metadata is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self.byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.integer()
            kind = head & 0x0F
            fields[number] = kind == 1 if kind in (1, 2) else self.value(kind, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 7:
            return self.take(8)
        if kind == 8:
            return self.take(self.varint())
        if kind in (9, 10):
            return self.items(depth)
        if kind == 12:
            return self.struct(depth + 1)
        if kind == 13:
            return self.take(16)
        if kind == 11:
            return self.pairs(depth)
        if kind in (1, 2):
            return self.byte() == 1
        raise DamagedError(f"its metadata has a value of unknown type {kind}")

    def items(self, depth: int) -> list[Any]:
        head = self.byte()
        size = head >> 4 if head >> 4 != 15 else self.varint()
        if size > len(self.data) - self.at or depth > _DEEPEST:
            raise DamagedError("a list in its metadata is too long")
        return [self.value(head & 0x0F, depth + 1) for _ in range(size)]

    def pairs(self, depth: int) -> None:
        size = self.varint()
        if size > len(self.data) - self.at or depth > _DEEPEST:
            raise DamagedError("a map in its metadata is too long")
        kinds = self.byte() if size else 0
        for _ in range(size):
            self.value(kinds >> 4, depth + 1)
            self.value(kinds & 0x0F, depth + 1)
