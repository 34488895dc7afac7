"""The profile: validation, provenance, relations."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds.mismatch import profile_from_logit_error
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
from trbounds.symbolic import SYMBOLS


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
        ({"T": 4, "kl_mean": 0.1}, "field 'kl_mean': found one number for all positions, expected"),
        ({"T": 4, "kl_mean": [0.1] * 3}, "found 3 positions, expected .* length T = 4$"),
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
        ({"T": 4, "kl_max": [1.0, "x"]}, r"field 'kl_max': found \[1.0, 'x'\], expected a number"),
        (
            {"T": 2, "kl_mean": ["1", "2"]},
            r"field 'kl_mean': found \['1', '2'\], expected a number",
        ),
        ({"T": 2, "kl_mean": [[1, 2], [3]]}, "expected a number or an array of numbers"),
        ({"T": 2, "kl_max": np.array([1j])}, "field 'kl_max': found .*, expected a number"),
        (
            {"T": 2, "tv_mean": np.array([True, False])},
            "field 'tv_mean': found .*, expected a number",
        ),
        ({"T": 2, "kl_max": 10**400}, "field 'kl_max': found 1000.*, expected a number"),
        ({"T": None}, "field 'T': found None, expected a number"),
        ({"T": True}, "field 'T': found True, expected a number"),
        ({"T": 2**54}, r"expected a whole number from 1 to 2\^53"),
        ({"T": 4, "chi2_stop_prob": 1.5}, "found 1.5, expected a number of at most 1"),
        ({"T": 4, "reward_var": 0.25 + 1e-9}, "expected at most a quarter"),
        ({"T": 4, "reward_range": (-1e308, 1e308)}, "expected two numbers, .* 1e-150 to 1e150"),
        ({"T": 4, "reward_range": (0.0, 1e200)}, "expected two numbers, .* 1e-150 to 1e150"),
        ({"T": 4, "reward_range": (0.0, 1e-200)}, "expected two numbers, .* 1e-150 to 1e150"),
    ],
)
def test_bad_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DivergenceProfile(**fields)


@pytest.mark.parametrize("width", [1e-150, 1e150])
def test_bounds_scale_to_the_ends_of_the_reward_widths(width: float) -> None:
    known = {"kl_max": 0.01, "chi2_max": 0.02}
    for bound in all_bounds().values():
        if not bound.missing(DivergenceProfile(T=5, **known).complete()):
            expected = bound.evaluate(DivergenceProfile(T=5, **known))
            found = bound.evaluate(DivergenceProfile(T=5, **known, reward_range=(0.0, width)))
            assert found == pytest.approx(expected * width, rel=1e-12), bound.key


def test_rounding_of_the_largest_variance_is_accepted() -> None:
    assert DivergenceProfile(T=4, reward_var=0.25 * (1 + 1e-15)).reward_var > 0.25


@pytest.mark.parametrize(
    ("horizon", "message"),
    [
        (10**9, "found 1000000000, expected one horizon of at most 10,000,000"),
        ([3, 4], "expected one horizon of at most"),
        ("3", "found '3', expected a number"),
        (3.5, "expected a whole number"),
    ],
)
def test_uniform_takes_one_horizon(horizon: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"field 'T': .*{message}"):
        DivergenceProfile.uniform(horizon, kl_max=1e-3)


def test_only_fields_can_be_wanted() -> None:
    with pytest.raises(InputError, match="field 'wanted': found 'klmax', expected one of tv_max"):
        DivergenceProfile(T=4, kl_max=1.0).complete("klmax")


def test_a_value_is_given_derived_estimated_or_observed() -> None:
    """A kind that is not known could pass for one that is certain."""
    with pytest.raises(InputError, match="found 'measured', expected one of given, derived"):
        Provenance("measured")  # type: ignore[arg-type]
    kinds = ("given", "derived", "estimated", "observed")
    assert [Provenance(kind).plug_in for kind in kinds] == [False, False, True, True]


def test_profiles_show_what_is_known() -> None:
    assert repr(DivergenceProfile(T=8, kl_max=1e-4)) == "DivergenceProfile(T=8, kl_max=0.0001)"
    profile = DivergenceProfile.uniform(
        1000, kl_max=[0.5, 0.25], reward_range=(-1, 1), conversion="sharp"
    )
    shown = repr(profile)
    assert shown.startswith("DivergenceProfile(T=1000, kl_max=[0.5 , 0.25], kl_mean=[[0.5")
    assert shown.endswith("reward_range=(-1.0, 1.0), conversion='sharp')")
    assert len(shown) < 300


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_profiles_can_be_copied_and_sent(duplicate: Callable[[Any], Any]) -> None:
    profile = DivergenceProfile(
        T=8,
        kl_max=np.float32([0.1, 0.2]),
        reward_range=(0, 2),
        conversion="sharp",
        provenance={"kl_max": Provenance("observed")},
    ).complete()
    found = duplicate(profile)
    assert repr(found) == repr(profile)
    assert found.provenance == profile.provenance
    assert found.dtype == profile.dtype
    with pytest.raises(TypeError):
        found.provenance["kl_max"] = Provenance("given")


def test_given_values_win_over_derived_ones() -> None:
    profile = DivergenceProfile(T=100, kl_max=1e-4, kl_seq=5.0).complete()
    assert profile.kl_seq == 5.0
    assert profile.provenance["kl_seq"].kind == "given"
    assert profile.provenance["tv_max"] == Provenance("derived", by="tv_max <= TV(kl_max)")


def test_a_maximum_derived_from_positions_limits_means() -> None:
    complete = DivergenceProfile(T=2, kl_mean=[0.5, 0.0], chi2_position_max=[0.04, 0.0]).complete()
    assert complete.tv_max == pytest.approx(0.1)
    assert complete.tv_mean.tolist() == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("field", ["kl_max", "chi2_max", "kl_seq", "kl_path_max", "chi2_total"])
def test_what_overflows_is_left_unknown(field: str) -> None:
    largest = float(np.finfo(np.float64).max)
    for value in (largest, np.array([0.5, largest])):
        complete = DivergenceProfile(T=4096, **{field: value}).complete()
        assert field in complete.known
        assert all(np.isfinite(getattr(complete, name)).all() for name in complete.known)
    half = DivergenceProfile(T=2, kl_max=largest / 4).complete()
    assert half.kl_seq == largest / 2


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


def test_only_the_relation_that_was_taken_decides_what_rests_on_estimates() -> None:
    known = {"T": 8, "kl_max": 1e-6, "provenance": {"kl_seq": Provenance("estimated")}}
    loose, tight = (DivergenceProfile(**known, kl_seq=D).complete() for D in (0.5, 1e-9))
    assert loose.provenance["tv_seq"] == Provenance("derived", by="tv_seq <= 1 - (1 - tv_max)^T")
    assert tight.provenance["tv_seq"].plug_in


def test_the_tv_of_sequences_is_at_most_one() -> None:
    assert DivergenceProfile(T=8, tv_total=3.0).complete("tv_seq").tv_seq == 1
    assert DivergenceProfile(T=8, tv_max=1.0).complete("tv_seq").tv_seq == 1


@pytest.mark.parametrize("kl_seq", [0.0, 0.3, 0.5, 1.7, 2.5, 9.0])
def test_the_largest_position_moment_is_that_of_a_linear_program(kl_seq: float) -> None:
    T, kl_max = 5, 0.5
    profile = DivergenceProfile(T=T, kl_max=kl_max, kl_seq=kl_seq).complete("kl_position_moment")
    best = linprog(-np.arange(T), A_ub=np.ones((1, T)), b_ub=[kl_seq], bounds=(0, kl_max))
    assert profile.kl_position_moment == pytest.approx(-best.fun, abs=1e-12)


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
    assert not profile.provenance["kl_mean"].plug_in


def test_uniform_keeps_what_is_given_and_what_rests_on_samples() -> None:
    profile = DivergenceProfile.uniform(
        2,
        tv_max=0.5,
        tv_mean=[0.1, 0.2],
        kl_max=0.3,
        provenance={"kl_max": Provenance("observed")},
    )
    np.testing.assert_array_equal(profile.tv_mean, [0.1, 0.2])
    assert profile.provenance["tv_mean"].kind == "given"
    assert profile.provenance["kl_mean"].plug_in


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


def test_every_field_is_declared_and_has_a_symbol() -> None:
    optional = {f.name for f in dataclass_fields(DivergenceProfile) if f.default is None}
    assert optional - {"dtype"} == set(FIELDS)
    assert set(SYMBOLS) == {"T", *FIELDS}
    assert set(POSITION_FIELDS) <= set(FIELDS)


@pytest.mark.parametrize("changes", [{"kl_max": 0.1}, {"conversion": "sharp"}, {"T": 80}])
def test_what_follows_from_a_replaced_value_is_derived_anew(changes: dict[str, Any]) -> None:
    # It stayed as it was: bounds were too small by any factor.
    known: dict[str, Any] = {"T": 10, "kl_max": 1e-4}
    found = DivergenceProfile(**known).complete().with_values(**changes).complete()
    expected = DivergenceProfile(**(known | changes)).complete()
    assert found.known == expected.known
    for name in expected.known:
        assert getattr(found, name) == getattr(expected, name), name


def test_what_no_relation_gave_outlives_a_replaced_value() -> None:
    found = profile_from_logit_error(0.01, 10).with_values(reward_var=0.1)
    assert found.kl_max == 0.01**2 / 2
    assert found.provenance["kl_max"].by.startswith("kl_max <= a^2/2")
    assert DivergenceProfile.uniform(3, kl_max=0.1).with_values(tv_seq=0.5).kl_mean is not None
