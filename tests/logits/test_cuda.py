"""The CUDA path: its arithmetic through a C++ compiler, its host side, and, on a GPU, all of it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from trbounds.divergences import divergences, tv_from_kl_sharp
from trbounds.errors import InputError, MissingDependency
from trbounds.logits import cuda, kernels, row_divergences

FIELDS = (
    "kl",
    "kl_reverse",
    "tv",
    "chi2",
    "entropy",
    "max_abs_log_ratio",
    "unsupported_mass",
)
HAS_GPU = cuda.is_available()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="CuPy finds no CUDA device")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on the path")

# Enough of CUDA for blocks of one thread, run one after the other.
HARNESS = r"""
#include <cmath>
#include <cstring>
#define HOST_CHECK
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __restrict__
struct Dim { unsigned x, y, z; };
static Dim threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};
static void __syncthreads() {}
static float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
using std::exp; using std::expm1; using std::fabs; using std::log; using std::log1p;
#include SOURCE
extern "C" void run(const LOGIT* x, const LOGIT* y, long long n, long long width, int slices,
                    double correct_below, double* partial, double* second, double* third,
                    double* norms) {
  gridDim = {(unsigned)slices, (unsigned)n, 1};
  for (int pass = 0; pass < 3; ++pass)
    for (unsigned row = 0; row < n; ++row)
      for (unsigned slice = 0; slice < (unsigned)slices; ++slice) {
        blockIdx = {slice, row, 0};
        if (pass == 0) normalisers(x, y, width, partial);
        if (pass == 1) sums(x, y, width, partial, second, 0.0, second, norms);
        if (pass == 2) sums(x, y, width, partial, second, correct_below, third, norms);
      }
}
"""


def compiled(folder: Path, dtype: str, precision: str) -> ctypes.CDLL:
    source = folder / "harness.cpp"
    source.write_text(HARNESS)
    kernel = folder / "divergences.cu"
    kernel.write_text(files("trbounds.logits").joinpath("divergences.cu").read_text())
    options = [o for o in cuda.compile_options(dtype, precision) if "THREADS" not in o]
    library = folder / "kernel.so"
    subprocess.run(
        ["g++", "-O1", "-shared", "-fPIC", f'-DSOURCE="{kernel}"', *options, source, "-o", library],
        check=True,
    )
    return ctypes.CDLL(str(library))


def rows(dtype) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    x = (3 * rng.normal(size=(6, 5000))).astype(np.float32)
    noise = rng.normal(size=x.shape)
    scale = np.array([0.01, 3.0, 1e-5, 0.1, 0.3, 0.02])[:, None]
    y = (x + scale * noise).astype(np.float32)
    x[3, :9] = y[3, :5] = -np.inf
    y[4, 3:2000] = -np.inf
    x[5, 0], y[5, 0] = -500.0, 5.0
    return x.astype(dtype), y.astype(dtype)


CASES = [
    (np.float32, "float64", 1e-12),
    (np.float32, "float32", 1e-5),
    (np.float64, "float64", 1e-12),
    (np.float16, "float64", 1e-12),
    (ml_dtypes.bfloat16, "float32", 1e-5),
]


@needs_compiler
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), CASES)
def test_kernel_arithmetic(tmp_path, dtype, precision, tolerance) -> None:
    x, y = rows(dtype)
    n, width, slices = *x.shape, 3
    buffers = [np.zeros((n, slices, k)) for k in (4, 8, 8)] + [np.zeros((n, 2))]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y, *buffers)]
    compiled(tmp_path, x.dtype.name, precision).run(
        *pointers[:2],
        *(ctypes.c_longlong(n), ctypes.c_longlong(width), ctypes.c_int(slices)),
        ctypes.c_double(1e-4 if precision == "float64" else 1e-2),
        *pointers[2:],
    )
    columns = buffers[2].sum(axis=1)
    columns[:, 5] = buffers[2][:, :, 5].max(axis=1)
    expected = divergences(x.astype(np.float64), y.astype(np.float64))
    for k, field in enumerate(FIELDS):
        np.testing.assert_allclose(
            columns[:, k], getattr(expected, field), rtol=tolerance, err_msg=field
        )
    total = np.log(np.exp(x.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(buffers[3][:, 0], total, rtol=tolerance)


@needs_compiler
def test_kernel_marks_rows_that_are_not_logits(tmp_path) -> None:
    x = np.zeros((4, 50), dtype=np.float32)
    x[0, 3], x[1, 7] = np.nan, np.inf
    x[2] = -np.inf
    y = np.zeros_like(x)
    buffers = [np.zeros((4, 2, k)) for k in (4, 8, 8)] + [np.zeros((4, 2))]
    compiled(tmp_path, "float32", "float64").run(
        *(ctypes.c_void_p(a.ctypes.data) for a in (x, y)),
        *(ctypes.c_longlong(4), ctypes.c_longlong(50), ctypes.c_int(2), ctypes.c_double(1e-4)),
        *(ctypes.c_void_p(a.ctypes.data) for a in buffers),
    )
    bad = np.isnan(buffers[2].sum(axis=1)).any(axis=1) | np.isnan(buffers[3]).any(axis=1)
    np.testing.assert_array_equal(bad, [True, True, True, False])


def test_groups_fit_the_cache_and_the_grid() -> None:
    cache = 50_000_000
    for width, itemsize in ((151_936, 4), (151_936, 2), (257, 4), (2, 2)):
        group = cuda.rows_per_group(width, itemsize, cache)
        assert 1 <= group <= 65_535
        assert group * 2 * width * itemsize <= cache / 2
        assert 1 <= cuda.slices_per_row(width) <= 64
    assert cuda.rows_per_group(10**9, 4, cache) == 1
    assert cuda.rows_per_stage(10**9, 4) == 1
    assert cuda.rows_per_stage(151_936, 4) * 2 * 151_936 * 4 <= 64_000_000


class _OnDevice:
    """What a torch tensor on a GPU shows without importing torch."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_device_arrays_are_recognised_without_their_library() -> None:
    assert cuda.is_device_array(_OnDevice())
    assert not cuda.is_device_array(np.zeros(1))
    assert not cuda.is_device_array([0.0])


