"""The bound by the sequence KL alone: exact truth, the best constant, certification."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from trbounds.bounds import get_bound
from trbounds.errors import InputError
from trbounds.oracle import (
    TabularPair,
    exact,
    missing_absolute_continuity,
    random_pair,
    rare_switch,
    worst_reward,
)
from trbounds.profile import DivergenceProfile

BOUND = get_bound("sequence_kl")
PAIRS = 6600


def value(D, T=4096, **more):
    return BOUND.evaluate(DivergenceProfile(T=T, kl_seq=D, **more))


def test_is_the_sequence_kl_in_reward_units():
    for D in (0.0, 1e-300, 0.01, 1.0, 1e6):
        assert value(D) == D
        assert value(D, reward_var=0.1, reward_range=(-1.0, 2.0)) == 3 * D
    grid = np.geomspace(1e-300, 1e6, 7)
    np.testing.assert_array_equal(value(grid), grid)
    # Positions or a token maximum give the sequence KL.
    assert BOUND.evaluate(DivergenceProfile(T=3, kl_mean=[0.1, 0.0, 0.3])) == pytest.approx(0.4)
    assert BOUND.evaluate(DivergenceProfile(T=4096, kl_max=1e-4)) == pytest.approx(0.4096)


def test_is_never_ruled_out():
    for D in np.geomspace(1e-300, 1e6, 40):
        for v in (0.25, 0.01):
            found = BOUND.assess(DivergenceProfile(T=4096, kl_seq=D, reward_var=v))
            assert found.can_certify
            assert found.informative == (D < 1)


def rare_prize(mu, pi):
    """L' and D of responses that end at a prize, which comes at step t with chance mu_t or pi_t."""
    alive = np.concatenate([[1.0], np.cumprod(1 - mu)])
    hopeless = alive[-1] / alive[1:]  # that no prize comes after step t
    kl = mu * np.log(mu / pi) + (1 - mu) * np.log((1 - mu) / (1 - pi))
    return float(alive[:-1] @ ((pi - mu) * hopeless)), float(alive[:-1] @ kl)


def rare_prize_pair(mu, pi):
    """The same as tables: token 1 is the prize and ends the response."""

    def policy(chances):
        return [np.tile([1 - c, c], (1, 2**t, 1)) for t, c in enumerate(chances)]

    # A response in which no prize came is all zeros; what follows a prize does not matter.
    reward = (np.arange(2 ** len(mu)) > 0).astype(float)[None]
    return TabularPair(rollout=policy(mu), train=policy(pi), reward=reward, eos=1)


def test_certifies_at_small_and_large_sequence_kl():
    """The chance of a prize grows the more, the less of it is left to come."""
    left = np.geomspace(0.01, 1e-5, 4)
    mu = -np.expm1(left[1:] - left[:-1])
    pi = np.minimum(mu * (1 + 1 / left[:-1]), 0.9)
    truth = exact(rare_prize_pair(mu, pi))
    assert rare_prize(mu, pi) == pytest.approx((truth.surrogate, truth.kl_seq), rel=1e-12)
    found = []
    for decades, steps in ((0.1, 2000), (1, 10_000), (6, 120_000)):
        left = np.geomspace(0.01, 0.01 * 10.0**-decades, steps)
        mu = -np.expm1(left[1:] - left[:-1])
        gain, D = rare_prize(mu, mu * (1 + 2 / left[:-1]))
        assert gain > D
        found.append(D)
    assert found[0] < 1
    assert found[-1] > 20  # where the bound exceeds every possible change of the objective


def test_below_the_bounds_that_never_certify():
    """What bounds the error by G(D, .) or more is at least D."""
    rng = np.random.default_rng(3)
    T = 4
    k = 10.0 ** rng.uniform(-8, 1, size=(300, T))
    for v in (0.25, 1e-3):
        profile = DivergenceProfile(T=T, kl_mean=k, reward_var=v)
        ours = BOUND.evaluate(profile)
        for key in ("entropy_dual", "entropy_dual_second_order"):
            assert (ours <= get_bound(key).evaluate(profile)).all(), key


def test_exact_truth_never_exceeds_the_bound(draw_pair):
    rng = np.random.default_rng(68)
    checked, largest = 0, 0.0
    for number in range(PAIRS):
        truth = exact(draw_pair(rng, number))
        if not np.isfinite(truth.kl_seq):
            continue
        checked += 1
        # Rounding of J and L' is of the order of 1e-16, whatever the divergence.
        assert abs(truth.error) <= truth.sup_error * (1 + 1e-9) + 1e-15
        assert truth.sup_error <= truth.kl_seq * (1 + 1e-9) + 1e-15
        if truth.kl_seq > 1e-9:
            largest = max(largest, truth.sup_error / truth.kl_seq)
    assert checked > 5000
    assert 0.5 < largest < 1


def test_holds_without_absolute_continuity():
    """Rollouts cut to some of the tokens, as by top-p: here the other bounds fail."""
    rng = np.random.default_rng(12)
    checked, largest = 0, 0.0
    for number in range(1500):
        T, A = [(1, 3), (2, 3), (3, 2), (3, 3)][number % 4]
        pair = random_pair(
            rng,
            T,
            A,
            prompts=1 + number % 2,
            kind="truncated",
            reward=["worst", "binary", "uniform"][number % 3],
            closeness=float(10.0 ** rng.uniform(-3, 0)),
        )
        truth = exact(pair)
        if truth.absolutely_continuous or not np.isfinite(truth.kl_seq):
            continue
        checked += 1
        assert abs(truth.error) <= truth.kl_seq * (1 + 1e-9) + 1e-15
        largest = max(largest, abs(truth.error) / truth.kl_seq)
    assert checked > 1000
    assert 0.5 < largest < 1
    for mass in (1e-12, 0.1, 0.999):
        truth = exact(missing_absolute_continuity(mass))
        assert truth.error == pytest.approx(mass, rel=1e-12)
        assert mass < truth.kl_seq == pytest.approx(-math.log1p(-mass), rel=1e-9)


