"""What an assessment says of a value, and the ends of the range of floats."""

from __future__ import annotations

import warnings
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from trbounds.bound import largest_surrogate_gain
from trbounds.bounds import all_bounds, assess_all, best_bound, get_bound
from trbounds.errors import InputError
from trbounds.oracle import TabularPair, exact
from trbounds.profile import FIELDS, POSITION_FIELDS, DivergenceProfile, Provenance
from trbounds.special import entropy_dual_gain

ESTIMATED = Provenance("estimated", standard_error=1e-4)


def test_a_value_that_uses_an_estimate_is_plug_in() -> None:
    """Also where the field is not required, only used if known."""
    known = {"T": 3, "tv_max": 0.3, "tv_mean": [0.3] * 3}
    prefix = get_bound("prefix_profile")
    assert not prefix.assess(DivergenceProfile(**known)).plug_in
    used = DivergenceProfile(**known, kl_mean=[1e-3] * 3, provenance={"kl_mean": ESTIMATED})
    assert prefix.assess(used).value < prefix.evaluate(DivergenceProfile(**known))
    assert prefix.assess(used).plug_in
    given = {"T": 3, "kl_max": 0.5, "tv_max": 0.5, "kl_seq": 1.0, "tv_seq": 0.6}
    unified = get_bound("unified")
    assert not unified.assess(DivergenceProfile(**given)).plug_in
    used = DivergenceProfile(**given, tv_mean=[1e-3] * 3, provenance={"tv_mean": ESTIMATED})
    assert unified.assess(used).plug_in


def test_large_batches_take_into_account_what_is_only_used_if_known() -> None:
    def formula(p: DivergenceProfile) -> Any:
        return p.T * p.tv_max if p.log_ratio_max is None else p.log_ratio_max + 0 * p.tv_max

    bound = replace(get_bound("linear"), uses=("log_ratio_max",), formula=formula, relaxed=None)
    tv = np.full((40_000, 2), 0.5)
    np.testing.assert_array_equal(bound.evaluate(DivergenceProfile(T=8, tv_max=tv)), 4.0)
    known = DivergenceProfile(T=8, tv_max=tv, log_ratio_max=0.25)
    np.testing.assert_array_equal(bound.evaluate(known), 0.25)


def test_an_assessment_halves_what_centring_halves_and_compares_strictly() -> None:
    linear, coupling = get_bound("linear"), get_bound("coupling_sharp")
    profile = DivergenceProfile(T=1, tv_max=0.25, reward_range=(0, 2))
    found = linear.assess(profile)
    assert (found.value, found.centred_value, found.informative) == (2.0, 1.0, False)
    small = linear.assess(DivergenceProfile(T=1, tv_max=0.2))
    assert (small.informative, small.relaxed_value) == (True, None)
    ours = coupling.assess(DivergenceProfile(T=3, tv_max=0.1))
    assert ours.centred_value == ours.value
    mixed = get_bound("mixed").assess(
        DivergenceProfile(T=4, kl_max=1e-4, kl_seq=1e-4, reward_range=(0, 2))
    )
    assert mixed.relaxed_value == pytest.approx(mixed.value, rel=1e-14)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("key", all_bounds())
def test_empty_batches_give_empty_values(key: str, shape: tuple[int, ...]) -> None:
    fields = {name: np.empty(shape) for name in FIELDS if name not in POSITION_FIELDS}
    fields |= {name: np.empty((*shape, 4)) for name in POSITION_FIELDS}
    value = get_bound(key).assess(DivergenceProfile(T=4, **fields)).value
    assert value.shape == shape
    few = DivergenceProfile(T=4, kl_max=np.empty(shape)).complete()
    assert few.tv_max.shape == shape


