"""Safe sets, pruned rows, pruned pairs and sweeps."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from trbounds.divergences import divergences
from trbounds.errors import InputError
from trbounds.logits import read_logits
from trbounds.pruning import (
    PruningCase,
    get_law,
    prune,
    prune_pair,
    restrict,
    safe_set,
    sweep,
    sweep_file,
)

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def real() -> dict[str, np.ndarray]:
    with np.load(DATA / "logits_sample_small.npz", allow_pickle=False) as data:
        return {name: data[name] for name in ("rollout_logits", "train_logits", "token_ids")}


def test_against_mpmath(real: dict[str, np.ndarray]) -> None:
    x = real["rollout_logits"][:12]
    with mp.workdps(50):
        for min_p in (1e-8, 1e-3, 0.3):
            found = prune(x, min_p)
            for i, row in enumerate(x):
                weights = [mp.exp(mp.mpf(float(v))) for v in row]
                total, largest = mp.fsum(weights), max(weights)
                keep = [w >= mp.mpf(min_p) * largest for w in weights]
                lost = mp.fsum(w for w, k in zip(weights, keep, strict=True) if not k) / total
                assert found.kept[i].tolist() == keep
                assert found.n_kept[i] == sum(keep)
                assert found.pruned_mass[i] == pytest.approx(float(lost), rel=1e-13)
                assert found.log_kept[i] == pytest.approx(float(mp.log(1 - lost)), rel=1e-13)


def test_pruned_rows_by_their_divergences(real: dict[str, np.ndarray]) -> None:
    """TV and KL of the pruned against the full row, as any two policies are compared."""
    found = prune(real["rollout_logits"], 1e-2)
    check = divergences(found.logits, real["rollout_logits"])
    np.testing.assert_allclose(found.tv, check.tv, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.kl, check.kl, rtol=1e-10, atol=1e-15)


def test_a_lower_threshold_keeps_more(real: dict[str, np.ndarray]) -> None:
    thresholds = [1.0, 0.3, 1e-2, 1e-5, 1e-30]
    masses = [prune(real["rollout_logits"], value).pruned_mass for value in thresholds]
    for larger, smaller in pairwise(masses):
        assert (larger >= smaller).all()
    assert (masses[-1] == 0).all()
    assert (prune(real["train_logits"], 1.0).n_kept == 1).all()


def test_ties_and_excluded_tokens() -> None:
    x = np.array([[0.0, 0.0, -np.inf], [-1000.0, 0.0, -np.inf]])
    found = prune(x, 1.0)
    assert found.kept.tolist() == [[True, True, False], [False, True, False]]
    assert found.pruned_mass.tolist() == [0.0, 0.0]
    assert np.isneginf(found.logits[1, 0])


def test_a_set_of_hardly_any_mass() -> None:
    found = restrict(np.array([[0.0, -800.0, -801.0]]), np.array([[False, True, True]]))
    assert found.pruned_mass[0] == 1
    assert found.log_kept[0] == pytest.approx(-800 + np.log1p(np.exp(-1)), rel=1e-15)


def test_namespaces_agree(xp: ModuleType, real: dict[str, np.ndarray]) -> None:
    x, y = (real[name][:8].astype(float) for name in ("rollout_logits", "train_logits"))
    for sets in ("rollout", "own"):
        plain = prune_pair(x, y, 0.05, sets=sets)
        other = prune_pair(xp.asarray(x), xp.asarray(y), 0.05, sets=sets)
        assert type(other.after.tv) is type(xp.asarray(x))
        pairs = [
            (other.rollout.pruned_mass, plain.rollout.pruned_mass),
            (other.train.log_kept, plain.train.log_kept),
            (other.after.tv, plain.after.tv),
            (other.absolutely_continuous, plain.absolutely_continuous),
        ]
        for ours, expected in pairs:
            values = [float(ours[i]) for i in range(8)]
            np.testing.assert_allclose(values, expected.astype(float), rtol=1e-10, atol=1e-16)


def test_a_common_set_keeps_support_and_its_laws(real: dict[str, np.ndarray]) -> None:
    pair = prune_pair(real["rollout_logits"], real["train_logits"], 1e-2)
    assert pair.absolutely_continuous.all()
    assert (pair.rollout.kept == pair.train.kept).all()
    assert (pair.after.unsupported_mass == 0).all()
    case = PruningCase(kl=pair.before.kl, pruned_mass=pair.rollout.pruned_mass)
    assert (pair.after.kl <= get_law("common_set_kl").evaluate(case) * (1 + 1e-9)).all()
    smaller = np.minimum(pair.rollout.pruned_mass, pair.train.pruned_mass)
    case = PruningCase(tv=pair.before.tv, pruned_mass=smaller)
    assert (pair.after.tv <= get_law("common_set_tv").evaluate(case) * (1 + 1e-9)).all()


def test_own_sets_can_break_absolute_continuity() -> None:
    rollout = np.log([[0.90, 0.095, 0.005], [0.9, 0.05, 0.05], [0.8, 0.19, 0.01]])
    train = np.log([[0.90, 0.080, 0.020], [0.9, 0.05, 0.05], [0.8, 0.01, 0.19]])
    pair = prune_pair(rollout, train, 0.02, sets="own")
    assert pair.absolutely_continuous.tolist() == [False, True, False]
    assert pair.after.unsupported_mass[0] == pytest.approx(0.02)
    assert np.isinf(pair.after.chi2[[0, 2]]).all()
    assert (pair.absolutely_continuous == (pair.after.unsupported_mass == 0)).all()
    # The rollout policy has mass that the training policy lost: the other direction of KL.
    assert np.isinf(pair.after.kl[2])
    assert np.isfinite(pair.after.kl[:2]).all()


def test_sweep_against_row_by_row(real: dict[str, np.ndarray]) -> None:
    x, y, ids = real["rollout_logits"], real["train_logits"], real["token_ids"]
    rows = sweep(x, y, [1e-3, 0.1], token_ids=ids, T=64)
    assert [row.min_p for row in rows] == [1e-3, 0.1]
    for row in rows:
        pair = prune_pair(x, y, row.min_p)
        mass = pair.rollout.pruned_mass
        assert row.n_rows == len(ids)
        assert row.n_kept == pytest.approx(pair.rollout.n_kept.mean())
        assert row.pruned_mass.value == pytest.approx(mass.mean(), rel=1e-12)
        assert row.pruned_mass.standard_error == pytest.approx(
            mass.std(ddof=1) / np.sqrt(len(ids)), rel=1e-9
        )
        assert row.pruned_mass_max == pytest.approx(mass.max(), rel=1e-14)
        assert row.pruned_mass_max <= row.pruned_mass_limit
        assert row.sequence_union == pytest.approx(64 * mass.mean(), rel=1e-12)
        assert row.sequence_horizon == pytest.approx(1 - (1 - mass.max()) ** 64, rel=1e-9)
        assert row.not_absolutely_continuous == 0
        for name in ("kl", "tv", "chi2"):
            before = getattr(row.before, name).value
            after = getattr(row.after, name).value
            assert before == pytest.approx(getattr(pair.before, name).mean(), rel=1e-12)
            assert after == pytest.approx(getattr(pair.after, name).mean(), rel=1e-12)
            assert row.removed(name) == pytest.approx(1 - after / before)
        full, pruned = slow_mismatch(x, y, ids, pair.rollout.kept)
        assert row.sampled_pruned == pytest.approx(1 - len(pruned) / len(full))
        assert row.before.abs_mismatch.value == pytest.approx(np.mean(full), rel=1e-9)
        assert row.after.abs_mismatch.value == pytest.approx(np.mean(pruned), rel=1e-9)
        assert row.after.abs_mismatch_max == pytest.approx(np.max(pruned), rel=1e-9)


@pytest.mark.parametrize("sets", ["rollout", "own"])
def test_sweep_of_a_large_vocabulary_at_any_order_of_thresholds(sets: Any) -> None:
    """What a threshold prunes does not depend on the ones before it; masses are exact sums."""
    rng = np.random.default_rng(21)
    x = 3.0 * rng.normal(size=(3, 20_000))
    x[1] *= 3.0
    y = x + 0.1 * rng.normal(size=x.shape)
    x[2, 100:200] = -np.inf
    y[2, 150:300] = -np.inf
    ids = np.array([int(row.argmax()) for row in x])
    thresholds = [1e-2, 1e-9, 0.3, 1e-4, 1e-4, 1.0]
    for row, min_p in zip(
        sweep(x, y, thresholds, token_ids=ids, sets=sets), thresholds, strict=True
    ):
        pair = prune_pair(x, y, min_p, sets=sets)
        assert row.min_p == min_p
        assert row.n_kept == pair.rollout.n_kept.mean()
        for name in ("kl", "tv", "chi2"):
            expected = getattr(pair.after, name)
            assert getattr(row.after, name).value == pytest.approx(expected.mean(), rel=1e-10)
        continuous = pair.absolutely_continuous.mean()
        assert row.not_absolutely_continuous == pytest.approx(1.0 - continuous)
        for found, logits, kept in (
            (row.pruned_mass, x, pair.rollout.kept),
            (row.train_pruned_mass, y, pair.train.kept),
        ):
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            exact = [math.fsum(w[~k]) / math.fsum(w) for w, k in zip(weights, kept, strict=True)]
            assert found.value == pytest.approx(math.fsum(exact) / 3, rel=1e-14)
        kept = [
            k[i] and t[i] for k, t, i in zip(pair.rollout.kept, pair.train.kept, ids, strict=True)
        ]
        assert row.sampled_pruned == pytest.approx(1.0 - np.mean(kept))


def slow_mismatch(x, y, ids, kept) -> tuple[list[float], list[float]]:
    full, pruned = [], []
    for i, k in enumerate(ids):
        mu, pi = (np.exp(np.float64(z[i]) - np.float64(z[i]).max()) for z in (x, y))
        full.append(abs(np.log(pi[k] / pi.sum()) - np.log(mu[k] / mu.sum())))
        if kept[i, k]:
            inside = kept[i]
            value = np.log(pi[k] / pi[inside].sum()) - np.log(mu[k] / mu[inside].sum())
            pruned.append(abs(value))
    return full, pruned


def test_sweep_in_blocks_is_the_same(
    real: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, ids = real["rollout_logits"], real["train_logits"], real["token_ids"]
    whole = sweep(x, y, [0.01], token_ids=ids, sets="own")
    monkeypatch.setattr("trbounds.pruning.trade._BLOCK", 257 * 7)
    blocks = sweep(x, y, [0.01], token_ids=ids, sets="own")
    # The tokens that stay, hence the order of the sums, differ from block to block.
    for one, other in zip(numbers(asdict(whole[0])), numbers(asdict(blocks[0])), strict=True):
        assert one == pytest.approx(other, rel=1e-13, nan_ok=True)


def numbers(document: dict[str, Any]) -> Iterator[float]:
    for value in document.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif not isinstance(value, str):
            yield float(value if value is not None else math.nan)


def test_a_sampled_token_stays_if_both_policies_keep_it() -> None:
    rollout = np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    train = np.log([[0.8, 0.02, 0.18], [0.5, 0.4, 0.1]])
    ids = [1, 1]
    for sets, pruned in (("rollout", 0.0), ("own", 0.5)):
        (row,) = sweep(rollout, train, [0.1], token_ids=np.array(ids), sets=sets)
        assert row.sampled_pruned == pruned
    assert row.after.abs_mismatch.value == pytest.approx(abs(math.log(0.4 / 0.3)))


def test_no_sampled_token_stays() -> None:
    x = np.log([[0.9, 0.1], [0.8, 0.2]])
    (row,) = sweep(x, x, [0.5], token_ids=np.array([1, 1]))
    assert row.sampled_pruned == 1.0
    assert math.isnan(row.after.abs_mismatch.value)
    assert math.isnan(row.after.abs_mismatch_max)
    assert row.before.abs_mismatch_max == 0.0


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trbounds.pruning.trade._BLOCK", 1 << 11)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8000, 8))
    y = x + 0.1 * rng.normal(size=x.shape)
    ids = rng.integers(0, 8, 8000)
    peaks = []
    for n in (1000, 1000, 8000):  # the first fills caches
        tracemalloc.start()
        sweep(x[:n], y[:n], [0.01, 0.1, 0.5], token_ids=ids[:n])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_a_standard_error_beyond_float64_is_infinite() -> None:
    x = np.array([[0.0, -600.0], [0.0, 1.0]])
    y = np.array([[0.0, 1.0], [0.0, 1.0]])
    (row,) = sweep(x, y, [1e-5])
    assert row.before.chi2.value > 1e250
    assert row.before.chi2.standard_error == math.inf


def test_sweep_without_samples_or_horizon(real: dict[str, np.ndarray]) -> None:
    (row,) = sweep(real["rollout_logits"], real["train_logits"], [0.5])
    assert row.sampled_pruned is row.sequence_union is row.sequence_horizon is None
    assert row.after.abs_mismatch is None
    with pytest.raises(InputError, match="token ids"):
        row.removed("abs_mismatch")


@pytest.mark.parametrize("min_p", [0.0, -1.0, 1.5, float("nan"), True])
def test_thresholds_out_of_range(min_p: float) -> None:
    with pytest.raises(InputError, match=r"field 'min_p': .*expected a number"):
        safe_set(np.zeros((1, 3)), min_p)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prune(np.array([[0.0, np.nan]]), 0.5), "record 0, .*NaN"),
        (lambda: prune(np.array([[0.0, np.inf]]), 0.5), "inf"),
        (lambda: prune(np.array([[0.0, 1.0], [-np.inf, -np.inf]]), 0.5), "record 1, .*all logits"),
        (lambda: restrict(np.zeros((1, 2)), np.ones((1, 3), dtype=bool)), "field 'kept'"),
        (lambda: restrict(np.zeros((1, 2)), np.zeros((1, 2), dtype=bool)), "no probability"),
        (
            lambda: prune_pair(np.array([[0.0, -9.0]]), np.array([[-np.inf, 0.0]]), 0.5),
            "field 'train_logits': the policy gives the set no probability",
        ),
        (lambda: prune_pair(np.zeros((1, 2)), np.zeros((1, 2)), 0.5, sets="both"), "'sets'"),
        (
            lambda: prune_pair(np.array([[0.0, np.nan]]), np.zeros((1, 2)), 0.5),
            "record 0, field 'rollout_logits'",
        ),
        (lambda: prune_pair(np.zeros((2, 3)), np.zeros((4, 3)), 0.5), "field 'train_logits'"),
        (lambda: sweep(np.zeros((1, 2)), np.zeros((1, 3)), [0.5]), "field 'train_logits'"),
        (lambda: sweep(np.zeros((0, 2)), np.zeros((0, 2)), [0.5]), "n at least 1"),
        (lambda: sweep(np.zeros((1, 2)), np.zeros((1, 2)), []), "at least one threshold"),
        (
            lambda: sweep(np.zeros((1, 2)), np.zeros((1, 2)), [0.5], token_ids=np.array([0, 1])),
            "field 'token_ids'",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_bad_row_of_a_later_block_is_named() -> None:
    """More rows than one block: the record counts from the start."""
    logits = np.zeros((600, 1000))
    broken = logits.copy()
    broken[577, 3] = np.nan
    with pytest.raises(InputError) as caught:
        sweep(logits, broken, [0.1])
    assert (caught.value.record, caught.value.field) == (577, "train_logits")
    with pytest.raises(InputError) as caught:
        sweep(broken, logits, [0.1])
    assert (caught.value.record, caught.value.field) == (577, "rollout_logits")


def test_a_file_is_swept_like_its_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(500, 1000)).astype(np.float16)
    y = (x + rng.normal(size=x.shape)).astype(np.float32)
    ids = rng.integers(0, 1000, 500)
    np.savez(tmp_path / "a.npz", rollout_logits=x.astype(np.float32), train_logits=y, token_ids=ids)
    done: list[int] = []
    file = read_logits(tmp_path / "a.npz")
    found = sweep_file(file, [0.05, 0.5], T=9, sets="own", on_progress=done.append)
    direct = sweep(x, y, [0.05, 0.5], token_ids=ids, T=9, sets="own")
    assert repr(found) == repr(direct)  # as text, in which NaN equals NaN
    assert done == [262, 500]


def test_sweep_takes_token_ids_as_a_list(real: dict[str, np.ndarray]) -> None:
    x, y, ids = real["rollout_logits"], real["train_logits"], real["token_ids"]
    listed = sweep(x, y, [0.1], token_ids=ids.tolist())
    assert repr(listed) == repr(sweep(x, y, [0.1], token_ids=ids))


def test_sweep_takes_arrays_of_any_namespace(xp: ModuleType, real: dict[str, np.ndarray]) -> None:
    x, y, ids = real["rollout_logits"], real["train_logits"], real["token_ids"]
    expected = sweep(x, y, [0.01, 0.2], token_ids=ids)
    found = sweep(xp.asarray(x), xp.asarray(y), [0.01, 0.2], token_ids=ids)
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(numbers(asdict(one)), numbers(asdict(other)), strict=True):
            assert a == pytest.approx(b, rel=1e-12, nan_ok=True)
