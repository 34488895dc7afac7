"""Divergences of rows of logits on a CUDA device, through CuPy (the extra ``cuda``).

The kernel is in ``divergences.cu``, the arithmetic of a row in ``divergence_sums.cu``. A row is
shared by a group of blocks that keep it in their shared memory, so that each logit crosses the
memory bus once although it is used twice. Two launches do everything: one for all rows, one for
those that were too close to be summed at the first normalisers. Logits on the host travel through
two pinned buffers on two streams: one is filled and sent while the other is worked on.

Needs a device of compute capability 7.0 or newer. No GPU has run this yet;
`benchmarks/bench_gpu.py` checks and measures it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency

_SOURCES = ("divergence_sums.cu", "divergences.cu")
THREADS = 256
_COLUMNS = 9
_SHARE = 4 + 13 + 2 * 128  # numbers that a block tells its group: SHARE of the source
_TERMS_PER_THREAD = 128  # at most, where blocks allow: they are summed in float in float32 mode
_RESERVED_SHARED_BYTES = 1024  # of each block, taken by the driver
_STAGE_BYTES = 64_000_000  # of one pinned buffer, both policies
# Blocks that share a multiprocessor: as many as their registers allow.
_BLOCKS = {"float64": 3, "float32": 4}
# How the kernel reads each dtype: type of the stored number, and which 16-bit float it holds.
# Without ml_dtypes CuPy has no bfloat16: 16-bit integers are taken for the bits of bfloat16.
_LOGIT_TYPES = {
    "float64": ("double", 0),
    "float32": ("float", 0),
    "float16": ("unsigned short", 1),
    "bfloat16": ("unsigned short", 2),
    "int16": ("unsigned short", 2),
    "uint16": ("unsigned short", 2),
}
_WORDS = {16: "uint4", 8: "uint2", 4: "unsigned int", 2: "unsigned short"}


@dataclass(frozen=True)
class Layout:
    """How rows are spread over blocks.

    Attributes
    ----------
    slices : int
        Blocks that share a row.
    kept : int
        Loads of each policy that a block keeps in shared memory; it reads the others twice.
    groups : int
        Rows that are worked on at once.
    """

    slices: int
    kept: int
    groups: int


def is_available() -> bool:
    """Tell whether CuPy is installed and finds a CUDA device."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # CuPy raises its own classes, which cannot be named without it
        return False


def is_device_array(x: Any) -> bool:
    """Tell whether an array lives on a CUDA device, without importing its library."""
    # First DLPack: torch refuses the other attribute for tensors that need a gradient.
    if hasattr(x, "__dlpack_device__"):
        return bool(x.__dlpack_device__()[0] == 2)  # kDLCUDA
    return hasattr(x, "__cuda_array_interface__")


def kernel_source() -> str:
    """Return the source of the kernel as one text: NVRTC gets no folder to include files from."""
    texts = {name: files("trbounds.logits").joinpath(name) for name in _SOURCES}
    return "".join(
        f'#line 1 "{name}"\n{text.read_text(encoding="utf-8")}' for name, text in texts.items()
    )


def compile_options(dtype: str, precision: str, lanes: int) -> tuple[str, ...]:
    """Return the definitions that specialise the source.

    Parameters
    ----------
    dtype : str
        Of the logits.
    precision : {"float64", "float32"}
        Of the terms.
    lanes : int
        Logits per load.
    """
    logit, half = _LOGIT_TYPES[dtype]
    value = "double" if dtype == "float64" else "float"
    real = "double" if precision == "float64" else "float"
    word = _WORDS[lanes * {"float64": 8, "float32": 4}.get(dtype, 2)]
    return (
        *(f"-DLOGIT={logit}", f"-DHALF={half}", f"-DVALUE={value}", f"-DREAL={real}"),
        *(f"-DLANES={lanes}", f"-DWORD={word}"),
        *(f"-DTHREADS={THREADS}", f"-DBLOCKS={_BLOCKS[precision]}", "-std=c++17"),
    )


def lanes_per_load(itemsize: int, width: int, *addresses: int) -> int:
    """Return how many logits one load of at most 16 bytes takes, in rows of this width."""
    lanes = 16 // itemsize
    while lanes > 1 and any(a % (lanes * itemsize) for a in (width * itemsize, *addresses)):
        lanes //= 2
    return lanes


