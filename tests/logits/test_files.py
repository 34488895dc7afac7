"""Logits files: every format gives the same rows, and bad files are refused with their place."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from trbounds.divergences import divergences
from trbounds.errors import InputError
from trbounds.logits import (
    StoredPrecisionWarning,
    divergences_to_trace,
    file_divergences,
    read_logits,
    row_divergences,
    top_k_divergences,
)
from trbounds.logits.trace import fits_trace
from trbounds.traces import open_trace
from trbounds.traces.validate import RANGES

SAMPLE = Path(__file__).parents[1] / "data" / "logits_sample_small.npz"
FORMATS = ["npz", "npz compressed", "npy", "safetensors"]


def save(folder: Path, form: str, arrays: dict[str, np.ndarray]) -> Path:
    if form == "npy":
        target = folder / "arrays"
        target.mkdir()
        for name, array in arrays.items():
            np.save(target / f"{name}.npy", array)
        return target
    if form == "safetensors":
        target = folder / "logits.safetensors"
        save_file(arrays, target, metadata={"made": "by a test"})
        return target
    target = folder / "logits.npz"
    (np.savez_compressed if "compressed" in form else np.savez)(target, **arrays)
    return target


def arrays(dtype=np.float32, n: int = 7, width: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, width))
    return {
        "rollout_logits": x.astype(dtype),
        "train_logits": (x + 0.1 * rng.normal(size=x.shape)).astype(dtype),
        "token_ids": rng.integers(0, width, n).astype(np.int32),
        "offsets": np.array([0, 3, 3, n]),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["i8", "u8", "i4", "u4", "i2", "u2", "i1", "u1"])
def test_tokens_of_every_kind_of_integer(tmp_path, form, kind) -> None:
    stored = arrays(width=100)
    path = save(tmp_path, form, {**stored, "token_ids": stored["token_ids"].astype(kind)})
    np.testing.assert_array_equal(read_logits(path).token_ids, stored["token_ids"])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_format_gives_back_what_was_stored(tmp_path, form, dtype) -> None:
    stored = arrays(dtype)
    path = save(tmp_path, form, stored)
    half = np.dtype(dtype).itemsize == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = read_logits(path)
    assert [w.category for w in caught] == [StoredPrecisionWarning] * half
    assert (file.n, file.vocabulary, file.is_top_k) == (7, 300, False)
    np.testing.assert_array_equal(file.token_ids, stored["token_ids"])
    np.testing.assert_array_equal(file.offsets, stored["offsets"])
    assert file.seq_id is None
    batches = list(file.batches(rows=3))
    assert [b.first_row for b in batches] == [0, 3, 6]
    for name in ("rollout_logits", "train_logits"):
        joined = np.concatenate([getattr(b, name) for b in batches])
        assert joined.dtype == stored[name].dtype
        np.testing.assert_array_equal(joined, stored[name])


def test_one_file_of_a_directory_names_the_directory(tmp_path) -> None:
    folder = save(tmp_path, "npy", arrays())
    assert read_logits(folder / "train_logits.npy").path == str(folder)
    with pytest.raises(InputError, match=r"absent\.npy: no such file"):
        read_logits(folder / "absent.npy")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, form, keep) -> None:
    path = save(tmp_path, form, arrays())
    target = path / "rollout_logits.npy" if form == "npy" else path
    data = target.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=re.escape(str(path))):
        list(read_logits(path).batches())


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_a_file_that_lacks_one_byte_is_refused(tmp_path, form) -> None:
    logits = {"rollout_logits": np.zeros((2, 3)), "train_logits": np.zeros((2, 3))}
    path = save(tmp_path, form, logits)
    for target in path.glob("*.npy") if form == "npy" else [path]:
        target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated: found 47 bytes, expected 48"):
        read_logits(path)


def test_long_safetensors_headers_are_refused(tmp_path, monkeypatch) -> None:
    path = save(tmp_path, "safetensors", arrays())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr("trbounds.logits.sources._HEADER_LIMIT", length)
    read_logits(path)
    monkeypatch.setattr("trbounds.logits.sources._HEADER_LIMIT", length - 1)
    with pytest.raises(InputError, match=f"the header should take {length} bytes"):
        read_logits(path)


def test_damaged_members_are_refused(tmp_path) -> None:
    path = save(tmp_path, "npz", arrays())
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF  # within the numbers: the checksum of the member notices
    path.write_bytes(data)
    with pytest.raises(InputError, match="'rollout_logits'"):
        list(read_logits(path).batches())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_logits": None}, "field 'train_logits': missing; the file holds"),
        ({"train_logits": np.zeros((7, 299), np.float32)}, r"found shape \(7, 299\)"),
        ({"train_logits": np.zeros((6, 300), np.float32)}, r"found shape \(6, 300\)"),
        ({"rollout_logits": np.zeros(7, np.float32)}, r"expected \(n, width\)"),
        ({"rollout_logits": np.zeros((7, 300), np.int32)}, "found dtype int32"),
        ({"token_ids": np.full(7, 300)}, "record 0, field 'token_ids': found token id 300"),
        ({"token_ids": np.array([0, 1, 2, -1, 4, 5, 6])}, "record 3, field 'token_ids'"),
        ({"token_ids": np.zeros(6, int)}, r"found shape \(6,\), expected \(7,\)"),
        ({"token_ids": np.zeros(7)}, "expected one axis of integers"),
        ({"offsets": np.array([0, 6])}, "found 0 to 6, expected 0 to 7"),
        ({"offsets": np.array([0, 5, 3, 7])}, "record 2, field 'offsets': found 3 after 5"),
        ({"offsets": np.zeros((2, 2), int)}, "field 'offsets': found shape"),
    ],
)
def test_bad_descriptions_are_refused(tmp_path, form, change, message) -> None:
    stored = {k: v for k, v in (arrays() | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        read_logits(save(tmp_path, form, stored))


def test_float8_and_pickles_and_fortran_order_are_refused(tmp_path) -> None:
    float8 = arrays(ml_dtypes.float8_e4m3fn)
    with pytest.raises(InputError, match="found dtype void8"):
        read_logits(save(tmp_path, "npz", float8))
    with pytest.raises(InputError, match="found dtype 'F8_E4M3'"):
        read_logits(save(tmp_path, "safetensors", float8))
    objects = arrays() | {"rollout_logits": np.array([[None]], dtype=object)}
    with pytest.raises(InputError, match="pickled objects"):
        read_logits(save(tmp_path, "npz", objects))
    fortran = arrays() | {"train_logits": np.asfortranarray(arrays()["train_logits"])}
    with pytest.raises(InputError, match="Fortran order"):
        read_logits(save(tmp_path, "npz", fortran))


@pytest.mark.parametrize("shape", ["(-2, -3)", "(-2, 3)", "(True, 3)"])
def test_shapes_that_are_none_are_refused(tmp_path, shape) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    target = tmp_path / "rollout_logits.npy"
    target.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(64))
    np.save(tmp_path / "train_logits.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"'rollout_logits': .* expected non-negative whole"):
        read_logits(tmp_path)


def test_arrays_that_do_not_matter_are_not_looked_at(tmp_path) -> None:
    extra = arrays() | {"notes": np.array([{"a": 1}], dtype=object)}
    assert read_logits(save(tmp_path, "npz", extra)).n == 7


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        json.dumps([1]).encode(),
        json.dumps({"rollout_logits": {"dtype": "F32", "shape": [1, 2]}}).encode(),
        json.dumps(
            {"rollout_logits": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4]}}
        ).encode(),
        json.dumps(
            {"rollout_logits": {"dtype": "F32", "shape": [-1, 2], "data_offsets": [8, 0]}}
        ).encode(),
        json.dumps(
            {"rollout_logits": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}
        ).encode(),
        b'{"a":' * 100_000,
    ],
)
def test_bad_safetensors_headers_are_refused(tmp_path, header) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_logits(path)


def test_files_that_are_not_there_or_not_logits(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_logits(tmp_path / "absent.npz")
    other = tmp_path / "x.csv"
    other.write_text("1")
    with pytest.raises(InputError, match=r"found suffix '\.csv'"):
        read_logits(other)
    for name in ("x.npz", "x.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=re.escape(name)):
            read_logits(tmp_path / name)


def test_the_real_sample_reproduces_the_logged_divergences() -> None:
    file = read_logits(SAMPLE)
    logged = np.load(SAMPLE, allow_pickle=False)
    (batch,) = file.batches()
    result = row_divergences(batch.rollout_logits, batch.train_logits)
    for field in ("kl", "tv", "chi2", "entropy"):
        np.testing.assert_allclose(
            getattr(result, field), logged[f"logged_{field}"], atol=1e-6, rtol=1e-6
        )


def test_trace_of_the_real_sample(tmp_path) -> None:
    file, logged = read_logits(SAMPLE), np.load(SAMPLE, allow_pickle=False)
    out = tmp_path / "trace.parquet"
    divergences_to_trace(file, out)
    assert list(tmp_path.iterdir()) == [out]
    (batch,) = open_trace(str(out))
    for field in ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2", "entropy"):
        np.testing.assert_allclose(
            getattr(batch, field), logged[f"logged_{field}"], atol=2e-6, rtol=1e-6
        )
    np.testing.assert_array_equal(batch.seq_id, logged["seq_id"])
    table = pq.read_table(out)
    assert {"kl_reverse", "max_abs_log_ratio", "position"} <= set(table.schema.names)


def test_trace_follows_offsets_or_runs_of_positions(tmp_path) -> None:
    stored = arrays()
    by_offsets = tmp_path / "offsets.parquet"
    file = read_logits(save(tmp_path, "npz", stored))
    divergences_to_trace(file, by_offsets, kernel="numpy")
    table = pq.read_table(by_offsets)
    assert [len(row) for row in table["kl"].to_pylist()] == [3, 0, 4]
    exact = divergences(stored["rollout_logits"], stored["train_logits"])
    flat = np.concatenate(table["kl_reverse"].to_pylist())
    np.testing.assert_allclose(flat, exact.kl_reverse, rtol=1e-12)
    x = stored["rollout_logits"].astype(np.float64)
    logprobs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        np.concatenate(table["rollout_logprobs"].to_pylist()),
        logprobs[np.arange(7), stored["token_ids"]],
        rtol=1e-12,
    )
    del stored["offsets"]
    stored |= {
        "seq_id": np.array([4, 4, 4, 9, 9, 2, 2]),
        "position": np.array([0, 1, 5, 6, 7, 0, 1]),
    }
    by_runs = tmp_path / "runs.parquet"
    divergences_to_trace(read_logits(save(tmp_path, "npz", stored)), by_runs)
    table = pq.read_table(by_runs)
    assert table["position"].to_pylist() == [[0, 1], [5], [6, 7], [0, 1]]
    assert table["seq_id"].to_pylist() == [4, 4, 9, 2]


def test_traces_refuse_what_they_cannot_use(tmp_path) -> None:
    out = tmp_path / "out.parquet"
    stored = arrays()
    no_tokens = {k: v for k, v in stored.items() if k != "token_ids"}
    with pytest.raises(InputError, match="'token_ids': missing"):
        divergences_to_trace(read_logits(save(tmp_path, "npz", no_tokens)), out)
    bad = stored | {"train_logits": stored["train_logits"].copy()}
    bad["train_logits"][5, 0] = np.nan
    with pytest.raises(InputError, match="record 5, field 'train_logits': found NaN"):
        divergences_to_trace(read_logits(save(tmp_path, "npz", bad)), out)
    impossible = stored | {"rollout_logits": stored["rollout_logits"].copy()}
    impossible["rollout_logits"][2, stored["token_ids"][2]] = -np.inf
    with pytest.raises(InputError, match="record 2, field 'token_ids': the sampled token"):
        divergences_to_trace(read_logits(save(tmp_path, "npz", impossible)), out)
    excluded = stored | {"train_logits": stored["train_logits"].copy()}
    excluded["train_logits"][4, stored["token_ids"][4]] = -np.inf
    with pytest.raises(
        InputError, match=r"record 4, field 'token_ids': the train log-prob.* is -inf"
    ):
        divergences_to_trace(read_logits(save(tmp_path, "npz", excluded)), out)
    stored |= {"seq_id": np.array([4, 4, 4, 9, 9, 9, 2])}
    with pytest.raises(InputError, match="record 6, field 'seq_id': found 2, expected 9"):
        divergences_to_trace(read_logits(save(tmp_path, "npz", stored)), out)
    assert not out.exists()


def test_equal_policies_and_limits_of_readers_fit_a_trace() -> None:
    for name, limits in RANGES.items():
        assert fits_trace(name, np.array(limits)), name
        assert not fits_trace(name, np.nextafter(limits, [-np.inf, np.inf])), name
    assert fits_trace("max_abs_log_ratio", np.zeros(2))


def test_columns_that_readers_refuse_are_left_out_of_a_trace(tmp_path) -> None:
    """A rollout cut by top-p has an infinite chi2 that no trace can hold."""
    stored = arrays()
    x = stored["rollout_logits"]
    cut = x < 0.0
    cut[np.arange(7), stored["token_ids"]] = False
    x[cut] = -np.inf
    columns = divergences_to_trace(
        read_logits(save(tmp_path, "npz", stored)), tmp_path / "a.parquet"
    )
    assert np.isinf(columns["chi2"]).all()
    (batch,) = open_trace(str(tmp_path / "a.parquet"))
    assert batch.chi2 is None
    np.testing.assert_array_equal(batch.kl, columns["kl"])
    names = pq.read_schema(tmp_path / "a.parquet").names
    assert not {"chi2", "kl_reverse", "max_abs_log_ratio"} & set(names)
    assert "unsupported_mass" in names


def top_k_arrays(k: int, dtype=np.float32) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = 2.0 * rng.normal(size=(9, 60))
    y = x + 0.4 * rng.normal(size=x.shape)
    stored = {}
    for policy, logits in (("rollout", x), ("train", y)):
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ids = np.argsort(-logprobs, axis=1)[:, :k]
        stored[f"{policy}_topk_ids"] = ids.astype(np.int32)
        stored[f"{policy}_topk_logprobs"] = np.take_along_axis(logprobs, ids, axis=1).astype(dtype)
    return stored, x, y


@pytest.mark.parametrize("k", [1, 5, 20, 59, 60])
def test_top_k_intervals_hold_the_exact_values(tmp_path, k) -> None:
    stored, x, y = top_k_arrays(k, np.float64)
    file = read_logits(save(tmp_path, "safetensors", stored))
    assert file.is_top_k
    (interval,) = top_k_divergences(file)
    exact = divergences(x, y)
    for field in ("kl", "kl_reverse", "tv", "chi2", "entropy", "max_abs_log_ratio"):
        lower, upper = getattr(interval.lower, field), getattr(interval.upper, field)
        assert np.all(lower <= getattr(exact, field) * (1 + 1e-12)), field
        assert np.all(getattr(exact, field) <= upper * (1 + 1e-12)), field
    if k == 60:
        for field in ("kl", "kl_reverse", "tv", "chi2", "entropy"):
            np.testing.assert_allclose(
                getattr(interval.lower, field), getattr(exact, field), rtol=1e-10
            )
        np.testing.assert_allclose(interval.upper.tv, exact.tv, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.3])
@pytest.mark.parametrize(("width", "k"), [(2, 1), (2, 2), (40, 5), (40, 39), (40, 40)])
def test_top_k_intervals_allow_for_the_rounding_of_the_log(
    tmp_path, width, k, noise, dtype
) -> None:
    """Peaked, flat and partly excluded rows, with ties; the rest can be far below the rounding."""
    rng = np.random.default_rng(8)
    x = rng.choice([0.3, 3.0, 9.0], size=(300, 1)) * rng.normal(size=(300, width))
    y = x + noise * rng.normal(size=x.shape)
    x[::3], y[::3] = np.round(x[::3]), np.round(y[::3])
    x[50:100, 1:][rng.random((50, width - 1)) < 0.4] = -np.inf
    y[80:130, 1:][rng.random((50, width - 1)) < 0.4] = -np.inf
    x[200:210, 1] = y[205:215, 1] = -1e30  # filler values
    x[220:225, 1] = -740.0
    stored = {}
    for policy, logits in (("rollout", x), ("train", y)):
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ids = np.argsort(-logprobs, axis=1)[:, :k]
        stored[f"{policy}_topk_ids"] = ids
        with np.errstate(over="ignore"):  # in float16
            kept = np.take_along_axis(logprobs, ids, axis=1).astype(dtype)
        stored[f"{policy}_topk_logprobs"] = kept
    (interval,) = top_k_divergences(read_logits(save(tmp_path, "npz", stored)))
    exact = divergences(x, y)
    for field in ("kl", "kl_reverse", "tv", "chi2", "entropy", "max_abs_log_ratio"):
        value = getattr(exact, field)
        slack = 1e-13 * np.where(np.isfinite(value), value, 0.0) + 1e-15
        assert np.all(getattr(interval.lower, field) <= value + slack), field
        assert np.all(value <= getattr(interval.upper, field) + slack), field
    assert np.all(exact.unsupported_mass <= interval.upper.unsupported_mass)


def test_top_k_lower_ends_are_the_least_that_the_logs_allow(tmp_path) -> None:
    """Each policy logs the common tokens and one of its own; the rest is searched."""
    rng = np.random.default_rng(9)
    share = np.linspace(0.0, 1.0, 401)
    reached = []
    for trial in range(40):
        c = trial % 3
        mu, pi = rng.dirichlet(np.full(c + 3, 0.7), size=2)
        own = {"rollout": [*range(c), c], "train": [*range(c), c + 1]}
        stored = {}
        for policy, p in (("rollout", mu), ("train", pi)):
            stored[f"{policy}_topk_ids"] = np.array([own[policy]])
            stored[f"{policy}_topk_logprobs"] = np.log(p[own[policy]])[None]
        folder = tmp_path / str(trial)
        folder.mkdir()
        (interval,) = top_k_divergences(read_logits(save(folder, "npz", stored)))
        free = [1.0 - p[own[policy]].sum() for policy, p in (("rollout", mu), ("train", pi))]
        theirs, ours = np.meshgrid(share * free[1], share * free[0])
        some = np.ones((*ours.shape, c))
        with np.errstate(divide="ignore"):
            exact = divergences(
                np.log(
                    np.concatenate(
                        [some * mu[:c], np.stack([mu[c] + 0 * ours, ours, free[0] - ours], -1)], -1
                    )
                ),
                np.log(
                    np.concatenate(
                        [
                            some * pi[:c],
                            np.stack([theirs, pi[c + 1] + 0 * ours, free[1] - theirs], -1),
                        ],
                        -1,
                    )
                ),
            )
        for field in ("kl", "kl_reverse", "tv", "chi2", "max_abs_log_ratio"):
            lower, least = getattr(interval.lower, field)[0], getattr(exact, field).min()
            assert lower <= least * (1 + 1e-9) + 1e-12, field
            if field != "max_abs_log_ratio" and least > 0.05:
                reached.append(lower / least)
    assert len(reached) > 50
    assert min(reached) > 0.98  # of the least on a grid


def test_top_k_intervals_narrow_with_k(tmp_path) -> None:
    bounds = []
    for k in (5, 20, 50):
        (tmp_path / str(k)).mkdir()
        path = save(tmp_path / str(k), "npz", top_k_arrays(k)[0])
        bounds.append(next(top_k_divergences(read_logits(path))))
    for wide, narrow in itertools.pairwise(bounds):
        assert np.all(narrow.upper.tv <= wide.upper.tv + 1e-6)
        assert np.mean(narrow.lower.kl) > np.mean(wide.lower.kl)


def test_top_k_padding_is_no_token(tmp_path) -> None:
    stored, _, _ = top_k_arrays(5)
    path = save(tmp_path, "npz", stored)
    plain = next(top_k_divergences(read_logits(path)))
    for policy in ("rollout", "train"):
        stored[f"{policy}_topk_ids"] = np.pad(
            stored[f"{policy}_topk_ids"], ((0, 0), (0, 2)), constant_values=-1
        )
        stored[f"{policy}_topk_logprobs"] = np.pad(
            stored[f"{policy}_topk_logprobs"], ((0, 0), (0, 2)), constant_values=np.nan
        )
    padded = next(top_k_divergences(read_logits(save(tmp_path, "npz", stored))))
    np.testing.assert_allclose(padded.lower.kl, plain.lower.kl, rtol=1e-12)
    np.testing.assert_allclose(padded.upper.tv, plain.upper.tv, rtol=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rollout_topk_ids", -2, "record 3, field 'rollout_topk_ids': found an id below -1"),
        ("train_topk_logprobs", np.nan, "record 3, field 'train_topk_logprobs': found NaN"),
        ("train_topk_logprobs", 0.5, "found a log-probability above 0"),
        ("rollout_topk_logprobs", 0.0, "probabilities sum to more than 1"),
    ],
)
def test_bad_top_k_rows_are_named(tmp_path, field, value, message) -> None:
    stored, _, _ = top_k_arrays(5)
    stored[field][3, 4] = value
    with pytest.raises(InputError, match=message):
        next(top_k_divergences(read_logits(save(tmp_path, "npz", stored))))


@pytest.mark.parametrize(("units", "refused"), [(9, False), (11, True)])
def test_a_logged_certainty_may_be_off_by_its_rounding(tmp_path, units, refused) -> None:
    stored = {}
    for policy in ("rollout", "train"):
        stored[f"{policy}_topk_ids"] = np.array([[4]])
        stored[f"{policy}_topk_logprobs"] = np.array([[units * 2.0**-23]], dtype=np.float32)
    found = top_k_divergences(read_logits(save(tmp_path, "npz", stored)))
    if refused:
        with pytest.raises(InputError, match="found a log-probability above 0"):
            next(found)
    else:
        assert next(found).upper.tv[0] < 1e-5


def test_top_k_tokens_twice_and_wrong_kind_of_file(tmp_path) -> None:
    stored, _, _ = top_k_arrays(5)
    stored["train_topk_ids"][2, 1] = stored["train_topk_ids"][2, 3]
    file = read_logits(save(tmp_path, "npz", stored))
    with pytest.raises(InputError, match="record 2, field 'train_topk_ids': found a token twice"):
        next(top_k_divergences(file))
    with pytest.raises(InputError, match="expected full logits"):
        next(file.batches())
    with pytest.raises(InputError, match="expected top-k"):
        next(top_k_divergences(read_logits(SAMPLE)))
    stored["train_topk_ids"] = stored["train_topk_ids"][:, :4]
    with pytest.raises(InputError, match=r"found shape \(9, 5\), expected \(9, 4\)"):
        read_logits(save(tmp_path, "npz", stored))


def test_divergences_of_a_file_need_no_tokens_and_report_progress(tmp_path) -> None:
    stored = arrays()
    path = save(tmp_path, "npz", {k: v for k, v in stored.items() if k != "token_ids"})
    done: list[int] = []
    found = file_divergences(read_logits(path), on_progress=done.append)
    direct = row_divergences(stored["rollout_logits"], stored["train_logits"])
    assert "rollout_logprobs" not in found
    for name, values in found.items():
        np.testing.assert_array_equal(values, getattr(direct, name))
    assert done == [7]
