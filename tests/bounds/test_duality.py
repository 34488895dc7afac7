"""Entropy duals: accuracy, printed values, what G bounds, and exact truth on random pairs."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from trbounds.bounds import get_bound
from trbounds.oracle import exact, rare_reward
from trbounds.profile import DivergenceProfile
from trbounds.special import entropy_dual_gain

PAIRS = 2000


def gain_reference(kl: float, variance: float) -> mpmath.mpf:
    """The infimum over lambda by bisection of its derivative, with digits to spare."""
    with mpmath.workdps(800):
        D, v = mpmath.mpf(kl), mpmath.mpf(variance)

        def slope(z: mpmath.mpf) -> mpmath.mpf:
            lam = 1 + mpmath.exp(z)
            return D - v * (mpmath.log(1 - 1 / lam) + 1 / (lam - 1))

        low, high = mpmath.mpf(-800), mpmath.mpf(800)
        for _ in range(120):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        lam = 1 + mpmath.exp(low)
        return lam * D + v * (-1 - lam * mpmath.log(1 - 1 / lam))


@pytest.mark.parametrize("variance", [0.25, 1e-3, 1e-40])
def test_gain_equals_the_infimum(variance):
    for kl in (1e-300, 1e-120, 1e-30, 1e-9, 1e-3, 0.1, 1.0, 30.0, 1e3, 1e6):
        got = float(entropy_dual_gain(kl, variance))
        assert got == pytest.approx(float(gain_reference(kl, variance)), rel=1e-12, abs=0)


def test_gain_lies_between_its_two_simple_bounds():
    kl = np.geomspace(1e-300, 1e6, 400)
    for v in (0.25, 1e-6, 0.0):
        gain = np.asarray(entropy_dual_gain(kl, v))
        root = np.sqrt(2 * v) * np.sqrt(kl)
        assert (gain >= root * (1 - 1e-12)).all()
        assert (gain <= (root + kl) * (1 + 1e-12)).all()


def test_printed_values():
    bound = get_bound("entropy_dual")
    headline = DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01)
    assert bound.evaluate(headline) == pytest.approx(0.148239, abs=5e-7)
    assert bound.evaluate(DivergenceProfile(T=4096, kl_max=1e-4)) == pytest.approx(1.2108, abs=5e-5)
    # The horizon plays no part, and a small variance of the reward helps.
    assert bound.evaluate(DivergenceProfile(T=10**9, kl_seq=0.01)) == bound.evaluate(headline)
    quiet = headline.with_values(reward_var=0.01)
    assert bound.evaluate(quiet) < 0.043


@pytest.mark.parametrize("kl_seq", [1e-300, 1e-12, 0.3, 1e6])
def test_entropy_dual_against_mpmath(kl_seq):
    gain = gain_reference(kl_seq, 0.25)
    tv = min(mpmath.mpf(1), mpmath.sqrt(mpmath.mpf(kl_seq) / 2))
    profile = DivergenceProfile(T=7, kl_seq=kl_seq)
    expected = float(min(tv, gain) + gain)
    assert get_bound("entropy_dual").evaluate(profile) == pytest.approx(expected, rel=1e-12, abs=0)
    second = float(gain_reference(kl_seq, 3 * kl_seq))
    found = get_bound("entropy_dual_second_order").evaluate(profile)
    assert found == pytest.approx(second, rel=1e-12, abs=0)


def test_second_order_is_about_the_product_of_both_roots():
    kl = np.full(1000, 1e-12)
    profile = DivergenceProfile(T=1000, kl_mean=kl)
    moment = (np.arange(1000) * kl).sum()
    found = get_bound("entropy_dual_second_order").evaluate(profile)
    # G(D, S) = sqrt(2 D S) + 2 D / 3 + ..., with S half the moment.
    assert found == pytest.approx(np.sqrt(1e-9 * moment) + 2e-9 / 3, rel=1e-3)


def test_exact_truth_never_exceeds_the_bounds(draw_pair):
    rng = np.random.default_rng(38)
    truths = [exact(draw_pair(rng, number)) for number in range(PAIRS)]
    # Infinite where training drops a token of the rollout's.
    truths = [truth for truth in truths if np.isfinite(truth.kl_seq)]
    assert len(truths) > 0.6 * PAIRS

    def column(of):
        return np.array([of(truth) for truth in truths])

    slack = 1 + 1e-9
    kl, tv = column(lambda u: u.kl_seq), np.minimum(column(lambda u: u.tv_seq), 1.0)
    variance = np.minimum(column(lambda u: u.reward_var), 0.25)
    gain = entropy_dual_gain(kl, variance)
    objective = np.abs(column(lambda u: u.J_pi - u.J_mu))
    assert (np.abs(column(lambda u: u.surrogate)) <= gain * slack + 1e-15).all()
    assert (objective <= np.minimum(tv, gain) * slack + 1e-15).all()
    moment = column(lambda u: (np.arange(u.T) * u.kl_mean).sum())
    anyone = DivergenceProfile(T=6, kl_seq=kl, tv_seq=tv, kl_position_moment=moment)
    own = anyone.with_values(reward_var=variance)
    first, second = get_bound("entropy_dual"), get_bound("entropy_dual_second_order")
    sup = column(lambda u: u.sup_error)
    assert (np.abs(column(lambda u: u.error)) <= first.evaluate(own) * slack + 1e-15).all()
    assert (sup <= first.evaluate(anyone) * slack + 1e-15).all()
    assert (sup <= second.evaluate(anyone) * slack + 1e-15).all()


def test_gain_is_approached_by_a_rare_reward():
    truth = exact(rare_reward(1e-7, 2.0))
    gain = float(entropy_dual_gain(truth.kl_seq, truth.reward_var))
    assert 1 - 1e-5 < truth.surrogate / gain <= 1
    assert 1 - 1e-5 < (truth.J_pi - truth.J_mu) / gain <= 1