def slices_per_row(width: int, itemsize: int, shared_bytes: int) -> int:
    """Return into how many slices a row is cut, for both policies to fit the shared memory."""
    by_memory = -(-2 * width * itemsize // shared_bytes) if shared_bytes > 0 else 1
    return max(1, min(by_memory, width), -(-width // (THREADS * _TERMS_PER_THREAD)))


def rows_per_stage(width: int, itemsize: int) -> int:
    """Return how many rows of both policies one pinned buffer holds."""
    return max(1, _STAGE_BYTES // (2 * width * itemsize))


@functools.cache
def _kernel(dtype: str, precision: str, lanes: int) -> Any:
    import cupy

    module = cupy.RawModule(
        code=kernel_source(),
        options=compile_options(dtype, precision, lanes),
        enable_cooperative_groups=True,
    )
    return module.get_function("divergences")


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError:
        raise MissingDependency("cupy", extra="cuda", purpose="device='cuda'") from None
    return cupy


def share_with_cupy(x: Any) -> Any:
    """Return a device array as a CuPy array on the same memory.

    Parameters
    ----------
    x : array
        A CuPy array, or an array of another library on a CUDA device (a torch tensor without
        gradient), which is shared through DLPack.

    Raises
    ------
    MissingDependency
        If CuPy is not installed.
    InputError
        If its library does not share the array.
    """
    cupy = _import_cupy()
    if isinstance(x, cupy.ndarray):
        return x
    try:
        return cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else cupy.asarray(x)
    except Exception as error:  # of whichever library exports the array
        raise InputError(
            f"found an array that cannot be shared ({error}), expected one on a CUDA device; of "
            "torch, tensor.detach(), and bfloat16 as tensor.view(torch.int16)"
        ) from None


def cuda_row_sums(x: Any, y: Any, *, precision: str) -> Any:
    """Compute the columns of `trbounds.logits.numpy_kernel.COLUMNS` on a CUDA device.

    Parameters
    ----------
    x, y : array, shape (n, V)
        Logits of both policies, of one dtype: numpy arrays, or CuPy arrays. bfloat16 on the
        device comes as 16-bit integers: ``tensor.view(torch.int16)``.
    precision : {"float64", "float32"}
        Precision of the exponentials.

    Returns
    -------
    array, shape (n, 9)
        Float64: numpy for numpy arrays, else CuPy. NaN in rows that are not valid logits.

    Raises
    ------
    MissingDependency
        If CuPy is not installed.
    InputError
        If there is no CUDA device, or the dtypes differ or are not logits.
    """
    cupy = _import_cupy()
    if not is_available():
        raise InputError("found no CUDA device", field="device")
    if x.dtype.name != y.dtype.name or x.dtype.name not in _LOGIT_TYPES:
        raise InputError(
            f"found dtypes {x.dtype.name} and {y.dtype.name}, expected one of "
            f"{', '.join(_LOGIT_TYPES)} for both",
            field="rollout_logits, train_logits",
        )
    if not isinstance(x, cupy.ndarray):
        return _from_host(cupy, x, y, precision)
    if x.device != y.device:
        raise InputError(
            f"found an array on {y.device}, expected {x.device} as of 'rollout_logits'",
            field="train_logits",
        )
    with x.device:
        x, y = cupy.ascontiguousarray(x), cupy.ascontiguousarray(y)
        return _on_device(cupy, x, y, x.dtype.name, precision).T


def _on_device(cupy: Any, x: Any, y: Any, dtype: str, precision: str) -> Any:
    """Return the columns of rows on the current device, shape (9, n), on the current stream."""
    n, width = x.shape
    columns = cupy.full((_COLUMNS, n), cupy.nan)
    if n == 0:
        return columns
    lanes = lanes_per_load(x.dtype.itemsize, width, x.data.ptr, y.data.ptr)
    kernel = _kernel(dtype, precision, lanes)
    layout, shared_bytes = _layout(cupy, kernel, x, lanes, precision)
    share = 2 * layout.slices * _SHARE
    scratch = cupy.empty(layout.groups * share)
    redo = cupy.zeros(1 + n, dtype=cupy.uint32)
    state = cupy.empty((3, n))
    # What the first pass may leave wrong in the difference of the normalisers.
    near = 1e-11 if dtype == precision == "float64" else 4e-6
    sizes = (np.int64(n), *map(np.int32, (width // lanes, layout.slices, layout.kept)))
    for again in (0, 1):
        arrived = cupy.zeros(2 * layout.groups, dtype=cupy.uint32)
        buffers = (scratch, arrived, redo, state, columns)
        kernel(
            (layout.groups * layout.slices,),
            (THREADS,),
            (x, y, *sizes, np.float64(near), np.int32(again), *buffers),
            shared_mem=shared_bytes,
        )
    return columns


def _layout(cupy: Any, kernel: Any, x: Any, lanes: int, precision: str) -> tuple[Layout, int]:
    """Spread rows over the blocks that the current device can hold at once."""
    device = cupy.cuda.Device()
    attributes = device.attributes
    n, width = x.shape
    own = kernel.shared_size_bytes + _RESERVED_SHARED_BYTES
    most = min(
        attributes["MaxSharedMemoryPerMultiprocessor"] // _BLOCKS[precision],
        attributes["MaxSharedMemoryPerBlockOptin"],
    )
    most = max(0, most - own)
    slices = slices_per_row(width, x.dtype.itemsize, most)
    packs, pack_bytes = width // lanes, lanes * x.dtype.itemsize
    kept = min(-(-packs // slices), most // (2 * pack_bytes))
    shared_bytes = 2 * kept * pack_bytes
    kernel.max_dynamic_shared_size_bytes = shared_bytes
    kernel.preferred_shared_memory_carveout = 100
    resident = attributes["MultiProcessorCount"] * (
        cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel.kernel.ptr, THREADS, shared_bytes
        )
    )
    # All blocks wait for one another: more than are resident would never start.
    slices = min(slices, resident)
    return Layout(slices, kept, min(n, resident // slices)), shared_bytes


def _from_host(cupy: Any, x: NDArray[Any], y: NDArray[Any], precision: str) -> NDArray[np.float64]:
    """Send blocks of rows through two pinned buffers, and work on one while the other travels."""
    dtype = x.dtype.name
    n, width = x.shape
    step = rows_per_stage(width, x.dtype.itemsize)
    result = np.empty((_COLUMNS, n))
    count = min(2, -(-n // step))
    stages = [_Stage(cupy, (2, min(step, n), width), dtype, precision) for _ in range(count)]
    for k, start in enumerate(range(0, n, step)):
        stage = stages[k % count]
        stage.finish(result)
        rows = slice(start, min(start + step, n))
        stage.start(rows, x[rows], y[rows])
    for stage in stages:
        stage.finish(result)
    return result.T


class _Stage:
    """A pinned buffer, its copy on the device, and the stream on which both are used."""

    def __init__(self, cupy: Any, shape: tuple[int, int, int], dtype: str, precision: str) -> None:
        self._cupy, self._dtype, self._precision = cupy, dtype, precision
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # bfloat16 as its bits; everything else in the byte order of this machine.
        stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        count = int(np.prod(shape))
        memory = cupy.cuda.alloc_pinned_memory(count * stored.itemsize)
        self._host = np.frombuffer(memory, stored, count).reshape(shape)
        with self._stream:
            self._device = cupy.empty(shape, dtype=stored)
        self._pending: tuple[slice, Any] | None = None

    def start(self, rows: slice, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Copy rows to the pinned buffer; send them and queue the work, without waiting."""
        n = x.shape[0]
        for side, logits in enumerate((x, y)):
            values = logits.view(np.uint16) if self._dtype == "bfloat16" else logits
            np.copyto(self._host[side, :n], values)
        with self._stream:
            for side in (0, 1):
                self._device[side, :n].set(self._host[side, :n], stream=self._stream)
            a, b = self._device[0, :n], self._device[1, :n]
            columns = _on_device(self._cupy, a, b, self._dtype, self._precision)
        self._pending = (rows, columns)

    def finish(self, result: NDArray[np.float64]) -> None:
        """Wait for the work in flight, if any, and store its columns."""
        if self._pending is not None:
            rows, columns = self._pending
            result[:, rows] = columns.get(stream=self._stream)
            self._pending = None
