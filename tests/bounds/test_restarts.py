"""Path-sum KL with restarted weights: accuracy, dominance, certification, exact truth."""

from __future__ import annotations

from itertools import pairwise

import mpmath
import numpy as np
import pytest

from trbounds.bounds import get_bound
from trbounds.oracle import (
    TabularPair,
    exact,
    two_valued_ratio,
    variance_worst_reward,
    worst_reward,
)
from trbounds.profile import DivergenceProfile
from trbounds.special import entropy_dual_gain

BOUND = get_bound("path_sum_kl_restart")
PAIRS = 2000


def value_at(cut, K, D, v):
    phi = cut - mpmath.log(1 + cut)
    q = mpmath.sqrt(v) + mpmath.sqrt(D / 2)
    inside = cut**2 / phi * q**2 + (cut / phi) ** 2 * D / 4
    return mpmath.sqrt(D * (2 * K - D) * inside)


def reference(K, D, v):
    """The infimum over the cut by ternary search over its whole range."""
    with mpmath.workdps(500):
        K, D, v = mpmath.mpf(K), mpmath.mpf(D), mpmath.mpf(v)
        low, high = mpmath.mpf(-250), mpmath.mpf(4)
        for _ in range(90):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            if value_at(mpmath.exp(left), K, D, v) < value_at(mpmath.exp(right), K, D, v):
                high = right
            else:
                low = left
        return float(value_at(mpmath.exp(low), K, D, v))


@pytest.mark.parametrize("v", [0.25, 1e-6, 0.0])
def test_against_mpmath(v):
    for K, D in ((1e-300, 1e-300), (1e-9, 1e-200), (1e-6, 1e-6), (0.8, 0.01), (3.0, 3.0), (1e6, 9)):
        found = BOUND.evaluate(DivergenceProfile(T=9, kl_path_max=K, kl_seq=D, reward_var=v))
        assert found == pytest.approx(reference(K, D, v), rel=1e-12, abs=0)


@pytest.mark.parametrize(("D", "v"), [(1e-8, 0.25), (0.1, 0.25), (2.0, 0.0), (0.3, 1e-9)])
def test_the_minimum_over_the_cut_is_single(D, v):
    with mpmath.workdps(60):
        D, v = mpmath.mpf(D), mpmath.mpf(v)
        values = [value_at(mpmath.exp(mpmath.mpf(z) / 8), 2 * D, D, v) for z in range(-120, 60)]
    signs = [b > a for a, b in pairwise(values)]
    assert not signs[0]
    assert signs[-1]
    assert signs == sorted(signs)


def test_never_above_the_bound_it_sharpens():
    K, v = np.geomspace(1e-12, 50, 200)[:, None], np.array([0.25, 1e-2, 1e-6, 0.0])
    plain = get_bound("path_sum_kl").evaluate(DivergenceProfile(T=5, kl_path_max=K, reward_var=v))
    sharp = BOUND.evaluate(DivergenceProfile(T=5, kl_path_max=K, reward_var=v))
    assert (sharp < plain).all()
    # The mean sum, where known, can only help.
    mean = BOUND.evaluate(DivergenceProfile(T=5, kl_path_max=K, kl_seq=K / 7, reward_var=v))
    assert (mean < sharp).all()


def test_leading_order_and_values():
    def at(K, **more):
        return BOUND.evaluate(DivergenceProfile(T=4096, kl_path_max=K, **more))

    assert at(1e-30) == pytest.approx(1e-30 * np.sqrt(0.5), rel=1e-8)
    assert at(1e-12, kl_seq=1e-15) == pytest.approx(np.sqrt(0.5 * 1e-15 * 2e-12), rel=1e-3)
    # path_sum_kl has 1.0772e-4, 0.022052 and 0.43333 here.
    assert at(1e-4) == pytest.approx(7.4741e-05, rel=1e-4)
    assert at(0.01) == pytest.approx(0.0095885, rel=1e-4)
    assert at(0.1) == pytest.approx(0.13907, rel=1e-4)
    assert at(0.0) == 0
    # A given mean sum above the largest is no news.
    assert at(0.1, kl_seq=5.0) == at(0.1)


def test_can_certify_up_to_a_third_of_a_nat():
    for K, certifies in ((0.3, True), (0.35, True), (0.4, False)):
        value = BOUND.evaluate(DivergenceProfile(T=4096, kl_path_max=K))
        assert (value < float(entropy_dual_gain(K, 0.25))) == certifies


def jump_after_drift(step, jump, rare):
    """Small equal steps, then a token that becomes far likelier: what restarts are for."""
    half = np.array([0.5, 0.5])
    moved = half * np.array([1 + step, 1 - step])
    last_mu = np.array([1 - rare, rare])
    last_pi = np.array([1 - rare * jump, rare * jump])
    pair = TabularPair(
        rollout=tuple(np.tile(row, (1, 2**t, 1)) for t, row in enumerate([half] * 4 + [last_mu])),
        train=tuple(np.tile(row, (1, 2**t, 1)) for t, row in enumerate([moved] * 4 + [last_pi])),
        reward=np.zeros((1, 32)),
    )
    return pair.with_reward(worst_reward(pair))


def test_exact_truth_never_exceeds_the_bound(draw_pair):
    rng = np.random.default_rng(67)
    pairs = [
        jump_after_drift(step, jump, rare)
        for step in (0.01, 0.1, 0.4)
        for jump in (3.0, 30.0, 300.0)
        for rare in (1e-6, 1e-4, 1e-3)
    ]
    pairs += [draw_pair(rng, number) for number in range(PAIRS)]
    truths = [truth for truth in map(exact, pairs) if np.isfinite(truth.kl_path_max)]
    assert len(truths) > 0.6 * PAIRS

    def column(name):
        return np.array([getattr(truth, name) for truth in truths])

    anyone = DivergenceProfile(T=6, kl_path_max=column("kl_path_max"), kl_seq=column("kl_seq"))
    own = anyone.with_values(reward_var=np.minimum(column("reward_var"), 0.25))
    slack = 1 + 1e-9
    assert (column("sup_error") <= BOUND.evaluate(anyone) * slack + 1e-15).all()
    assert (np.abs(column("error")) <= BOUND.evaluate(own) * slack + 1e-15).all()


def test_approached_by_small_equal_steps():
    """With a reward affine in W - 1 - M only the square of the residual is lost."""
    pair = two_valued_ratio(1e-5, 8)
    truth = exact(pair.with_reward(variance_worst_reward(pair)))
    value = BOUND.evaluate(
        DivergenceProfile(T=8, kl_path_max=truth.kl_path_max, reward_var=truth.reward_var)
    )
    assert 0.93 < abs(truth.error) / value < 1
