"""Decode the pickle of plain data and tensors that ``torch.save`` writes, and nothing else.

The opcodes are interpreted here: no module is imported and nothing is called, whatever the file
says. A name that is not on the short list below is refused, and so is every opcode that
``torch.save`` does not write for lists, dicts, numbers, strings and tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

STORAGE_TYPES = {
    "torch BFloat16Storage": "bfloat16",
    "torch BoolStorage": "bool",
    "torch ByteStorage": "uint8",
    "torch CharStorage": "int8",
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch IntStorage": "int32",
    "torch LongStorage": "int64",
    "torch ShortStorage": "int16",
}
"""Types of stored numbers, by the name in the file."""

_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
_LARGEST_RANK = 8

_MAX_CONTAINERS = 1 << 21
"""Most lists, dicts, tuples and tensors: an empty one takes a byte here and 64 in memory."""

_MAX_MEMO = 1 << 22


class PickleError(Exception):
    """The pickle is damaged, or asks for something that is not data."""


class _Name(str):
    """A global name that the pickle may use."""


class _Storage(NamedTuple):
    kind: str
    key: str
    numel: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A strided view of a storage that is not loaded yet.

    Parameters
    ----------
    kind : str
        A value of :data:`STORAGE_TYPES`.
    key : str
        Name of the storage in the archive.
    numel : int
        Numbers in the storage.
    offset : int
        Index of the first number of the view.
    shape, stride : tuple of int
        Of the view, in numbers. The view lies inside the storage.
    """

    kind: str
    key: str
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the view."""
        return math.prod(self.shape)


def decode(data: bytes) -> Any:
    """Decode a pickle of protocol 2.

    Parameters
    ----------
    data : bytes
        The pickle. Memory is bounded by a small multiple of its size.

    Returns
    -------
    object
        Dicts with string keys, lists, tuples, strings, numbers, booleans, None and
        :class:`StoredTensor`.

    Raises
    ------
    PickleError
        If the data is damaged or names anything else; the message has the name.
    """
    try:
        return _Decoder(data).run()
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, TypeError) as error:
        raise PickleError(f"damaged pickle: {type(error).__name__}: {error}") from None


_MARK = object()


class _Decoder:
    """A stack machine over the opcodes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0

    def run(self) -> Any:
        if self.data[:2] != b"\x80\x02":
            raise PickleError("found another pickle protocol, expected 2, as torch.save writes")
        self.at = 2
        while True:
            opcode = self.data[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                if len(self.stack) != 1 or self.stack[0] is _MARK:
                    raise PickleError("damaged pickle: it ends with an unfinished value")
                return self.stack[0]
            action = _ACTIONS.get(opcode)
            if action is None:
                raise PickleError(f"opcode {bytes([opcode])!r} is refused: it is not plain data")
            action(self)

    def unpack(self, layout: str) -> Any:
        size = struct.calcsize(layout)
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return value

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise PickleError("damaged pickle: it ends inside a value")
        self.at = end
        return self.data[end - size : end]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError("damaged pickle: it ends inside a name")
        return self.take(end - self.at + 1)[:-1].decode("ascii")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("damaged pickle: a value is missing")
        return value

    def pop_to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise PickleError("damaged pickle: a mark is missing")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise PickleError(f"damaged pickle: an item is added to what is no {kind.__name__}")
        return self.stack[-1]

    # ---- containers

    def add_container(self, value: Any) -> None:
        self.containers += 1
        if self.containers > _MAX_CONTAINERS:
            raise PickleError(f"found more than {_MAX_CONTAINERS} containers")
        self.stack.append(value)

    def tuple_of(self, size: int) -> None:
        values = [self.pop() for _ in range(size)][::-1]
        self.add_container(tuple(values))

    def memorise(self, layout: str) -> None:
        self.memo[self.unpack(layout)] = self.stack[-1]
        if len(self.memo) > _MAX_MEMO:
            raise PickleError(f"found more than {_MAX_MEMO} shared values")

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise PickleError("damaged pickle: a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Only strings: their hashes cannot be chosen to collide.
            if type(key) is not str:
                raise PickleError(f"found a key of type {type(key).__name__}, expected a string")
            target[key] = value

    # ---- names, tensors

    def name(self) -> None:
        name = f"{self.line()} {self.line()}"
        if name not in STORAGE_TYPES and name not in (_REBUILD, _ORDERED_DICT):
            raise PickleError(
                f"'{name.replace(' ', '.')}' is refused: only tensors, lists, dicts, numbers and "
                "strings are read"
            )
        self.stack.append(_Name(name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is _Name and function == _REBUILD:
            self.add_container(_tensor(arguments))
        elif type(function) is _Name and function == _ORDERED_DICT and arguments == ():
            self.add_container({})
        else:
            raise PickleError("a call is refused: only tensors are rebuilt")

    def storage(self) -> None:
        found = self.pop()
        if type(found) is not tuple or len(found) != 5 or found[0] != "storage":
            raise PickleError("damaged pickle: a storage is described wrongly")
        _, kind, key, _, numel = found
        if type(kind) is not _Name or kind not in STORAGE_TYPES:
            raise PickleError("damaged pickle: a storage is of an unknown type")
        if type(key) is not str or not _is_count(numel):
            raise PickleError("damaged pickle: a storage is described wrongly")
        self.stack.append(_Storage(STORAGE_TYPES[kind], key, numel))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _tensor(arguments: Any) -> StoredTensor:
    if type(arguments) is not tuple or not 6 <= len(arguments) <= 7:
        raise PickleError("damaged pickle: a tensor is described wrongly")
    storage, offset, shape, stride = arguments[:4]
    if (
        type(storage) is not _Storage
        or type(shape) is not tuple
        or type(stride) is not tuple
        or len(shape) != len(stride)
        or len(shape) > _LARGEST_RANK
        or not all(_is_count(value) for value in (offset, *shape, *stride))
    ):
        raise PickleError("damaged pickle: a tensor is described wrongly")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise PickleError(f"a tensor reaches number {last} of a storage of {storage.numel} numbers")
    return StoredTensor(storage.kind, storage.key, storage.numel, offset, shape, stride)


def _actions() -> Iterator[tuple[bytes, Callable[[_Decoder], None]]]:
    """Yield each opcode that is read, with what it does."""

    def push(make: Callable[[_Decoder], Any]) -> Callable[[_Decoder], None]:
        return lambda d: d.stack.append(make(d))

    yield b"N", push(lambda d: None)
    yield b"\x88", push(lambda d: True)
    yield b"\x89", push(lambda d: False)
    yield b"K", push(lambda d: d.unpack("<B"))
    yield b"M", push(lambda d: d.unpack("<H"))
    yield b"J", push(lambda d: d.unpack("<i"))
    yield b"\x8a", push(lambda d: int.from_bytes(d.take(d.unpack("<B")), "little", signed=True))
    yield b"G", push(lambda d: d.unpack(">d"))
    yield b"X", push(lambda d: d.take(d.unpack("<I")).decode("utf-8", "surrogatepass"))
    yield b"]", lambda d: d.add_container([])
    yield b"}", lambda d: d.add_container({})
    yield b")", push(lambda d: ())
    yield b"(", push(lambda d: _MARK)
    yield b"t", lambda d: d.add_container(tuple(d.pop_to_mark()))
    for opcode, size in ((b"\x85", 1), (b"\x86", 2), (b"\x87", 3)):
        yield opcode, lambda d, size=size: d.tuple_of(size)  # type: ignore[misc]
    yield b"a", lambda d: d.append([d.pop()])
    yield b"e", lambda d: d.append(d.pop_to_mark())
    yield b"s", lambda d: d.set_items([d.pop(), d.pop()][::-1])
    yield b"u", lambda d: d.set_items(d.pop_to_mark())
    yield b"q", lambda d: d.memorise("<B")
    yield b"r", lambda d: d.memorise("<I")
    yield b"h", push(lambda d: d.memo[d.unpack("<B")])
    yield b"j", push(lambda d: d.memo[d.unpack("<I")])
    yield b"c", lambda d: d.name()
    yield b"R", lambda d: d.reduce()
    yield b"Q", lambda d: d.storage()


_ACTIONS = {opcode[0]: action for opcode, action in _actions()}
