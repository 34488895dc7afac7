"""Row kernels against mpmath at the size of the workload, and against each other."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import array_api_strict as strict
import ml_dtypes
import mpmath as mp
import numpy as np
import pytest

from trbounds.divergences import divergences
from trbounds.errors import InputError, MissingDependency
from trbounds.logits import kernels, row_divergences

V = 151_936
DIVERGENCES = ("kl", "kl_reverse", "tv", "chi2")
FIELDS = (*DIVERGENCES, "entropy", "max_abs_log_ratio", "unsupported_mass")
KERNELS = ["numpy", "numba"]


def repeated_row(kind: str, scale: float, groups: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A row of float32 logits with few distinct (x, y) pairs, and how often each occurs.

    The exact divergences then cost mpmath a few dozen terms at the full vocabulary.
    """
    rng = np.random.default_rng(7)
    counts = rng.multinomial(V - groups, np.ones(groups) / groups) + 1
    x = rng.normal(size=groups).astype(np.float32) * (0.01 if kind == "flat" else 3.0)
    y = (x + scale * rng.normal(size=groups)).astype(np.float32)
    if kind == "peaked":
        counts[0], counts[1] = 1, counts[1] + counts[0] - 1
        x[0], y[0] = 30.0, np.float32(30.0 + scale)
    if kind == "one token":
        counts[0], counts[1] = 1, counts[1] + counts[0] - 1
        y = x.copy()
        y[0] += np.float32(scale)
    if kind == "offset":
        y += np.float32(17.3)
    if kind == "small offset":
        y += np.float32(0.3)
    return np.repeat(x, counts), np.repeat(y, counts)


def assert_agree(result, expected, precision: str, fields: tuple[str, ...] = FIELDS) -> None:
    for field in fields:
        np.testing.assert_allclose(
            getattr(result, field),
            getattr(expected, field),
            rtol=1e-10 if precision == "float64" else 1e-5,
            err_msg=field,
        )


@functools.cache
def reference(kind: str, scale: float) -> dict[str, mp.mpf]:
    x, y = repeated_row(kind, scale)
    pairs, counts = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    with mp.workdps(50):
        n = [mp.mpf(int(c)) for c in counts]
        a = [mp.exp(mp.mpf(float(v))) for v in pairs[:, 0]]
        b = [mp.exp(mp.mpf(float(v))) for v in pairs[:, 1]]
        za = mp.fsum(c * v for c, v in zip(n, a, strict=True))
        zb = mp.fsum(c * v for c, v in zip(n, b, strict=True))
        rows = [(c, u / za, v / zb) for c, u, v in zip(n, a, b, strict=True)]
        return {
            "kl": mp.fsum(c * p * mp.log(p / q) for c, p, q in rows),
            "kl_reverse": mp.fsum(c * q * mp.log(q / p) for c, p, q in rows),
            "tv": mp.fsum(c * abs(p - q) for c, p, q in rows) / 2,
            "chi2": mp.fsum(c * q * q / p for c, p, q in rows) - 1,
            "entropy": -mp.fsum(c * p * mp.log(p) for c, p, q in rows),
            "rollout_log_normaliser": mp.log(za),
            "train_log_normaliser": mp.log(zb),
        }


