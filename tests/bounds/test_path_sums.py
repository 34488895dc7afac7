"""Path-sum bounds: accuracy, printed values, unimodality, and exact truth on random pairs."""

from __future__ import annotations

from itertools import pairwise

import mpmath
import numpy as np
import pytest

from trbounds.bounds import get_bound
from trbounds.oracle import (
    exact,
    profile_of,
    random_pair,
    stopped_path_fields,
    two_valued_ratio,
)
from trbounds.profile import DivergenceProfile
from trbounds.special import golden_section, root_exp_excess

PAIRS = 2000


def root_excess_reference(x: float) -> mpmath.mpf:
    with mpmath.workdps(900):
        return mpmath.sqrt(mpmath.exp(mpmath.mpf(x)) - 1 - mpmath.mpf(x))


@pytest.mark.parametrize(
    "x", [1e-300, 1e-160, 1e-20, 1e-3, 0.999999, 1.0, 3.0, 50.0, 700.0, 1399.0]
)
def test_path_sum_chi2_against_mpmath(x):
    assert float(root_exp_excess(x)) == pytest.approx(
        float(root_excess_reference(x)), rel=1e-14, abs=0
    )
    for v in (0.25, 1e-8):
        found = get_bound("path_sum_chi2").evaluate(
            DivergenceProfile(T=3, chi2_path_max=x, reward_var=v)
        )
        expected = float(mpmath.sqrt(mpmath.mpf(v)) * root_excess_reference(x))
        assert found == pytest.approx(expected, rel=1e-13, abs=0)


def test_huge_sums_give_infinity_without_warnings():
    chi2, kl = get_bound("path_sum_chi2"), get_bound("path_sum_kl")
    for huge in (1500.0, 1e10, 1e300):
        assert chi2.evaluate(DivergenceProfile(T=2, chi2_path_max=huge)) == np.inf
        assert kl.evaluate(DivergenceProfile(T=2, kl_path_max=huge)) == np.inf
        # A reward without variance within prompts makes no error.
        constant = DivergenceProfile(T=2, chi2_path_max=huge, reward_var=0.0)
        assert chi2.evaluate(constant) == 0
    assert kl.evaluate(DivergenceProfile(T=2, kl_path_max=50.0)) > 1e20


def test_printed_values():
    def at(key, **fields):
        return get_bound(key).evaluate(DivergenceProfile(T=4096, **fields))

    assert at("path_sum_chi2", chi2_path_max=0.1) == pytest.approx(0.0359545, abs=5e-8)
    assert at("path_sum_kl", kl_path_max=0.01) == pytest.approx(0.0220518, abs=5e-8)
    assert at("path_sum_kl", kl_path_max=1e-4) == pytest.approx(1.0772e-4, abs=5e-9)
    assert at("path_sum_kl", kl_path_max=0.1) == pytest.approx(0.43333, abs=5e-6)
    # Leading order K sqrt(2 v).
    assert at("path_sum_kl", kl_path_max=1e-30) == pytest.approx(1e-30 * np.sqrt(0.5), rel=1e-5)


def kl_bound_at(cut: mpmath.mpf, K: mpmath.mpf, v: mpmath.mpf) -> mpmath.mpf:
    phi = cut - mpmath.log(1 + cut)
    a, b = cut**2 / phi, cut / phi
    spread = mpmath.exp(a * K) - 1
    return mpmath.sqrt(v * (spread - a * K)) + b * K * (mpmath.sqrt(spread) + mpmath.sqrt(2 * K))


def kl_reference(K: float, v: float) -> mpmath.mpf:
    """The infimum over the cut by ternary search over its whole range."""
    with mpmath.workdps(700):
        k, variance = mpmath.mpf(K), mpmath.mpf(v)
        low, high = mpmath.mpf(-200), mpmath.mpf(4)
        for _ in range(90):
            third = (high - low) / 3
            left, right = low + third, high - third
            if kl_bound_at(mpmath.exp(left), k, variance) < kl_bound_at(
                mpmath.exp(right), k, variance
            ):
                high = right
            else:
                low = left
        return kl_bound_at(mpmath.exp(low), k, variance)


@pytest.mark.parametrize("K", [1e-300, 1e-40, 1e-6, 1e-2, 0.3, 5.0, 50.0])
@pytest.mark.parametrize("v", [0.25, 1e-6])
def test_path_sum_kl_against_mpmath(K, v):
    found = get_bound("path_sum_kl").evaluate(DivergenceProfile(T=9, kl_path_max=K, reward_var=v))
    assert found == pytest.approx(float(kl_reference(K, v)), rel=1e-12, abs=0)