def test_without_absolute_continuity_the_baseline_must_be_a_possible_reward():
    """There E_mu[M] = -S < 0, so that a baseline b takes b S from the error."""
    rng = np.random.default_rng(11)
    widest = 0.0
    for _ in range(200):
        pair = random_pair(rng, 2, 3, kind="truncated", reward="worst", closeness=0.1)
        truth = exact(pair)
        if truth.absolutely_continuous or not np.isfinite(truth.kl_seq):
            continue
        S = truth.length_mean - truth.ratio_sum_mean
        assert S > 0
        for baseline in (0.0, 0.5, 1.0):
            error = truth.J_pi - truth.J_mu - (truth.surrogate + baseline * S)
            assert abs(error) <= truth.kl_seq * (1 + 1e-9)
            widest = max(widest, abs(error) / truth.kl_seq)
    assert widest > 0.5
    # R = 100 throughout, counted from 0: nothing changes but the surrogate.
    constant = missing_absolute_continuity(0.1).with_reward(np.array([[1.0, 1.0]]))
    truth = exact(constant)
    assert 100 * truth.error == pytest.approx(10)
    assert truth.kl_seq < 1


def test_rare_tokens_with_heavy_tails():
    """Rare contexts, ratios of thousands, chains of rare switches."""
    for rarity, moved, steps in product((1e-2, 1e-5, 1e-10), (1e-4, 0.05, 0.9), (1, 2, 5)):
        pair = rare_switch(moved, rarity, steps)
        truth = exact(pair)
        assert abs(truth.error) <= truth.kl_seq
        assert exact(pair.with_reward(worst_reward(pair))).sup_error <= truth.kl_seq


def test_rare_switch_is_exact_in_fractions_and_checks_its_range():
    truth = exact(rare_switch(Fraction(1, 10), Fraction(1, 10**9), 2))
    assert isinstance(truth.error, Fraction)
    assert truth.absolutely_continuous
    assert truth.error == pytest.approx(0.2, abs=1e-8)
    for bad in ((1.5, 0.1, 2), (0.1, -0.1, 2), (0.1, 0.1, 0)):
        with pytest.raises(InputError, match="expected a value from"):
            rare_switch(*bad)


def by_enumeration(pair):
    """W, sum_t (rho_t - 1) - log rho_t, probability and reward of every response."""
    for prompt, q in enumerate(pair.prompt_probability):
        for index, tokens in enumerate(product(range(pair.A), repeat=pair.T)):
            chance, weight, k3, context = float(q), 1.0, 0.0, 0
            for mu, pi, token in zip(pair.rollout, pair.train, tokens, strict=True):
                m, p = float(mu[prompt, context, token]), float(pi[prompt, context, token])
                chance, weight = chance * m, weight * p / m
                k3 += p / m - 1 - math.log(p / m)
                context = context * pair.A + token
            yield chance, weight, k3, float(pair.reward[prompt, index])


@pytest.mark.parametrize("kind", ["near", "far", "heavy", "two_valued"])
def test_each_sign_of_the_error_has_its_part_of_k3(kind):
    rng = np.random.default_rng(5)
    for number in range(25):
        pair = random_pair(
            rng,
            3,
            2 + number % 2,
            prompts=1 + number % 2,
            kind=kind,
            reward=["worst", "binary", "uniform"][number % 3],
            closeness=0.5,
        )
        rows = list(by_enumeration(pair))
        truth = exact(pair)
        assert math.fsum(p * k3 for p, _, k3, _ in rows) == pytest.approx(truth.kl_seq, rel=1e-9)
        lower = -math.fsum(p * r * k3 for p, _, k3, r in rows)
        upper = math.fsum(p * (1 - r) * k3 for p, _, k3, r in rows)
        assert lower - 1e-12 <= truth.error <= upper + 1e-12
        gain = math.fsum(p * r * math.log(w) for p, w, _, r in rows)
        assert lower + truth.surrogate == pytest.approx(gain, rel=1e-9, abs=1e-12)
        assert truth.J_pi - truth.J_mu >= gain - 1e-12


def test_no_smaller_constant_holds():
    """At T = 2 for a small sequence KL, and with many steps for any, even at vanishing variance."""
    for moved in (1e-2, 1e-3):
        truth = exact(rare_switch(moved, 1e-12, 1))
        assert abs(truth.error) / truth.kl_seq == pytest.approx(1 - moved / 2, abs=moved**2)
        assert truth.reward_var < 1e-11
    gaps = []
    for steps in (3, 6, 12):
        truth = exact(rare_switch(-math.expm1(-1 / steps), 1e-9, steps))
        assert truth.kl_seq == pytest.approx(1, rel=1e-6)
        gaps.append(1 - abs(truth.error))
    # steps (1 - exp(-1/steps)) = 1 - 1/(2 steps) + ...
    assert gaps[1] == pytest.approx(gaps[0] / 2, rel=0.1)
    assert gaps[2] == pytest.approx(1 / 24, rel=0.05)
