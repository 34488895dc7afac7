"""Divergences of rows of logits on a CUDA device, through CuPy (the extra ``cuda``).

The kernels are in ``divergences.cu``. Each group of rows takes three launches: log-normalisers,
sums, and the correction of rows with a tiny total variation (see `trbounds.divergences.exact`). The
logits are read twice, because the sum of |π - μ| needs both normalisers first; groups are small
enough for the second reading to come from the second-level cache, so that each logit crosses the
memory bus once. Logits on the host travel through two pinned buffers on two streams: one is filled
and sent while the other is worked on.

No GPU has run this yet; `benchmarks/bench_gpu.py` checks and measures it.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency

__all__ = ["cuda_row_sums", "is_available", "is_device_array", "share_with_cupy"]

THREADS = 256
_SUMS = 8
_TERMS_PER_THREAD = 32
_MOST_SLICES = 64
_STAGE_BYTES = 64_000_000  # of one pinned buffer, both policies
# How the kernel reads each dtype: type of the stored number, and which 16-bit float it holds.
# CuPy has no bfloat16: arrays of 16-bit integers are taken for the bits of bfloat16.
_LOGIT_TYPES = {
    "float64": ("double", 0),
    "float32": ("float", 0),
    "float16": ("unsigned short", 1),
    "bfloat16": ("unsigned short", 2),
    "int16": ("unsigned short", 2),
    "uint16": ("unsigned short", 2),
}
# float32 normalisers are good to 1e-7, which the total variation feels below 1e-2.
_CORRECT_BELOW = {"float64": 1e-4, "float32": 1e-2}


def is_available() -> bool:
    """Tell whether CuPy is installed and finds a CUDA device."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # CuPy raises its own classes, which cannot be named without it
        return False


def is_device_array(x: Any) -> bool:
    """Tell whether an array lives on a CUDA device, without importing its library."""
    if hasattr(x, "__cuda_array_interface__"):
        return True
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] == 2  # kDLCUDA


def compile_options(dtype: str, precision: str) -> tuple[str, ...]:
    """Return the definitions that specialise the source for one dtype and precision."""
    logit, half = _LOGIT_TYPES[dtype]
    real = "double" if precision == "float64" else "float"
    return (f"-DLOGIT={logit}", f"-DHALF={half}", f"-DREAL={real}", f"-DTHREADS={THREADS}")


def slices_per_row(width: int) -> int:
    """Return how many blocks share a row."""
    return min(_MOST_SLICES, max(1, -(-width // (THREADS * _TERMS_PER_THREAD))))


def rows_per_group(width: int, itemsize: int, cache_bytes: int) -> int:
    """Return how many rows of both policies fill half of the second-level cache."""
    most_blocks = 65_535  # of the second axis of a grid
    return min(most_blocks, max(1, cache_bytes // 2 // (2 * width * itemsize)))


def rows_per_stage(width: int, itemsize: int) -> int:
    """Return how many rows of both policies one pinned buffer holds."""
    return max(1, _STAGE_BYTES // (2 * width * itemsize))


@functools.cache
def _kernels(dtype: str, precision: str) -> tuple[Any, Any]:
    import cupy

    source = files("trbounds.logits").joinpath("divergences.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=compile_options(dtype, precision))
    return module.get_function("normalisers"), module.get_function("sums")


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
    """
    cupy = _import_cupy()
    return x if isinstance(x, cupy.ndarray) else cupy.from_dlpack(x)


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
    if x.dtype != y.dtype or x.dtype.name not in _LOGIT_TYPES:
        raise InputError(
            f"found dtypes {x.dtype.name} and {y.dtype.name}, expected one of "
            f"{', '.join(_LOGIT_TYPES)} for both",
            field="rollout_logits, train_logits",
        )
    if isinstance(x, np.ndarray):
        return _from_host(cupy, x, y, precision)
    x, y = cupy.ascontiguousarray(x), cupy.ascontiguousarray(y)
    return _on_device(cupy, x, y, x.dtype.name, precision)


def _on_device(cupy: Any, x: Any, y: Any, dtype: str, precision: str) -> Any:
    """Work through rows on the device, on the current stream."""
    normalisers, sums = _kernels(dtype, precision)
    n, width = x.shape
    slices = slices_per_row(width)
    cache = int(cupy.cuda.Device().attributes["L2CacheSize"])
    group = rows_per_group(width, x.dtype.itemsize, cache)
    partial = cupy.empty((min(group, n), slices, 4))
    second = cupy.empty((min(group, n), slices, _SUMS))
    third = cupy.empty((n, slices, _SUMS))
    norms = cupy.empty((n, 2))
    limit = _CORRECT_BELOW[precision]
    for start in range(0, n, group):
        rows = slice(start, start + group)
        a, b = x[rows], y[rows]
        grid, block = (slices, a.shape[0]), (THREADS,)
        long_width = np.int64(width)
        normalisers(grid, block, (a, b, long_width, partial))
        common = (a, b, long_width, partial, second)
        sums(grid, block, (*common, np.float64(0.0), second, norms[rows]))
        sums(grid, block, (*common, np.float64(limit), third[rows], norms[rows]))
    columns = third.sum(axis=1)
    columns[:, 2] = cupy.minimum(columns[:, 2], 1.0)
    columns[:, 5] = third[:, :, 5].max(axis=1)
    return cupy.concatenate([columns[:, :7], norms], axis=1)


def _from_host(cupy: Any, x: NDArray[Any], y: NDArray[Any], precision: str) -> NDArray[np.float64]:
    """Send blocks of rows through two pinned buffers, and work on one while the other travels."""
    dtype = x.dtype.name
    bits = np.dtype(np.uint16) if x.dtype.itemsize == 2 else x.dtype
    n, width = x.shape
    step = rows_per_stage(width, bits.itemsize)
    result = np.empty((n, 9))
    stages = [_Stage(cupy, (2, min(step, n), width), bits) for _ in range(min(2, -(-n // step)))]
    for k, start in enumerate(range(0, n, step)):
        stage = stages[k % len(stages)]
        stage.finish(result)
        rows = slice(start, min(start + step, n))
        stage.start(rows, x[rows].view(bits), y[rows].view(bits), dtype, precision)
    for stage in stages:
        stage.finish(result)
    return result


class _Stage:
    """A pinned buffer, its copy on the device, and the stream on which both are used."""

    def __init__(self, cupy: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        count = int(np.prod(shape))
        memory = cupy.cuda.alloc_pinned_memory(count * dtype.itemsize)
        self._host = np.frombuffer(memory, dtype, count).reshape(shape)
        with self._stream:
            self._device = cupy.empty(shape, dtype=dtype)
        self._pending: tuple[slice, Any] | None = None

    def start(
        self, rows: slice, x: NDArray[Any], y: NDArray[Any], dtype: str, precision: str
    ) -> None:
        """Copy rows to the pinned buffer; send them and queue the work, without waiting."""
        n = x.shape[0]
        np.copyto(self._host[0, :n], x)
        np.copyto(self._host[1, :n], y)
        with self._stream:
            for side in (0, 1):
                self._device[side, :n].set(self._host[side, :n], stream=self._stream)
            columns = _on_device(
                self._cupy, self._device[0, :n], self._device[1, :n], dtype, precision
            )
        self._pending = (rows, columns)

    def finish(self, result: NDArray[np.float64]) -> None:
        """Wait for the work in flight, if any, and store its columns."""
        if self._pending is not None:
            rows, columns = self._pending
            result[rows] = columns.get(stream=self._stream)
            self._stream.synchronize()
            self._pending = None
