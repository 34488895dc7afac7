"""The CUDA path: its kernel run by threads of the host, its host side, and, on a GPU, all of it."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from trbounds.divergences import divergences, tv_from_kl_sharp
from trbounds.errors import InputError, MissingDependency
from trbounds.logits import cuda, kernels, row_divergences

SUMS = ("kl", "kl_reverse", "tv", "chi2", "entropy")
FIELDS = (*SUMS, "max_abs_log_ratio", "unsupported_mass")
HAS_GPU = cuda.is_available()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="CuPy finds no CUDA device")


def has_compiler() -> bool:
    """Whether there is a g++ that knows the barriers of C++20."""
    if shutil.which("g++") is None:
        return False
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True)
    return int(version.stdout.split(".")[0]) >= 11


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no g++ 11 or newer on the path")
THREADS = 8


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    """Compile the kernel for the host, once for each kind of logits."""

    @cache
    def library(options: tuple[str, ...]) -> ctypes.CDLL:
        folder = tmp_path_factory.mktemp("kernel")
        source, path = folder / "kernel.cu", folder / "kernel.so"
        source.write_text(cuda.kernel_source())
        macros = [o for o in options if not o.startswith(("-DTHREADS", "-std"))]
        harness = Path(__file__).with_name("cuda_on_host.h")
        subprocess.run(
            [
                *("g++", "-O1", "-std=c++20", "-shared", "-fPIC", "-pthread"),
                *(f'-DSOURCE="{source}"', f"-DTHREADS={THREADS}", *macros),
                *("-x", "c++", harness, "-o", path),
            ],
            check=True,
            capture_output=True,
        )
        return ctypes.CDLL(str(path))

    return library


def run_on_host(
    library: ctypes.CDLL,
    x: np.ndarray,
    y: np.ndarray,
    lanes: int,
    *,
    slices: int = 3,
    kept: int = 100,
    groups: int = 2,
    near: float = 4e-6,
) -> tuple[np.ndarray, list[int]]:
    """Return the columns of all rows, and which rows were done again."""
    n, width = x.shape
    columns = np.full((9, n), np.nan)
    redo = np.zeros(1 + n, dtype=np.uint32)
    scratch, state = np.zeros(groups * 2 * slices * cuda._SHARE), np.empty((3, n))
    for again in (0, 1):
        arrived = np.zeros(2 * groups, dtype=np.uint32)
        library.launch(
            ctypes.c_uint(groups * slices),
            *(ctypes.c_void_p(a.ctypes.data) for a in (x, y)),
            ctypes.c_longlong(n),
            *(ctypes.c_int(k) for k in (width // lanes, slices, kept)),
            *(ctypes.c_double(near), ctypes.c_int(again)),
            *(ctypes.c_void_p(a.ctypes.data) for a in (scratch, arrived, redo, state, columns)),
        )
    return columns, sorted(redo[1 : 1 + redo[0]].tolist())


def rows(dtype) -> tuple[np.ndarray, np.ndarray]:
    """Rows from nearly equal to far apart, without support, and with huge ratios."""
    rng = np.random.default_rng(6)
    x = (3 * rng.normal(size=(7, 5000))).astype(np.float32)
    noise = rng.normal(size=x.shape)
    scale = np.array([0.01, 3.0, 1e-5, 0.1, 0.3, 0.02, 1.0])[:, None]
    y = (x + scale * noise).astype(np.float32)
    x[3, :9] = y[3, :5] = -np.inf
    y[4, 3:2000] = -np.inf
    x[5, 0], y[5, 0] = -500.0, 5.0
    x[6, :50] = 1e-5 * noise[6, :50]  # subnormal in float16
    return x.astype(dtype), y.astype(dtype)


CASES = [
    (np.float32, "float64", 1e-10),
    (np.float32, "float32", 1e-5),
    (np.float64, "float64", 1e-10),
    (np.float64, "float32", 1e-5),
    (np.float16, "float64", 1e-10),
    (ml_dtypes.bfloat16, "float32", 1e-5),
]


def assert_columns(columns: np.ndarray, expected: Any, tolerance: float) -> None:
    for k, field in enumerate(FIELDS):
        np.testing.assert_allclose(
            columns[k], getattr(expected, field), rtol=tolerance, err_msg=field
        )


def in_float64(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


@needs_compiler
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), CASES)
def test_kernel_by_threads_of_the_host(build, dtype, precision, tolerance) -> None:
    x, y = rows(dtype)
    lanes = 16 // x.dtype.itemsize
    near = 1e-11 if dtype == np.float64 and precision == "float64" else 4e-6
    expected = divergences(*in_float64(x, y))
    norms = [np.log(np.exp(a).sum(axis=1)) for a in in_float64(x, y)]
    # Several rows in flight or one; everything kept in shared memory, part of it, or nothing.
    for slices, kept, groups in ((3, 100, 2), (5, 1000, 1), (1, 0, 4)):
        columns, _ = run_on_host(
            build(cuda.compile_options(x.dtype.name, precision, lanes)),
            *(x, y, lanes),
            slices=slices,
            kept=min(kept, 1 << 11),
            groups=groups,
            near=near,
        )
        assert_columns(columns, expected, tolerance)
        for k in (0, 1):
            np.testing.assert_allclose(columns[7 + k], norms[k], rtol=tolerance)


@needs_compiler
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_loads_as_narrow_as_the_alignment_asks(build, dtype, precision) -> None:
    x, y = (np.ascontiguousarray(a[:, :333]) for a in rows(dtype))
    assert cuda.lanes_per_load(x.dtype.itemsize, 333, 0) == 1
    columns, _ = run_on_host(build(cuda.compile_options(x.dtype.name, precision, 1)), x, y, 1)
    assert_columns(
        columns, divergences(*in_float64(x, y)), 1e-10 if precision[-2:] == "64" else 1e-5
    )


@needs_compiler
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_closeness_and_a_common_shift(build, precision, tolerance) -> None:
    """TV from 1e-10 to 1, with logits that differ by a constant as well."""
    rng = np.random.default_rng(3)
    scale = np.array([1e-9, 1e-7, 1e-6, 1e-5, 1e-3, 0.1, 1.0, 8.0])[:, None]
    x = 2 * rng.normal(size=(8, 4096))
    for shift in (0.0, 0.37, -31.0):
        y = x + scale * rng.normal(size=x.shape) + shift
        columns, again = run_on_host(build(cuda.compile_options("float64", precision, 2)), x, y, 2)
        expected = divergences(x, y)
        assert expected.tv.min() < 1e-9
        assert_columns(columns, expected, tolerance)
        assert {0, 1, 2} <= set(again)
        assert not {5, 6, 7} & set(again)


@needs_compiler
def test_tokens_whose_ratio_lies_at_the_border(build) -> None:
    """Half of the mass has log rho within 1e-7 of 0, where the first pass cannot tell the sign."""
    rng = np.random.default_rng(4)
    x = np.zeros((6, 4000), dtype=np.float32)
    y = x.copy()
    for row in range(6):
        x[row, :2] = y[row, :2] = 9.0
        y[row, 2:] += (rng.normal(size=3998) * 10.0 ** -(row + 1)).astype(np.float32)
    columns, _ = run_on_host(build(cuda.compile_options("float32", "float64", 4)), x, y, 4)
    assert_columns(columns, divergences(*in_float64(x, y)), 1e-10)
    same, again = run_on_host(build(cuda.compile_options("float32", "float64", 4)), x, x.copy(), 4)
    assert (same[[0, 1, 2, 3, 5, 6]] == 0.0).all()
    assert again == []


@needs_compiler
def test_kernel_marks_rows_that_are_not_logits(build) -> None:
    x = np.zeros((6, 52), dtype=np.float32)
    x[0, 3], x[1, 7] = np.nan, np.inf
    x[2] = -np.inf
    y = np.zeros_like(x)
    y[4, 51], y[5] = np.nan, -np.inf
    columns, again = run_on_host(
        build(cuda.compile_options("float32", "float64", 4)), x, y, 4, slices=2
    )
    np.testing.assert_array_equal(
        np.isnan(columns).all(axis=0), [True, True, True, False, True, True]
    )
    assert not np.isnan(columns[:, 3]).any()
    assert again == []


def test_the_source_needs_no_headers_and_agrees_with_the_host() -> None:
    """CuPy compiles it with NVRTC, which comes without CUDA's headers when installed as a wheel."""
    text = cuda.kernel_source()
    assert "#include" not in text
    near = int(re.search(r"#define NEAR (\d+)", text)[1])
    names = ", ".join(re.findall(r"^enum \{ ([A-Z, =]+) \}", text, re.MULTILINE)).split(", ")
    sums = {name.split()[0] for name in names} - {"ADDED", "SUMS"}
    assert "SHARE = 4 + SUMS + 2 * NEAR" in text
    assert 4 + len(sums) + 2 * near == cuda._SHARE


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="NVRTC comes with CuPy, which is absent"
)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_nvrtc_compiles_the_source(dtype, precision, arch) -> None:
    """Needs no device."""
    from cupy_backends.cuda.libs import nvrtc

    widest = {"float64": 2, "float32": 4}.get(dtype, 8)
    for lanes in (widest, 1):
        # The options that CuPy adds by itself come last.
        options = (
            *cuda.compile_options(dtype, precision, lanes),
            *("-ftz=true", f"-arch={arch}", "--device-as-default-execution-space"),
        )
        program = nvrtc.createProgram(cuda.kernel_source(), "divergences.cu", (), ())
        nvrtc.compileProgram(program, options)
        assert nvrtc.getCUBIN(program)
        nvrtc.destroyProgram(program)