@pytest.mark.skipif(HAS_GPU, reason="CuPy finds a CUDA device")
def test_asking_for_a_device_that_is_not_there() -> None:
    x = np.zeros((1, 5000))
    with pytest.raises((MissingDependency, InputError), match=r"cuda|CUDA"):
        row_divergences(x, x, device="cuda")
    assert row_divergences(x, x, device="auto").kl[0] == 0.0
    with pytest.raises(InputError, match="'device'"):
        row_divergences(x, x, device="tpu")  # type: ignore[arg-type]


def test_bad_rows_from_the_device_are_named(monkeypatch) -> None:
    x = np.zeros((3, 5000), dtype=np.float32)
    x[1, 7] = np.nan
    sums = np.zeros((3, 9))
    sums[1] = np.nan
    monkeypatch.setattr(kernels, "cuda_row_sums", lambda a, b, precision: sums)
    with pytest.raises(InputError, match="record 1, field 'train_logits': found NaN"):
        row_divergences(np.zeros_like(x), x, device="cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), CASES)
def test_gpu_matches_cpu_from_host_and_device(dtype, precision, tolerance) -> None:
    import cupy

    x, y = rows(dtype)
    expected = divergences(x.astype(np.float64), y.astype(np.float64))
    host = row_divergences(x, y, precision=precision, device="cuda")
    bits = [a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for a in (x, y)]
    device = row_divergences(*map(cupy.asarray, bits), precision=precision)
    assert isinstance(device.kl, cupy.ndarray)
    for field in FIELDS:
        np.testing.assert_allclose(getattr(host, field), getattr(expected, field), rtol=tolerance)
        np.testing.assert_allclose(
            getattr(device, field).get(), getattr(expected, field), rtol=tolerance
        )


@pytest.mark.gpu
@needs_gpu
def test_gpu_overlapped_stages_keep_rows_in_order(monkeypatch) -> None:
    monkeypatch.setattr(cuda, "rows_per_stage", lambda width, itemsize: 4)
    rng = np.random.default_rng(8)
    x = rng.normal(size=(23, 5000)).astype(np.float32)
    y = x + rng.normal(size=x.shape).astype(np.float32)
    result = row_divergences(x, y, device="cuda")
    np.testing.assert_allclose(result.kl, divergences(x, y).kl, rtol=1e-12)


@pytest.mark.gpu
@needs_gpu
def test_gpu_keeps_arrays_of_the_elementwise_functions_on_the_device() -> None:
    import cupy

    kl = cupy.asarray([1e-300, 0.1, 1.0, 700.0])
    result = tv_from_kl_sharp(kl)
    assert isinstance(result, cupy.ndarray)
    np.testing.assert_allclose(result.get(), tv_from_kl_sharp(kl.get()), rtol=1e-14)
    x, y = rows(np.float64)
    np.testing.assert_allclose(
        divergences(cupy.asarray(x), cupy.asarray(y)).kl.get(), divergences(x, y).kl, rtol=1e-12
    )
