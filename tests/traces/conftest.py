"""Fixtures shared by the tests of traces: files as ``torch.save`` writes them, without torch."""

from __future__ import annotations

import collections
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Tensor:
    """A strided view of a storage, as far as a file knows of it."""

    def __init__(self, storage, kind=None, offset=0, shape=None, stride=(1,)):
        self.storage = storage
        self.kind = kind or storage.dtype.name
        self.offset = offset
        self.shape = (storage.size,) if shape is None else shape
        self.stride = stride


def _modules():
    """Stand-ins for the names in a file: pickle only needs to find them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        """Never called."""

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return torch, utils


class _Pickler(pickle._Pickler):
    def __init__(self, stream, torch, utils):
        super().__init__(stream, protocol=2)
        self.torch, self.utils = torch, utils
        self.storages = []

    def persistent_id(self, value):
        if not isinstance(value, tuple) or not value or value[0] is not self:
            return None
        _, storage, kind = value
        keys = [i for i, known in enumerate(self.storages) if known is storage]
        if not keys:
            self.storages.append(storage)
            keys = [len(self.storages) - 1]
        kind = getattr(self.torch, STORAGES[kind])
        return ("storage", kind, str(keys[0]), "cpu", storage.size)

    def reducer_override(self, value):
        if not isinstance(value, Tensor):
            return NotImplemented
        arguments = (
            (self, value.storage, value.kind),
            value.offset,
            value.shape,
            value.stride,
            False,
            collections.OrderedDict(),
        )
        return self.utils._rebuild_tensor_v2, arguments


def save(value, path, *, name="archive", changes=None, compression=zipfile.ZIP_STORED):
    """Write what ``torch.save(value, path)`` writes; ``changes`` replaces or drops members."""
    saved = {key: sys.modules.get(key) for key in ("torch", "torch._utils")}
    torch, utils = _modules()
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        stream = io.BytesIO()
        pickler = _Pickler(stream, torch, utils)
        pickler.dump(value)
    finally:
        for key, module in saved.items():
            if module is None:
                del sys.modules[key]
            else:
                sys.modules[key] = module
    members = {
        "data.pkl": stream.getvalue(),
        ".format_version": b"1",
        ".storage_alignment": b"64",
        "byteorder": b"little",
    }
    for key, storage in enumerate(pickler.storages):
        members[f"data/{key}"] = np.ascontiguousarray(storage).tobytes()
    members["version"] = b"3\n"
    members[".data/serialization_id"] = b"0" * 40
    members.update(changes or {})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            if data is not None:
                archive.writestr(f"{name}/{member}", data)
    return path


class TorchWriter:
    """What tests need to write such files."""

    Tensor = Tensor
    save = staticmethod(save)


@pytest.fixture(scope="session")
def torch_writer():
    """Writes files as ``torch.save`` does."""
    return TorchWriter
