"""Exact truth against an independent recursion over responses that really end at EOS."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.oracle import (
    KINDS,
    PROFILE_FIELDS,
    TabularPair,
    exact,
    profile_of,
    random_pair,
    random_rational_pair,
    stopped_path_fields,
    two_valued_ratio,
    variance_worst_reward,
    worst_reward,
)

ALL_KINDS = (*KINDS, "truncated")
INF = float("inf")


def enumerate_responses(pair):
    """Return prompt, tokens, mu, pi and rows for every response that either policy produces."""
    found = []

    def extend(x, tokens, mu, pi, rows):
        if len(tokens) == pair.T or (tokens and tokens[-1] == pair.eos):
            found.append((x, tokens, mu, pi, rows))
            return
        prefix = 0
        for token in tokens:
            prefix = prefix * pair.A + token
        here = (
            list(pair.rollout[len(tokens)][x][prefix]),
            list(pair.train[len(tokens)][x][prefix]),
        )
        for y in range(pair.A):
            m, p = here[0][y], here[1][y]
            if mu * m > 0 or pi * p > 0:
                extend(x, (*tokens, y), mu * m, pi * p, [*rows, here])

    for x in range(pair.prompts):
        if pair.prompt_probability[x] > 0:
            extend(x, (), pair.prompt_probability[x], pair.prompt_probability[x], [])
    return found


def log(value):
    if isinstance(value, Fraction):
        return mpmath.log(mpmath.mpf(value.numerator) / value.denominator)
    return math.log(value)


def row_kl(mu, pi):
    if any(p == 0 and m > 0 for m, p in zip(mu, pi, strict=True)):
        return INF
    return sum(
        (m * log(m / p) for m, p in zip(mu, pi, strict=True) if m > 0), 0 * log(mu[0] * 0 + 1)
    )


def row_tv(mu, pi):
    return sum(abs(m - p) for m, p in zip(mu, pi, strict=True)) / 2


def row_chi2(mu, pi):
    if any(m == 0 and p > 0 for m, p in zip(mu, pi, strict=True)):
        return INF
    return sum(p * p / m for m, p in zip(mu, pi, strict=True) if m > 0) - 1


def response_reward(pair, x, tokens):
    padded = (*tokens, *[pair.eos] * (pair.T - len(tokens)))
    index = 0
    for token in padded:
        index = index * pair.A + token
    return pair.reward[x][index]


def ratios(tokens, rows):
    return [pi[y] / mu[y] for y, (mu, pi) in zip(tokens, rows, strict=True)]


def product(values):
    result = 1
    for value in values:
        result = result * value
    return result


def brute(pair):
    responses = enumerate_responses(pair)
    sampled = [r for r in responses if r[2] > 0]
    R = {(x, tokens): response_reward(pair, x, tokens) for x, tokens, *_ in responses}
    truth = {
        "J_mu": sum(mu * R[x, y] for x, y, mu, _, _ in responses),
        "J_pi": sum(pi * R[x, y] for x, y, _, pi, _ in responses),
        "tv_seq": sum(abs(mu - pi) for _, _, mu, pi, _ in responses) / 2,
        "length_mean": sum(mu * len(y) for _, y, mu, _, _ in responses),
        "weight_mean": sum(mu * product(ratios(y, rows)) for _, y, mu, _, rows in sampled),
    }
    if all(pi > 0 for _, _, _, pi, _ in sampled):
        truth["kl_seq"] = sum(mu * log(mu / pi) for _, _, mu, pi, _ in sampled)
    else:
        truth["kl_seq"] = INF
    surrogate = identity = square = ratio_sum = reward_ratio_sum = 0
    for x, y, mu, _, rows in sampled:
        rho = ratios(y, rows)
        M = sum(r - 1 for r in rho)
        surrogate += mu * R[x, y] * M
        square += mu * (product(rho) - 1 - M) ** 2
        identity -= (
            mu * R[x, y] * sum((rho[t] - 1) * (1 - product(rho[t + 1 :])) for t in range(len(rho)))
        )
        ratio_sum += mu * sum(rho)
        reward_ratio_sum += mu * R[x, y] * sum(rho)
    truth |= {
        "surrogate": surrogate,
        "error": truth["J_pi"] - truth["J_mu"] - surrogate,
        "error_identity": identity,
        "residual_square": square,
        "ratio_sum_mean": ratio_sum,
        "reward_ratio_sum_mean": reward_ratio_sum,
    }
    variance = total = 0
    for x in {r[0] for r in sampled}:
        own = [(mu, R[x, y]) for p, y, mu, _, _ in sampled if p == x]
        mean = sum(mu * r for mu, r in own) / pair.prompt_probability[x]
        variance += sum(mu * (r - mean) ** 2 for mu, r in own)
        total += sum(mu * (r - truth["J_mu"]) ** 2 for mu, r in own)
    truth |= {"reward_var": variance, "reward_var_total": total}
    return truth | brute_divergences(pair, responses, sampled)


def brute_divergences(pair, responses, sampled):
    truth = {}
    contexts = {}
    for x, y, _, _, rows in responses:
        for t, row in enumerate(rows):
            contexts[x, y[:t]] = row
    truth["log_ratio_max"] = max(
        INF if (m == 0) != (p == 0) else abs(log(p / m))
        for mu, pi in contexts.values()
        for m, p in zip(mu, pi, strict=True)
        if m > 0 or p > 0
    )
    truth["support_defect"] = [
        sum(mu * (1 - (ratios(y, rows)[t] if t < len(y) else 1)) for _, y, mu, _, rows in sampled)
        for t in range(pair.T)
    ]
    for name, function in {"tv": row_tv, "kl": row_kl, "chi2": row_chi2}.items():
        value = {context: function(*row) for context, row in contexts.items()}
        truth[f"{name}_max"] = max(value.values())
        truth[f"{name}_mean"] = [
            sum(mu * value[x, y[:t]] for x, y, mu, _, _ in sampled if t < len(y))
            for t in range(pair.T)
        ]
        position_max = [
            max((v for (_, y), v in value.items() if len(y) == t), default=0) for t in range(pair.T)
        ]
        if name == "chi2":
            truth["chi2_position_max"] = position_max
        if name != "tv":
            truth[f"{name}_path_max"] = max(
                sum(value[x, y[:t]] for t in range(len(y))) for x, y, *_ in sampled
            )
    return truth


def stop_fields(pair, budget):
    """P_pi(tau <= T) and the tail of chi2 by running along every response."""
    probability = tail = 0
    for _, y, mu, pi, rows in enumerate_responses(pair):
        chi2 = [row_chi2(*row) for row in rows]
        stops = [t for t in range(len(y)) if sum(chi2[: t + 1]) > budget]
        if stops:
            probability += pi
            if mu > 0:
                tail += mu * sum(chi2[stops[0] :])
    return probability, tail


def assert_float_equal(found, expected, name):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert np.isclose(found, expected, rtol=1e-11, atol=1e-11).all(), (name, found, expected)


def assert_exact_equal(found, expected, name):
    for a, b in zip(np.ravel(found), np.ravel(np.array(expected, dtype=object)), strict=True):
        if isinstance(b, mpmath.mpf) or isinstance(a, mpmath.mpf):
            assert a == b or abs(a - b) <= mpmath.mpf(10) ** -50 * abs(b), (name, a, b)
        else:
            assert a == b, (name, a, b)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("eos", [False, True])
def test_float_truth_matches_plain_recursion(kind, eos):
    rng = np.random.default_rng(1)
    for T, A in ((1, 4), (2, 3), (4, 2), (3, 3)):
        pair = random_pair(rng, T, A, prompts=2, eos=eos, kind=kind, closeness=0.5)
        truth = exact(pair)
        for name, value in brute(pair).items():
            assert_float_equal(getattr(truth, name), value, name)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("eos", [False, True])
def test_rational_truth_is_exact(kind, eos):
    rng = np.random.default_rng(2)
    for T, A in ((1, 3), (2, 3), (3, 2)):
        pair = random_rational_pair(rng, T, A, prompts=2, eos=eos, kind=kind, denominator=1000)
        truth = exact(pair)
        with mpmath.workdps(80):
            for name, value in brute(pair).items():
                assert_exact_equal(getattr(truth, name), value, name)
        for name in ("error", "sup_error", "surrogate", "tv_seq", "reward_var"):
            assert isinstance(getattr(truth, name), Fraction)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_stopped_path_matches_plain_recursion(kind):
    rng = np.random.default_rng(3)
    for eos in (False, True):
        pair = random_rational_pair(rng, 3, 2, prompts=2, eos=eos, kind=kind, denominator=100)
        for budget in (Fraction(0), Fraction(1, 45), Fraction(1, 2), Fraction(10**9)):
            fields = stopped_path_fields(pair, budget)
            found = (fields["chi2_stop_prob"], fields["chi2_stop_tail"])
            assert found == stop_fields(pair, budget)
            floats = stopped_path_fields(pair.to_float(), budget)
            assert_float_equal(
                [floats["chi2_stop_prob"], floats["chi2_stop_tail"]], list(found), "stopped"
            )


def test_stopped_path_rejects_a_bad_budget():
    pair = two_valued_ratio(0.5, 2)
    for budget in (-1.0, INF, float("nan")):
        with pytest.raises(InputError, match="budget"):
            stopped_path_fields(pair, budget)


@pytest.mark.parametrize("kind", KINDS)
def test_identities_hold_under_absolute_continuity(kind):
    pair = random_rational_pair(np.random.default_rng(4), 3, 3, prompts=2, eos=True, kind=kind)
    truth = exact(pair)
    assert truth.absolutely_continuous
    assert truth.error == truth.error_identity
    assert truth.weight_mean == 1
    assert not truth.support_defect.any()
    # Q is the sum of E_mu[(W_{t-1} - 1)^2 chi2(c_t)].
    square = 0
    for _, y, mu, _, rows in enumerate_responses(pair):
        if mu > 0:
            rho = ratios(y, rows)
            square += mu * sum(
                (product(rho[:t]) - 1) ** 2 * row_chi2(*rows[t]) for t in range(len(y))
            )
    assert truth.residual_square == square
    # A constant reward makes no error.
    constant = exact(pair.with_reward(np.full(pair.reward.shape, Fraction(1, 3))))
    assert constant.error == constant.surrogate == constant.reward_var == 0


def test_constant_reward_makes_no_error_in_floats_either():
    pair = random_pair(np.random.default_rng(14), 4, 3, prompts=2, kind="far")
    truth = exact(pair.with_reward(np.full(pair.reward.shape, 0.7)))
    assert abs(truth.error) < 1e-30
    assert abs(truth.surrogate) < 1e-30
    assert truth.reward_var < 1e-30


def test_error_is_real_where_absolute_continuity_fails():
    rng = np.random.default_rng(5)
    for _ in range(5):
        truth = exact(random_rational_pair(rng, 2, 3, kind="truncated"))
        assert not truth.absolutely_continuous
        assert truth.error == truth.J_pi - truth.J_mu - truth.surrogate != truth.error_identity
        assert truth.weight_mean < 1
        assert all(truth.support_defect > 0)
        assert truth.chi2_max == truth.chi2_path_max == truth.log_ratio_max == INF


def test_unreached_contexts_do_not_count():
    # Token 1 is never first; the policies differ only after it.
    same, apart = [[0.5, 0.5]], [0.9, 0.1]
    rollout = (np.array([[[1.0, 0.0]]]), np.array([[same[0], same[0]]]))
    train = (np.array([[[1.0, 0.0]]]), np.array([[same[0], apart]]))
    truth = exact(TabularPair(rollout, train, np.zeros((1, 4))))
    assert truth.tv_max == truth.kl_max == truth.chi2_max == truth.log_ratio_max == 0
    # Unless the training policy goes there.
    train = (np.array([[[0.5, 0.5]]]), train[1])
    truth = exact(TabularPair(rollout, train, np.zeros((1, 4))))
    assert truth.kl_max == pytest.approx(math.log(2), rel=1e-15)
    assert truth.kl_mean[1] == truth.tv_mean[1] == truth.chi2_mean[1] == 0
    assert truth.chi2_position_max[1] == pytest.approx(0.64, rel=1e-15)


def test_prompt_of_probability_zero_does_not_count():
    rng = np.random.default_rng(6)
    pair = random_pair(rng, 2, 2, prompts=2, kind="far")
    first = TabularPair(
        tuple(table[:1] for table in pair.rollout),
        tuple(table[:1] for table in pair.train),
        pair.reward[:1],
    )
    both = TabularPair(pair.rollout, pair.train, pair.reward, np.array([1.0, 0.0]))
    for name in PROFILE_FIELDS:
        assert np.array_equal(getattr(exact(first), name), getattr(exact(both), name)), name


def test_tables_after_eos_are_ignored():
    rng = np.random.default_rng(7)
    pair = random_rational_pair(rng, 3, 3, eos=True)
    other = random_rational_pair(rng, 3, 3, kind="far")
    rollout, train = [], []
    for t in range(3):
        before, after = np.array(pair.rollout[t]), np.array(pair.train[t])
        for prefix in range(3**t):
            if "2" in np.base_repr(prefix, 3):
                before[0, prefix] = other.rollout[t][0, prefix]
                after[0, prefix] = other.train[t][0, prefix]
        rollout.append(before)
        train.append(after)
    again = exact(TabularPair(tuple(rollout), tuple(train), pair.reward, eos=2))
    truth = exact(pair)
    for name in (*PROFILE_FIELDS, "error", "sup_error", "length_mean"):
        assert np.array_equal(getattr(again, name), getattr(truth, name)), name


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("limits", [(0, 1), (-2, 3), (5, 6)])
def test_sup_error_is_the_largest_over_all_extreme_rewards(kind, limits):
    draw = random_rational_pair(np.random.default_rng(8), 2, 2, kind=kind, denominator=50)
    low = np.full((1, 4), Fraction(limits[0]))
    pair = TabularPair(draw.rollout, draw.train, low, reward_range=limits)
    # |Error| is convex in the reward, so a corner of the cube attains its maximum.
    corners = [
        exact(pair.with_reward(np.array([corner], dtype=object)))
        for corner in itertools.product(map(Fraction, limits), repeat=4)
    ]
    largest = max(abs(corner.error) for corner in corners)
    assert exact(pair).sup_error == largest
    assert abs(exact(pair.with_reward(worst_reward(pair))).error) == largest


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_sup_error_is_never_exceeded(kind):
    rng = np.random.default_rng(9)
    pair = random_pair(rng, 3, 3, prompts=2, eos=True, kind=kind)
    sup = exact(pair).sup_error
    for _ in range(20):
        reward = rng.random(pair.reward.shape)
        assert abs(exact(pair.with_reward(reward)).error) <= sup + 1e-15
    worst = exact(pair.with_reward(worst_reward(pair)))
    assert abs(worst.error) == pytest.approx(sup, rel=1e-12, abs=1e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_variance_worst_reward_attains_cauchy_schwarz(kind):
    rng = np.random.default_rng(10)
    pair = random_rational_pair(rng, 3, 2, prompts=2, eos=True, kind=kind, denominator=100)
    truth = exact(pair.with_reward(variance_worst_reward(pair)))
    assert truth.error**2 == truth.reward_var * truth.residual_square
    other = exact(pair)
    assert other.error**2 <= other.reward_var * other.residual_square


def test_variance_worst_reward_of_equal_policies():
    reward = variance_worst_reward(two_valued_ratio(0.0, 2))
    assert np.array_equal(reward, np.zeros((1, 4)))


@pytest.mark.parametrize("exponent", [1, 2, 3, 4, 10, 20, 30, 40, 50])
def test_close_policies_keep_full_relative_accuracy(exponent):
    step = Fraction(1, 2**exponent)
    pair = two_valued_ratio(float(step), 3)
    truth, reference = exact(pair), exact(two_valued_ratio(step, 3))
    for name in (
        "error", "sup_error", "surrogate", "residual_square", "reward_var",
        "tv_max", "kl_max", "chi2_max", "tv_seq", "kl_seq", "log_ratio_max",
    ):  # fmt: skip
        found, expected = getattr(truth, name), float(getattr(reference, name))
        assert found == pytest.approx(expected, rel=2e-15, abs=0), name


@pytest.mark.parametrize("closeness", [1e-9, 1e-6, 1e-3, 1.0])
def test_float_matches_its_own_exact_value(closeness):
    pair = random_pair(np.random.default_rng(11), 3, 3, eos=True, closeness=closeness)
    truth, reference = exact(pair), exact(pair.to_rational())
    # The rows of the float pair sum to one only to 1e-16.
    tolerance = 1e-13 + 1e-15 / closeness
    for name in ("error", "sup_error", "residual_square", "kl_max", "kl_seq", "chi2_path_max"):
        expected = float(getattr(reference, name))
        assert getattr(truth, name) == pytest.approx(expected, rel=tolerance, abs=0), name


def test_kl_of_fractions_has_fifty_digits():
    truth = exact(two_valued_ratio(Fraction(1, 10**12), 1))
    with mpmath.workdps(100):
        expected = -mpmath.log1p(-(mpmath.mpf(10) ** -24)) / 2
        assert abs(truth.kl_max / expected - 1) < mpmath.mpf(10) ** -50


def test_profile_fields_hold_every_name():
    truth = exact(random_pair(np.random.default_rng(12), 3, 2))
    fields = truth.profile_fields()
    assert set(fields) == set(PROFILE_FIELDS)
    assert fields["T"] == 3
    assert fields["reward_range"] == (0.0, 1.0)
    for name in ("tv_mean", "kl_mean", "chi2_mean", "chi2_position_max"):
        assert fields[name].shape == (3,)
    scalars = set(fields) - {"T", "reward_range", "tv_mean", "kl_mean", "chi2_mean"}
    assert all(type(fields[name]) is float for name in scalars - {"chi2_position_max"})


def test_the_profile_of_a_pair_has_its_reward_range():
    rng = np.random.default_rng(3)
    pair = random_pair(rng, 2, 2)
    wide = replace(pair, reward=4 * pair.reward - 1, reward_range=(-1.0, 3.0))
    unit, profile = profile_of(exact(pair)), profile_of(exact(wide))
    assert profile.reward_range == (-1.0, 3.0)
    assert float(profile.reward_var) == pytest.approx(16 * float(unit.reward_var))


def test_rounding_of_far_rewards_leaves_a_profile():
    """Rewards of 1e7 and 1e7 + 1e-3 have their variance to 1e-11 only."""
    flat = tuple(np.full((1, 2**t, 2), 0.5) for t in range(3))
    limits = (1e7, 1e7 + 1e-3)
    pair = TabularPair(flat, flat, reward=[np.tile(limits, 4)], reward_range=limits)
    assert profile_of(exact(pair)).reward_var <= (limits[1] - limits[0]) ** 2 / 4


def test_reward_shift_changes_nothing_but_the_objective():
    pair = random_rational_pair(np.random.default_rng(13), 3, 2)
    moved = TabularPair(
        pair.rollout, pair.train, pair.reward * 4 - 7, pair.prompt_probability, (-7, -3)
    )
    before, after = exact(pair), exact(moved)
    for name in ("error", "surrogate", "sup_error", "error_identity"):
        assert getattr(after, name) == 4 * getattr(before, name)
    assert after.reward_var == 16 * before.reward_var
    assert after.J_pi == 4 * before.J_pi - 7