@pytest.mark.parametrize("key", all_bounds())
def test_the_two_facts_do_not_depend_on_the_unit_of_the_reward(key: str) -> None:
    bound = get_bound(key)
    kl = np.geomspace(1e-12, 10, 60)
    fields = {"T": 64, "kl_max": kl, "chi2_max": 2 * kl, "residual_square": kl**2}
    fields |= {"chi2_stop_budget": kl, "chi2_stop_prob": kl / 10, "chi2_stop_tail": kl}
    spread = {name: np.repeat(kl[:, None], 64, axis=1) for name in ("kl_mean", "chi2_mean")}
    fields |= spread | {"chi2_position_max": 2 * spread["kl_mean"]}
    unit = bound.assess(DivergenceProfile(**fields, reward_var=0.2))
    wide = bound.assess(DivergenceProfile(**fields, reward_var=20.0, reward_range=(-4, 6)))
    np.testing.assert_array_equal(unit.informative, unit.value < 1)
    np.testing.assert_array_equal(wide.informative, unit.informative)
    np.testing.assert_array_equal(wide.can_certify, unit.can_certify)
    gain = entropy_dual_gain(64 * kl, 0.2)
    np.testing.assert_array_equal(unit.can_certify, unit.value < gain)
    largest = largest_surrogate_gain(DivergenceProfile(T=64, kl_max=kl, reward_var=0.2))
    np.testing.assert_allclose(largest, gain, rtol=1e-14)


def test_the_width_of_the_reward_range_bounds_neither_the_error_nor_the_surrogate() -> None:
    coin, bent = np.array([0.5, 0.5]), np.array([0.97, 0.03])
    tables = ([np.tile(row, (1, 2**t, 1)) for t in range(10)] for row in (coin, bent))
    pair = TabularPair(*tables, reward=np.zeros((1, 2**10)))
    assert exact(pair).sup_error > 1.6
    mostly_zeros = np.array([[float(f"{y:010b}".count("0") > 5) for y in range(2**10)]])
    assert exact(pair.with_reward(mostly_zeros)).surrogate > 1.1


def test_classical_keeps_its_digits_where_the_square_underflows() -> None:
    for eps in (1e-150, 1e-158, 1e-161):
        T = 10**9
        expected = float(2 * T * (T - 1) * Fraction(eps) ** 2)
        value = get_bound("classical").evaluate(DivergenceProfile(T=T, tv_max=eps))
        assert value == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize("key", [k for k, b in all_bounds().items() if "reward_var" in b.requires])
def test_a_reward_without_variance_is_no_number_times_infinity(key: str) -> None:
    fields = {name: 1e3 for name in FIELDS if name.startswith(("chi2", "kl"))}
    fields |= {name: np.full(999, 1e3) for name in POSITION_FIELDS if name.startswith("chi2")}
    fields |= {"kl_mean": np.full(999, 1.0), "chi2_stop_prob": 0.1, "residual_square": 1e300}
    found = [
        get_bound(key).evaluate(DivergenceProfile(T=999, **fields, reward_var=v))
        for v in (0.0, 1e-300, 0.25)
    ]
    assert found == sorted(found)
    assert not np.isnan(found).any()


def test_the_largest_divergences_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profile = DivergenceProfile(T=1, kl_max=1e308)
        assert float(largest_surrogate_gain(profile)) == 1e308
        for key, bound in all_bounds().items():
            if not bound.missing(profile.complete()):
                assert bound.assess(profile).value >= 0, key


def test_every_bound_that_a_profile_allows_and_the_smallest_of_them() -> None:
    known = {"T": 4096, "kl_max": 1e-4, "kl_seq": 0.01}
    found = assess_all(DivergenceProfile(**known))
    completed = DivergenceProfile(**known).complete()
    allowed = [key for key, bound in all_bounds().items() if not bound.missing(completed)]
    assert list(found) == allowed
    best = best_bound(DivergenceProfile(**known))
    assert best == found[best.bound.key]
    assert best.value == min(assessment.value for assessment in found.values())


def test_a_batch_has_no_single_best_bound() -> None:
    batch = DivergenceProfile(T=8, kl_max=[1e-4, 1e-2], kl_seq=[1e-5, 0.3])
    assert all(found.value.shape == (2,) for found in assess_all(batch).values())
    with pytest.raises(InputError, match="batch of profiles"):
        best_bound(batch)
    for function in (assess_all, best_bound):
        with pytest.raises(InputError, match="no bound can be evaluated from log_ratio_max"):
            function(DivergenceProfile(T=8, log_ratio_max=1.0))
