"""The part of CuPy that trbounds.logits.cuda uses, on the host.

Arrays are numpy's with CuPy's methods, and a kernel is the one compiled by the caller, called with
the arguments and the grid that a device would get.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

BLOCKS_AT_ONCE = 6


class Device:
    """The one device; its numbers make small slices and few groups."""

    attributes: ClassVar = {
        "MaxSharedMemoryPerMultiprocessor": 64_000,
        "MaxSharedMemoryPerBlockOptin": 48_000,
        "MultiProcessorCount": 2,
    }

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    __hash__ = None  # type: ignore[assignment]


class ndarray(np.ndarray):
    """A numpy array with the methods of CuPy's that differ."""

    device = Device()

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self, stream: Any = None) -> np.ndarray:
        return np.array(self)

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        assert type(values) is np.ndarray
        assert (values.dtype, values.shape) == (self.dtype, self.shape)
        assert self.flags.c_contiguous
        self[...] = values


class Kernel:
    """A kernel that gets its arguments by position, as on a device."""

    shared_size_bytes = 12_000
    max_dynamic_shared_size_bytes = 0
    preferred_shared_memory_carveout = -1
    kernel = SimpleNamespace(ptr=1)

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.grids: list[int] = []

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert 1 <= grid[0] <= BLOCKS_AT_ONCE
        self.grids.append(grid[0])
        kinds = {np.int64: ctypes.c_longlong, np.int32: ctypes.c_int, np.float64: ctypes.c_double}
        self._library.launch(
            ctypes.c_uint(grid[0]),
            *(
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, ndarray) else kinds[type(a)](a)
                for a in args
            ),
        )


def make(build: Callable[[tuple[str, ...]], ctypes.CDLL]) -> Any:
    """Return a stand-in for the module; `build` compiles for the options of a kernel."""

    def on_device(function: Callable[..., np.ndarray]) -> Callable[..., ndarray]:
        return lambda *args, **options: function(*args, **options).view(ndarray)

    def raw_module(*, code: str, options: tuple[str, ...], enable_cooperative_groups: bool) -> Any:
        assert code
        assert enable_cooperative_groups
        kernel = Kernel(build(options))
        return SimpleNamespace(get_function={"divergences": kernel}.__getitem__)

    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    driver = SimpleNamespace(
        occupancyMaxActiveBlocksPerMultiprocessor=lambda pointer, threads, shared: (
            BLOCKS_AT_ONCE // 2
        )
    )
    return SimpleNamespace(
        __name__="cupy",
        ndarray=ndarray,
        nan=np.nan,
        uint32=np.uint32,
        asarray=on_device(np.asarray),
        ascontiguousarray=on_device(np.ascontiguousarray),
        empty=on_device(np.empty),
        full=on_device(np.full),
        zeros=on_device(np.zeros),
        RawModule=raw_module,
        cuda=SimpleNamespace(
            Device=Device,
            Stream=lambda non_blocking: nullcontext(),
            alloc_pinned_memory=bytearray,
            driver=driver,
            runtime=runtime,
        ),
    )
