"""The profile: validation, provenance, relations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trbounds.errors import InputError
from trbounds.oracle import (
    TabularPair,
    exact,
    profile_of,
    random_pair,
    two_step_tight,
    two_valued_ratio,
)
from trbounds.profile import FIELDS, POSITION_FIELDS, Conversion, DivergenceProfile, Provenance
from trbounds.relations import RELATIONS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"T": 0}, "field 'T': found 0, expected a whole number"),
        ({"T": 2.5}, "field 'T': found 2.5"),
        ({"T": 4, "kl_max": -1e-9}, "field 'kl_max': found -1e-09, expected a number of at least"),
        ({"T": 4, "kl_max": float("nan")}, "expected a finite number"),
        ({"T": 4, "chi2_max": float("inf")}, "expected a finite number"),
        ({"T": 4, "tv_max": 1.5}, "field 'tv_max': found 1.5, expected a number of at most 1"),
        ({"T": 4, "kl_mean": [0.1, 0.2]}, "field 'kl_mean': found 2 positions, expected"),
        ({"T": 4, "kl_mean": 0.1}, "field 'kl_mean': found 0 positions"),
        ({"T": 4, "reward_var": 0.3}, "field 'reward_var': found 0.3, expected at most"),
        ({"T": 4, "reward_range": (1.0, 1.0)}, "field 'reward_range': found"),
        ({"T": 4, "conversion": "exact"}, "expected 'pinsker' or 'sharp'"),
        ({"T": 4, "kl_max": "0.1"}, "field 'kl_max': found '0.1', expected a number"),
        ({"T": 4, "reward_range": (0.0, 1.0, 2.0)}, "field 'reward_range': found"),
        ({"T": 4, "reward_range": None}, "field 'reward_range': found None"),
        (
            {"T": 4, "kl_max": [1.0, 2.0, 3.0], "tv_max": [0.1, 0.2]},
            "field 'kl_max': found a batch of shape",
        ),
        (
            {"T": 4, "kl_max": 1.0, "provenance": {"kl_maximum": Provenance("observed")}},
            "field 'provenance': found 'kl_maximum'",
        ),
        ({"T": 4, "kl_max": [1.0, "x"]}, "field 'kl_max': expected a number"),
    ],
)
def test_bad_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DivergenceProfile(**fields)


def test_given_values_win_over_derived_ones() -> None:
    profile = DivergenceProfile(T=100, kl_max=1e-4, kl_seq=5.0).complete()
    assert profile.kl_seq == 5.0
    assert profile.provenance["kl_seq"].kind == "given"
    assert profile.provenance["tv_max"] == Provenance("derived", by="tv_max <= TV(kl_max)")


def test_completion_is_idempotent() -> None:
    once = DivergenceProfile(T=64, kl_max=1e-3, log_ratio_max=0.5).complete()
    twice = once.complete()
    assert twice.known == once.known
    assert all(getattr(once, name) == getattr(twice, name) for name in once.known)


def test_only_what_is_wanted_is_derived() -> None:
    profile = DivergenceProfile(T=64, kl_max=1e-3).complete("tv_seq")
    assert "tv_seq" in profile.known
    assert "kl_path_max" not in DivergenceProfile(T=64, kl_max=1e-3).complete("tv_max").known


def test_plug_in_is_inherited() -> None:
    profile = DivergenceProfile(
        T=8,
        kl_seq=0.1,
        kl_max=0.5,
        provenance={"kl_seq": Provenance("estimated", standard_error=0.01)},
    ).complete()
    assert profile.provenance["tv_seq"].plug_in
    assert not profile.provenance["tv_max"].plug_in
    assert profile.to_dict()["kl_seq"]["standard_error"] == 0.01


def test_relations_are_ordered() -> None:
    """A field is derived before any relation needs it, so that one pass completes a profile."""
    targets = [r.target for r in RELATIONS]
    last = {target: len(targets) - 1 - targets[::-1].index(target) for target in targets}
    for i, relation in enumerate(RELATIONS):
        assert set(relation.needs) <= set(FIELDS)
        assert all(last.get(name, -1) < i for name in relation.needs)


def both_sides(pair: TabularPair, conversion: Conversion) -> Iterator[tuple[str, Any, Any]]:
    """Every relation on the truth: its text, the true value of its target, its right side."""
    truth = exact(pair)
    profile = profile_of(truth)
    true = {name: getattr(profile, name) for name in profile.known}
    true |= {"tv_total": np.sum(profile.tv_mean)}
    if "chi2_mean" in true:
        true |= {"chi2_total": np.sum(true["chi2_mean"])}
    if "kl_mean" in true:
        true |= {"kl_position_moment": np.sum(np.arange(truth.T) * true["kl_mean"])}
    known = DivergenceProfile(T=truth.T, conversion=conversion)
    for relation in RELATIONS:
        if relation.target in true and all(name in true for name in relation.needs):
            yield relation.text, true[relation.target], relation.value(known, true)


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["near", "far", "heavy", "sparse"]))
def test_relations_hold_on_exact_pairs(seed: int, kind: str) -> None:
    pair = random_pair(np.random.default_rng(seed), 3, 3, prompts=2, eos=True, kind=kind)
    for conversion in ("pinsker", "sharp"):
        for text, left, right in both_sides(pair, conversion):
            assert np.all(left <= right * (1 + 1e-9) + 1e-15), text


def test_no_relation_has_room_for_a_smaller_factor() -> None:
    """Equal steps, one step, and a fair coin come within a tenth of every right side."""
    coin = two_step_tight(0.01).with_reward(np.array([[0.0, 0.0, 1.0, 1.0]]))
    rng = np.random.default_rng(1)
    pairs = [two_valued_ratio(0.01, 1), two_valued_ratio(0.01, 3), two_valued_ratio(0.5, 2), coin]
    pairs += [random_pair(rng, 3, 3, kind=kind) for kind in ("heavy", "sparse") for _ in range(20)]
    share = dict.fromkeys((relation.text for relation in RELATIONS), 0.0)
    for pair in pairs:
        for text, left, right in both_sides(pair, "pinsker"):
            assert np.all(left <= right * (1 + 1e-9) + 1e-15), text
            ratio = np.divide(left, right, out=np.zeros(np.shape(right)), where=right > 0)
            share[text] = max(share[text], float(np.max(ratio)))
    assert min(share.values()) > 0.9, min(share, key=share.__getitem__)


def test_uniform_spreads_the_maxima() -> None:
    profile = DivergenceProfile.uniform(16, kl_max=1e-3, chi2_max=2e-3).complete()
    assert float(profile.kl_seq) == pytest.approx(16e-3)
    assert profile.chi2_mean.shape == (16,)
    assert profile.provenance["kl_mean"].kind == "derived"
    with pytest.raises(InputError, match="field 'T'"):
        DivergenceProfile.uniform(10**9, kl_max=1e-3)


def test_batches_broadcast() -> None:
    profile = DivergenceProfile(
        T=np.array([[8.0], [16.0]]), kl_max=np.array([1e-4, 1e-3, 1e-2])
    ).complete()
    assert profile.kl_seq.shape == (2, 3)
    np.testing.assert_allclose(profile.kl_seq[1], 16 * np.array([1e-4, 1e-3, 1e-2]))


def test_with_values_marks_them_given() -> None:
    profile = DivergenceProfile(T=8, kl_max=1e-3).complete().with_values(kl_seq=0.5)
    assert profile.provenance["kl_seq"].kind == "given"
    assert profile.kl_seq == 0.5


def test_position_fields_are_fields() -> None:
    assert set(POSITION_FIELDS) <= set(FIELDS)