CASES = [
    *((kind, scale) for kind in ("flat", "spread", "peaked") for scale in (1e-5, 1e-2, 1.0, 20.0)),
    *(("one token", scale) for scale in (1e-4, 1e-2, 10.0, 30.0)),
    ("peaked", 5.0),
    *((kind, scale) for kind in ("offset", "small offset") for scale in (1e-4, 1e-2, 1.0)),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(("kind", "scale"), CASES)
def test_matches_high_precision(kind, scale, precision, tolerance, kernel) -> None:
    x, y = repeated_row(kind, scale)
    exact = reference(kind, scale)
    ours = row_divergences(x[None], y[None], precision=precision, kernel=kernel)
    for field in DIVERGENCES:
        assert abs(mp.mpf(float(getattr(ours, field)[0])) / exact[field] - 1) < tolerance, field
    for field in ("entropy", "rollout_log_normaliser", "train_log_normaliser"):
        assert float(getattr(ours, field)[0]) == pytest.approx(
            float(exact[field]), rel=tolerance, abs=1e-2 * tolerance
        )


def test_the_cases_reach_from_tiny_to_full_total_variation() -> None:
    tv = [float(reference(kind, scale)["tv"]) for kind, scale in CASES]
    assert min(tv) < 2e-10
    assert max(tv) > 0.999


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ">f8", ">f4", ">f2", "<f2"]
)
def test_every_dtype_is_read_as_its_values(dtype, precision, kernel) -> None:
    rng = np.random.default_rng(3)
    x = (4 * rng.normal(size=(3, 5000))).astype(dtype)
    y = (x.astype(np.float64) + 0.1 * rng.normal(size=x.shape)).astype(dtype)
    x[1, :4] = [1e-7, -3e-6, 0.0, -0.0]  # subnormal in float16
    x[2], y[2] = (np.resize(z[2, :5], 5000) for z in (x, y))  # finite also with bytes swapped
    expected = divergences(x.astype(np.float64), y.astype(np.float64))
    result = row_divergences(x, y, precision=precision, kernel=kernel, threads=2)
    assert_agree(result, expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("train", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rollout", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_policies_may_have_different_dtypes(rollout, train, precision, kernel) -> None:
    rng = np.random.default_rng(8)
    logits = 4 * rng.normal(size=(2, 5000))
    x = logits.astype(rollout)
    y = (logits + 0.1 * rng.normal(size=x.shape)).astype(train)
    expected = divergences(x.astype(np.float64), y.astype(np.float64))
    result = row_divergences(x, y, precision=precision, kernel=kernel)
    assert_agree(result, expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_zero_probabilities_and_huge_ratios(precision, kernel) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(6, 40_000)).astype(np.float32)
    y = x + np.float32(0.01) * rng.normal(size=x.shape).astype(np.float32)
    x[0, 100:200] = y[0, 100:200] = -np.inf  # neither
    x[1, 39_000:] = -np.inf  # mu lacks mass
    y[2, :33_000] = -np.inf  # pi lacks a whole chunk
    x[3, 7], y[3, 7] = -150.0, 5.0
    x[4, 7], y[4, 7] = -700.0, 5.0
    x[5, 7], y[5, 7] = 5.0, -700.0
    expected = divergences(x, y)
    result = row_divergences(x, y, precision=precision, kernel=kernel)
    assert_agree(result, expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("offset", [0.0, 17.3, -17.3])
@pytest.mark.parametrize("absent", [slice(39_000, 40_000), slice(0, 33_000), slice(1, None, 2)])
def test_tokens_that_neither_policy_has_do_not_count(absent, offset, precision, kernel) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1, 40_000)).astype(np.float32)
    y = x + np.float32(0.01) * rng.normal(size=x.shape).astype(np.float32) + np.float32(offset)
    present = np.ones(x.shape[1], dtype=bool)
    present[absent] = False
    expected = divergences(x[:, present], y[:, present])
    x[:, absent] = y[:, absent] = -np.inf
    result = row_divergences(x, y, precision=precision, kernel=kernel)
    assert_agree(result, expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_lowest_float64_is_probability_zero(precision, kernel) -> None:
    """It masks logits, and float32 does not hold it."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(1, 5000))
    y = x + 0.1 * rng.normal(size=x.shape)
    expected = divergences(x[:, :-9], y[:, :-9])
    x[:, -9:] = y[:, -9:] = np.finfo(np.float64).min
    assert_agree(row_divergences(x, y, precision=precision, kernel=kernel), expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [257, 5000, 40_000])
def test_bad_rows_are_named(kernel, width) -> None:
    good = np.zeros((3, width), dtype=np.float32)
    for value, message in (
        (np.nan, "NaN"),
        (-np.nan, "NaN"),
        (np.inf, "\\+inf"),
    ):
        bad = good.copy()
        bad[2, width - 3] = value
        with pytest.raises(InputError, match=f"record 2, field 'train_logits': found {message}"):
            row_divergences(good, bad, kernel=kernel)
    bad = good.copy()
    bad[1] = -np.inf
    for pair, field in (((bad, good), "rollout_logits"), ((good, bad), "train_logits")):
        with pytest.raises(InputError, match=f"record 1, field '{field}': all logits are -inf"):
            row_divergences(*pair, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [257, 5000])
def test_rows_whose_normaliser_has_lost_its_digits_are_refused(kernel, width) -> None:
    good = np.zeros((3, width))
    good[0, 5] = -1e30  # a filler value: probability 0 for any float
    assert row_divergences(good, good, kernel=kernel).kl.tolist() == [0.0, 0.0, 0.0]
    for value in (1e7, 1e30, -1e30):
        bad = good.copy()
        bad[1] = value
        message = "record 1, field 'train_logits': found logits up to .*, expected at most 1e\\+06"
        with pytest.raises(InputError, match=message):
            row_divergences(good, bad, kernel=kernel)


def test_bad_arguments_are_refused() -> None:
    x = np.zeros((2, 10), dtype=np.float32)
    with pytest.raises(InputError, match="found shape \\(2, 9\\), expected \\(2, 10\\)"):
        row_divergences(x, x[:, :9])
    with pytest.raises(InputError, match="expected \\(n, vocabulary\\)"):
        row_divergences(x[0], x)
    with pytest.raises(InputError, match="found dtype float8_e4m3fn"):
        row_divergences(x.astype(ml_dtypes.float8_e4m3fn), x)
    with pytest.raises(InputError, match="'precision'"):
        row_divergences(x, x, precision="float16")  # type: ignore[arg-type]
    for width in (10, 5000):
        z = np.zeros((1, width))
        with pytest.raises(InputError, match="'kernel'"):
            row_divergences(z, z, kernel="c")  # type: ignore[arg-type]
        for threads in (0, -1, 2.0):
            with pytest.raises(InputError, match=r"'threads': found .*, expected a whole number"):
                row_divergences(z, z, threads=threads)  # type: ignore[arg-type]
        assert row_divergences(z, z, threads=np.int64(2)).kl[0] == 0.0  # type: ignore[arg-type]


def test_numba_asked_for_and_absent(monkeypatch) -> None:
    monkeypatch.setattr("trbounds.compiling._has_numba", lambda: False)
    x = np.zeros((1, 5000))
    with pytest.raises(MissingDependency, match=r"trbounds\[fast\]"):
        row_divergences(x, x, kernel="numba")
    assert row_divergences(x, x, kernel="auto").kl[0] == 0.0


def test_lists_and_arrays_of_other_libraries_count_as_numpy() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 3, 20))
    expected = row_divergences(x, y)
    for made in (np.ndarray.tolist, strict.asarray):
        found = row_divergences(made(x), made(y), device="cpu")
        np.testing.assert_array_equal(found.kl, expected.kl)
        assert type(found.kl) is np.ndarray


@pytest.mark.parametrize("kernel", KERNELS)
def test_read_only_and_strided_rows_and_no_rows(kernel) -> None:
    rng = np.random.default_rng(5)
    wide = rng.normal(size=(4, 6, 5000))
    x, y = wide[:, 1], wide[:, 4]
    wide.setflags(write=False)
    np.testing.assert_allclose(
        row_divergences(x, y, kernel=kernel).kl, divergences(x, y).kl, rtol=1e-12
    )
    assert row_divergences(x[:0], y[:0], kernel=kernel).kl.shape == (0,)


@pytest.mark.parametrize("kernel", KERNELS)
def test_extra_memory_stays_under_64_megabytes(kernel, tmp_path) -> None:
    """Peak resident memory of a fresh process over a 156 MB memory-mapped pair."""
    for name in ("rollout_logits", "train_logits"):
        array = np.lib.format.open_memmap(
            tmp_path / f"{name}.npy", mode="w+", dtype=np.float32, shape=(128, V)
        )
        array[:] = np.linspace(-5.0, 5.0, V, dtype=np.float32)
        array.flush()
    code = f"""
from trbounds.logits import read_logits, row_divergences
file = read_logits({str(tmp_path)!r})
def resident():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0])
peak = base = None
for batch in file.batches():
    result = row_divergences(batch.rollout_logits, batch.train_logits, kernel={kernel!r}, threads=2)
    if base is None:
        base = resident()  # libraries loaded, kernels compiled, buffers of one call made and freed
    peak = max(peak or 0, resident())