def test_loads_are_aligned_and_slices_fit() -> None:
    assert cuda.lanes_per_load(2, 151_936, 0, 256) == 8
    assert cuda.lanes_per_load(2, 151_936, 0, 8) == 4
    assert cuda.lanes_per_load(4, 151_936, 16, 32) == 4
    assert cuda.lanes_per_load(8, 151_935, 0, 0) == 1
    assert cuda.lanes_per_load(2, 257, 0, 0) == 1
    for width, itemsize in ((151_936, 4), (151_936, 2), (257, 4), (2, 2), (10**7, 8)):
        slices = cuda.slices_per_row(width, itemsize, 45_000)
        assert slices >= 1
        assert 2 * width * itemsize / slices <= 45_000
        assert width / slices <= cuda.THREADS * 128
    assert cuda.slices_per_row(5, 4, 0) == 1
    assert cuda.slices_per_row(5, 4, 1) == 5
    assert cuda.rows_per_stage(10**9, 4) == 1
    assert cuda.rows_per_stage(151_936, 4) * 2 * 151_936 * 4 <= 64_000_000


class _OnDevice:
    """What a torch tensor that needs a gradient shows on a GPU, without importing torch."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")


def test_device_arrays_are_recognised_without_their_library() -> None:
    assert cuda.is_device_array(_OnDevice())
    assert not cuda.is_device_array(np.zeros(1))
    assert not cuda.is_device_array([0.0])
    with pytest.raises(InputError, match="one array on the host and one on a CUDA device"):
        row_divergences(_OnDevice(), np.zeros((1, 2)))
    with pytest.raises(InputError, match="'device'"):
        row_divergences(_OnDevice(), _OnDevice(), device="cpu")


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
    # A row that the device could not sum, though it is one of logits, is summed on the host.
    x[1] = np.linspace(0.0, 1.0, 5000)
    found = row_divergences(np.zeros_like(x), x, device="cuda")
    np.testing.assert_allclose(found.kl[1], divergences(np.zeros(5000), x[1]).kl, rtol=1e-12)


@pytest.fixture
def stand_in(build, monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy and a device, stood in for by the host."""
    path = Path(__file__).with_name("cupy_on_host.py")
    spec = importlib.util.spec_from_file_location("cupy_on_host", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cupy = module.make(build)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "THREADS", THREADS)
    cuda._kernel.cache_clear()
    yield cupy
    cuda._kernel.cache_clear()