@pytest.mark.parametrize("K", [1e-8, 1e-2, 0.5, 20.0])
@pytest.mark.parametrize("v", [0.25, 1e-9, 0.0])
def test_the_minimum_over_the_cut_is_single(K, v):
    """Differences of the bound along log c change sign once, and the minimum lies inside."""
    with mpmath.workdps(60):
        values = [
            kl_bound_at(mpmath.exp(mpmath.mpf(z) / 8), mpmath.mpf(K), mpmath.mpf(v))
            for z in range(-120, 41)
        ]
        signs = [b > a for a, b in pairwise(values)]
    assert not signs[0]
    assert signs[-1]
    assert signs == sorted(signs)


def test_path_sum_kl_is_smooth_and_monotone_in_both_fields():
    K, v = np.geomspace(1e-12, 50, 300)[:, None], np.geomspace(1e-12, 0.25, 60)
    values = get_bound("path_sum_kl").evaluate(DivergenceProfile(T=5, kl_path_max=K, reward_var=v))
    assert values.shape == (300, 60)
    assert (np.diff(values, axis=0) > 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert get_bound("path_sum_kl").evaluate(DivergenceProfile(T=5, kl_path_max=0.0)) == 0


def test_golden_section_finds_the_value_at_a_minimum():
    where = np.array([-2.0, 0.3, 4.9])
    found = golden_section(lambda z: np.cosh(z - where), np.full(3, -5.0), np.full(3, 5.0))
    np.testing.assert_allclose(found, 1.0, rtol=1e-14)


def test_the_square_is_approached_by_small_equal_steps():
    previous = 0.0
    for T in (2, 4, 8):
        truth = exact(two_valued_ratio(0.2 / np.sqrt(T), T))
        ratio = truth.residual_square / float(root_exp_excess(truth.chi2_path_max)) ** 2
        assert previous < ratio < 1
        previous = ratio
    assert previous > 0.86


def stop_fields(pair, budget):
    fields = stopped_path_fields(pair, budget)
    # Probabilities that sum to one only up to rounding.
    return fields | {"chi2_stop_prob": min(fields["chi2_stop_prob"], 1.0)}


def assert_covers(key, rows):
    """Every row: |error|, sup over rewards, the reward's variance, and the bound's own fields."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    assert finite.sum() > 0.6 * len(rows)
    error, sup, variance = (columns.pop(name)[finite] for name in ("error", "sup", "variance"))
    fields = {name: column[finite] for name, column in columns.items()}
    anyone = DivergenceProfile(T=6, **fields)
    assert (sup <= get_bound(key).evaluate(anyone) * (1 + 1e-9) + 1e-15).all()
    own = get_bound(key).evaluate(anyone.with_values(reward_var=np.minimum(variance, 0.25)))
    assert (np.abs(error) <= own * (1 + 1e-9) + 1e-15).all()


def test_exact_truth_never_exceeds_the_bounds(draw_pair):
    rng = np.random.default_rng(314)
    chi2, stopped, kl = [], [], []
    for number in range(PAIRS):
        pair = draw_pair(rng, number)
        truth = exact(pair)
        row = {"error": truth.error, "sup": truth.sup_error, "variance": truth.reward_var}
        chi2.append(row | {"chi2_path_max": truth.chi2_path_max})
        kl.append(row | {"kl_path_max": truth.kl_path_max})
        root = float(root_exp_excess(truth.chi2_path_max))
        assert np.sqrt(truth.residual_square) <= root * (1 + 1e-9) + 1e-15
        budget = truth.chi2_path_max * float(rng.uniform(0, 1.05))
        stopped.append(row | stop_fields(pair, budget))
    assert_covers("path_sum_chi2", chi2)
    assert_covers("path_sum_chi2_stopped", stopped)
    assert_covers("path_sum_kl", kl)


def test_stopping_at_the_largest_sum_changes_nothing():
    pair = random_pair(np.random.default_rng(5), 3, 3, kind="heavy")
    truth = exact(pair)
    profile = profile_of(truth).with_values(**stop_fields(pair, truth.chi2_path_max))
    whole = get_bound("path_sum_chi2").evaluate(profile)
    assert get_bound("path_sum_chi2_stopped").evaluate(profile) == pytest.approx(whole, rel=1e-12)


def test_a_bound_beyond_float64_is_infinite_and_warns_of_nothing():
    profile = DivergenceProfile(T=4096, kl_max=1e300)
    assert get_bound("path_sum_kl_restart").evaluate(profile) == np.inf


@pytest.mark.parametrize("reward_var", [0.0, 1e-310, 0.25])
@pytest.mark.parametrize("K", [5e-324, 1e-310, 1e-307])
def test_sums_below_the_normal_range_warn_of_nothing(K, reward_var):
    profile = DivergenceProfile(T=2, kl_path_max=K, reward_var=reward_var)
    # About 2 K sqrt(v / 2) and a term in K^(3/2): K at most at these sizes.
    assert 0.0 <= get_bound("path_sum_kl").evaluate(profile) <= K
