"""Inverted bounds."""

from __future__ import annotations

import math

import pytest

from trbounds.bound import largest_surrogate_gain
from trbounds.bounds import get_bound
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds.solve import certifiable_radius, largest_divergence, solvable_profile, uniform_profile


@pytest.mark.parametrize(
    ("key", "radius"),
    [
        ("pinsker_marginal", 1.7036e-8),
        ("mixed", 7.529e-9),
        ("cauchy_schwarz", 6.14e-8),
        ("entropy_dual_second_order", 5.96e-8),
        ("chi2_second_order", 3.7587e-4),
        ("path_sum_kl", 1.4536e-5),
    ],
)
def test_certifiable_radius_at_4096(key: str, radius: float) -> None:
    assert certifiable_radius(get_bound(key), 4096) == pytest.approx(radius, rel=2e-3)


@pytest.mark.parametrize("key", ["linear", "triangle", "martingale", "entropy_dual"])
def test_first_order_bounds_never_certify(key: str) -> None:
    assert certifiable_radius(get_bound(key), 4096) == 0


@pytest.mark.parametrize("key", ["pinsker_marginal", "chi2_second_order", "path_sum_kl"])
def test_the_radius_separates(key: str) -> None:
    bound, T = get_bound(key), 512
    radius = certifiable_radius(bound, T)
    for factor, certifies in ((1 - 1e-9, True), (1 + 1e-9, False)):
        profile = uniform_profile(T, radius * factor, chi2_per_kl=2.0)
        assert (bound.evaluate(profile) < largest_surrogate_gain(profile)) is certifies
        assert bound.assess(profile).can_certify is certifies


@pytest.mark.parametrize("key", ["classical", "pinsker_marginal", "mixed", "entropy_dual"])
@pytest.mark.parametrize("budget", [1e-6, 0.1, 0.9])
def test_a_budget_is_met_exactly(key: str, budget: float) -> None:
    bound = get_bound(key)
    found = largest_divergence(
        bound, lambda x: solvable_profile(8192, "kl_max", x, {}, "pinsker"), budget
    )
    value = bound.evaluate(DivergenceProfile(T=8192, kl_max=found))
    assert value == pytest.approx(budget, rel=1e-9)


def test_a_bound_that_never_leaves_the_budget() -> None:
    found = largest_divergence(
        get_bound("coupling"), lambda x: DivergenceProfile(T=1, tv_max=x), 0.5, largest=1.0
    )
    assert math.isinf(found)


def test_closed_form_inverse() -> None:
    """classical: 2 T (T-1) eps^2 = budget."""
    found = largest_divergence(
        get_bound("classical"), lambda x: DivergenceProfile(T=100, tv_max=x), 0.02, largest=1.0
    )
    assert found == pytest.approx(math.sqrt(0.02 / (2 * 100 * 99)), rel=1e-10)


def test_uniform_profiles_assume_what_is_not_known() -> None:
    assert uniform_profile(8, 0.1).chi2_max is None
    assert uniform_profile(8, 0.1, chi2_per_kl=3.0).chi2_max == pytest.approx(0.3)
    assert uniform_profile(8, 0.1, chi2_per_kl=3.0, chi2_max=0.5).chi2_max == 0.5
    long = uniform_profile(10**7, 0.1, conversion="sharp")
    assert (long.kl_mean, long.conversion) == (None, "sharp")
    assert solvable_profile(8, "tv_max", 0.5, {"kl_max": 0.1}, "pinsker").tv_mean.shape == (8,)


def test_bad_questions() -> None:
    bound = get_bound("classical")
    with pytest.raises(InputError, match="budget"):
        largest_divergence(bound, lambda x: DivergenceProfile(T=8, tv_max=x), 0.0)
    with pytest.raises(InputError, match="expected one of kl_max"):
        solvable_profile(8, "entropy", 1.0, {}, "pinsker")
    with pytest.raises(InputError, match="needs"):
        largest_divergence(
            get_bound("chi2_second_order"), lambda x: DivergenceProfile(T=8, kl_max=x), 0.1
        )


def test_path_sums_certify_far_beyond_the_papers() -> None:
    ours, papers = (
        certifiable_radius(get_bound(key), 256) for key in ("path_sum_chi2", "pinsker_marginal")
    )
    assert ours > 100 * papers