@needs_compiler
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), CASES)
def test_host_side_of_the_device(stand_in, monkeypatch, dtype, precision, tolerance) -> None:
    """From the call to the columns, in three stages through two buffers."""
    monkeypatch.setattr(cuda, "rows_per_stage", lambda width, itemsize: 3)
    x, y = rows(dtype)
    found = row_divergences(x, y, precision=precision, device="cuda")
    assert_columns(
        [getattr(found, name) for name in FIELDS], divergences(*in_float64(x, y)), tolerance
    )


@needs_compiler
def test_arrays_on_the_device(stand_in) -> None:
    x, y = rows(np.float32)
    wide = stand_in.zeros((7, 2, 5003), dtype=np.float32)
    wide[:, 0, 3:], wide[:, 1, 3:] = x, y
    columns = cuda.cuda_row_sums(wide[:, 0, 3:], wide[:, 1, 3:], precision="float64")
    assert isinstance(columns, stand_in.ndarray)
    assert_columns(columns.T, divergences(*in_float64(x, y)), 1e-10)
    assert cuda.cuda_row_sums(wide[:0, 0], wide[:0, 1], precision="float64").shape == (0, 9)
    bits = [stand_in.asarray(a.view(np.int16)) for a in map(to_bfloat16, (x, y))]
    columns = cuda.cuda_row_sums(*bits, precision="float64")
    assert_columns(columns.T, divergences(*in_float64(to_bfloat16(x), to_bfloat16(y))), 1e-10)


@needs_compiler
def test_big_endian_logits_and_wide_rows(stand_in) -> None:
    """More slices than blocks at once: what a block cannot keep, it reads twice."""
    rng = np.random.default_rng(10)
    x = rng.normal(size=(2, 60_000))
    y = x + 0.1 * rng.normal(size=x.shape)
    found = row_divergences(x.astype(">f8"), y.astype(">f8"), device="cuda")
    assert_columns([getattr(found, name) for name in FIELDS], divergences(x, y), 1e-10)