print(peak - base)
"""
    growth = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert growth < 16_000  # kB: nothing accumulates over the batches, pages of the file neither
    buffers = sum(
        value.nbytes
        for kernel in [kernels._make_kernel(kernel, "float64")] * 2
        for value in _arrays(kernel)
    )
    assert buffers < 32_000_000


def _arrays(item) -> list[np.ndarray]:
    if isinstance(item, np.ndarray):
        return [item]
    if isinstance(item, list):
        return [array for entry in item for array in _arrays(entry)]
    if hasattr(item, "__dict__"):
        return [array for entry in vars(item).values() for array in _arrays(entry)]
    return []


def test_total_variation_of_distant_policies_never_exceeds_one() -> None:
    x = np.zeros((1, 50_000))
    y = x.copy()
    x[0, 0], y[0, 1] = 200.0, 200.0
    for kernel in KERNELS:
        assert math.isclose(row_divergences(x, y, kernel=kernel).tv[0], 1.0, abs_tol=1e-15)
        assert row_divergences(x, y, kernel=kernel).tv[0] <= 1.0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_tail_without_weight_does_not_count(precision, kernel) -> None:
    x = np.full((1, V), -100.0, dtype=np.float32)
    x[0, :1000] = np.linspace(0.0, 0.01, 1000)
    y = x.copy()
    y[0, 1000:] = -81.0  # e^19 times as likely, and still nothing
    y[0, :1000:2] += np.float32(1e-9)
    result = row_divergences(x, y, precision=precision, kernel=kernel)
    expected = divergences(x.astype(np.float64), y.astype(np.float64))
    assert_agree(result, expected, precision, DIVERGENCES)