@needs_compiler
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_the_lowest_float64_is_probability_zero(stand_in, precision, tolerance) -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(2, 5000))
    y = x + 0.1 * rng.normal(size=x.shape)
    expected = divergences(x[:, :-9], y[:, :-9])
    x[:, -9:] = y[:, -9:] = np.finfo(np.float64).min
    columns = cuda.cuda_row_sums(x, y, precision=precision)
    assert_columns(columns.T, expected, tolerance)


@needs_compiler
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("low", [-2e4, -1e30])
def test_a_token_that_train_all_but_excludes(stand_in, low, precision, tolerance) -> None:
    """Its share of the KL is huge, and none of the reverse KL."""
    rng = np.random.default_rng(13)
    x = rng.normal(size=(2, 5000)).astype(np.float32)
    y = (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
    y[:, -3:] = low
    columns = cuda.cuda_row_sums(x, y, precision=precision)
    assert_columns(columns.T, divergences(x, y), tolerance)


@needs_compiler
def test_policies_of_two_dtypes_stay_on_the_host_unless_asked(stand_in, monkeypatch) -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(2, 5000)).astype(np.float32)
    y = x + 0.1 * rng.normal(size=x.shape)
    np.testing.assert_allclose(row_divergences(x, y).kl, divergences(x, y).kl, rtol=1e-10)
    with pytest.raises(InputError, match="found dtypes float32 and float64"):
        row_divergences(x, y, device="cuda")
    # Two byte orders of one dtype are no obstacle.
    found = row_divergences(x.astype(">f4"), y.astype("<f4"), device="cuda")
    np.testing.assert_allclose(found.kl, divergences(x, y.astype("<f4")).kl, rtol=1e-10)


def to_bfloat16(a: np.ndarray) -> np.ndarray:
    return a.astype(ml_dtypes.bfloat16)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), CASES)
def test_gpu_matches_cpu_from_host_and_device(dtype, precision, tolerance) -> None:
    import cupy

    x, y = rows(dtype)
    expected = divergences(*in_float64(x, y))
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
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_gpu_at_the_size_of_the_workload(precision, tolerance) -> None:
    """More rows than are in flight, from TV 1e-9 to 1, read with loads of every width."""
    import cupy

    rng = np.random.default_rng(9)
    for width in (151_936, 151_934, 151_935):
        x = (3 * rng.normal(size=(160, width))).astype(np.float32)
        scale = np.logspace(-6, 1, 160)[:, None]
        y = (x + scale * rng.normal(size=x.shape)).astype(np.float32)
        ours = row_divergences(cupy.asarray(x), cupy.asarray(y), precision=precision)
        some = slice(None, None, 20)
        expected = row_divergences(x[some], y[some], kernel="numpy", device="cpu")
        for field in SUMS:
            np.testing.assert_allclose(
                getattr(ours, field).get()[some], getattr(expected, field), rtol=tolerance
            )


@pytest.mark.gpu
@needs_gpu
def test_gpu_strided_views_offsets_and_no_rows() -> None:
    import cupy

    x, y = rows(np.float32)
    wide = cupy.zeros((7, 2, 5003), dtype=np.float32)
    wide[:, 0, 3:], wide[:, 1, 3:] = cupy.asarray(x), cupy.asarray(y)
    ours = row_divergences(wide[:, 0, 3:], wide[:, 1, 3:])
    np.testing.assert_allclose(ours.kl.get(), divergences(*in_float64(x, y)).kl, rtol=1e-10)
    flat = cupy.zeros(7 * 5000 + 1, dtype=np.float32)
    flat[1:] = cupy.asarray(x).ravel()
    shifted = row_divergences(flat[1:].reshape(7, 5000), cupy.asarray(y))
    np.testing.assert_allclose(shifted.kl.get(), ours.kl.get(), rtol=1e-12)
    assert row_divergences(wide[:0, 0], wide[:0, 1]).kl.shape == (0,)


@pytest.mark.gpu
@needs_gpu
def test_gpu_overlapped_stages_keep_rows_in_order(monkeypatch) -> None:
    monkeypatch.setattr(cuda, "rows_per_stage", lambda width, itemsize: 4)
    rng = np.random.default_rng(8)
    x = rng.normal(size=(23, 5000)).astype(np.float32)
    y = x + rng.normal(size=x.shape).astype(np.float32)
    result = row_divergences(x, y, device="cuda")
    np.testing.assert_allclose(result.kl, divergences(x, y).kl, rtol=1e-12)
    swapped = row_divergences(x.astype(">f4"), y.astype(">f4"), device="cuda")
    np.testing.assert_array_equal(swapped.kl, result.kl)


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
