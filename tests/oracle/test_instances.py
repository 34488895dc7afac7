from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from trbounds.errors import InputError
from trbounds.oracle import (
    KINDS,
    baseline_offset,
    exact,
    length_baseline_offset,
    missing_absolute_continuity,
    random_pair,
    random_rational_pair,
    rare_context,
    rare_reward,
    two_step_tight,
    two_valued_ratio,
)


def same_tables(first, second):
    return all(
        np.array_equal(a, b)
        for a, b in zip(
            (*first.rollout, *first.train, first.reward, first.prompt_probability),
            (*second.rollout, *second.train, second.reward, second.prompt_probability),
            strict=True,
        )
    )


@pytest.mark.parametrize("kind", [*KINDS, "truncated"])
@pytest.mark.parametrize("generate", [random_pair, random_rational_pair])
def test_random_pairs_are_seeded_and_as_described(kind, generate):
    for A in (1, 2, 4):
        options = {"prompts": 2, "eos": True, "kind": kind}
        pair = generate(np.random.default_rng(3), 2, A, **options)
        assert same_tables(pair, generate(np.random.default_rng(3), 2, A, **options))
        assert not same_tables(pair, generate(np.random.default_rng(4), 2, A, **options))
        assert pair.eos == A - 1
        # Only truncation breaks absolute continuity, and one token cannot be truncated.
        assert exact(pair).absolutely_continuous == (kind != "truncated" or A == 1)


@pytest.mark.parametrize("generate", [random_pair, random_rational_pair])
def test_reward_kinds(generate):
    rng = np.random.default_rng(5)
    binary = generate(rng, 3, 2, reward="binary")
    assert set(binary.reward.ravel().tolist()) == {0, 1}
    worst = exact(generate(rng, 3, 2, kind="far", reward="worst"))
    assert float(abs(worst.error)) == pytest.approx(float(worst.sup_error), rel=1e-12)
    assert worst.error != 0


def test_kinds_have_their_character():
    def truth(kind, **options):
        return exact(random_pair(np.random.default_rng(6), 4, 3, kind=kind, **options))

    assert truth("near", closeness=1e-3).tv_max < 1e-2
    assert truth("far").tv_max > 0.3
    heavy = truth("heavy")
    assert heavy.log_ratio_max > math.log(100)
    assert heavy.kl_max < 1
    assert np.count_nonzero(truth("sparse").tv_mean) == 1
    degenerate = truth("degenerate")
    assert degenerate.kl_max == degenerate.log_ratio_max == math.inf
    assert degenerate.chi2_max < math.inf
    two_valued = truth("two_valued", closeness=0.25)
    assert two_valued.chi2_position_max == pytest.approx(0.0625, rel=1e-12)
    assert two_valued.tv_mean == pytest.approx(0.125, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kind": "odd"}, "kind"),
        ({"reward": "odd"}, "reward"),
        ({"closeness": -0.1}, "closeness"),
        ({"closeness": float("nan")}, "closeness"),
        ({"kind": "two_valued", "closeness": 1.1}, "closeness"),
    ],
)
def test_bad_options_are_named(options, field):
    with pytest.raises(InputError) as caught:
        random_pair(np.random.default_rng(0), 2, 2, **options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (missing_absolute_continuity, (1.5,)),
        (baseline_offset, (0.6,)),
        (length_baseline_offset, (-0.1,)),
        (two_valued_ratio, (1.1, 2)),
        (two_step_tight, (0.6,)),
        (rare_context, (2.0,)),
        (rare_reward, (0.5, 1.5)),
        (rare_reward, (float("nan"), 0.5)),
    ],
)
def test_named_instances_check_their_range(build, arguments):
    with pytest.raises(InputError, match="expected a value from"):
        build(*arguments)


@pytest.mark.parametrize("mass", [Fraction(1, 7), 0.25, 1])
def test_missing_absolute_continuity_breaks_every_bound(mass):
    truth = exact(missing_absolute_continuity(mass))
    assert truth.error == truth.sup_error == mass
    assert truth.surrogate == truth.error_identity == truth.residual_square == 0
    assert not truth.absolutely_continuous
    assert truth.support_defect[0] == mass
    assert truth.weight_mean == 1 - mass
    # Second-order bounds are proportional to T - 1, which is 0 here.
    assert truth.T == 1


def test_baseline_offset_passes_the_wrong_test_and_falls():
    truth = exact(baseline_offset())
    bound = 2 * truth.T * (truth.T - 1) * truth.tv_max**2
    assert truth.J_pi - truth.J_mu == Fraction(-1, 8)
    assert truth.baseline_surrogate(0) == Fraction(7, 8)
    assert abs(truth.error) <= bound < truth.baseline_surrogate(0)
    # The offset is (J - b) E[length]; with b = J the surrogate is L', which falls.
    assert truth.baseline_surrogate(0) - truth.surrogate == truth.J_mu * truth.length_mean
    assert truth.baseline_surrogate(truth.J_mu) == truth.surrogate == Fraction(-1, 8)


def test_length_baseline_offset_defeats_the_mean_baseline():
    truth = exact(length_baseline_offset())
    bound = 2 * truth.T * (truth.T - 1) * truth.tv_max**2
    assert truth.J_pi - truth.J_mu == truth.surrogate == Fraction(-1, 8)
    assert abs(truth.error) <= bound < truth.baseline_surrogate(truth.J_mu) == Fraction(1, 8)
    # The offset is Cov(R, length) = E[R length] - E[R] E[length] = 1 - 1/2 * 3/2.
    assert truth.baseline_surrogate(truth.J_mu) - truth.surrogate == Fraction(1, 4)


@pytest.mark.parametrize("tv", [Fraction(1, 100), Fraction(1, 2), 0.125])
def test_two_steps_attain_half_the_classical_bound(tv):
    truth = exact(two_step_tight(tv))
    assert truth.tv_max == tv
    assert abs(truth.error) == truth.sup_error == truth.T * (truth.T - 1) * tv**2


@pytest.mark.parametrize("T", [1, 2, 3, 5])
def test_two_valued_ratio_has_known_divergences(T):
    step = Fraction(1, 5)
    truth = exact(two_valued_ratio(step, T))
    assert set(truth.chi2_position_max) == {step**2}
    assert truth.chi2_path_max == T * step**2
    assert truth.residual_square == (1 + step**2) ** T - 1 - T * step**2
    assert abs(truth.error) == truth.sup_error
    assert float(truth.kl_max) == pytest.approx(-math.log1p(-(step**2)) / 2, rel=1e-14)
    # Half the root of Q bounds the error, with equality at two steps.
    square = truth.sup_error**2 * 4
    assert square <= truth.residual_square
    assert (square == truth.residual_square) == (T <= 2)


def test_rare_context_separates_sequence_from_token_kl():
    pairs = [exact(rare_context(Fraction(1, 10**k))) for k in (1, 3, 6)]
    assert len({float(truth.kl_max) for truth in pairs}) == 1
    for k, truth in zip((1, 3, 6), pairs, strict=True):
        assert float(truth.kl_seq) == pytest.approx(float(truth.kl_max) / 10**k, rel=1e-14)
        assert float(truth.kl_max) == pytest.approx(-math.log(0.75) / 2, rel=1e-14)


def entropy_dual(D, v):
    """inf over lambda > 1 of lambda D + v (-1 - lambda log(1 - 1/lambda)), by plain search."""

    def value(x):
        lam = 1.0 + math.exp(x)
        s = 1.0 / lam
        # -1 - log(1 - s) / s, by its series where the difference would cancel
        small = sum(s**k / (k + 1) for k in range(1, 12))
        return lam * D + v * (small if s < 1e-2 else -1.0 - math.log1p(-s) / s)

    return minimize_scalar(value, bounds=(-40, 40), method="bounded", options={"xatol": 1e-12}).fun


@pytest.mark.parametrize("gain", [-0.5, 0.3, 4.0])
def test_rare_reward_approaches_the_entropy_dual(gain):
    gaps = []
    for probability in (1e-2, 1e-4, 1e-6):
        truth = exact(rare_reward(probability, gain))
        assert truth.surrogate == pytest.approx(probability * gain, rel=1e-12)
        gaps.append(1 - abs(truth.surrogate) / entropy_dual(truth.kl_seq, truth.reward_var))
    assert all(gap > 0 for gap in gaps)
    if gain > 0:  # the gap is of order p; a falling reward is bounded but not tightly
        assert gaps[1] < 0.02 * gaps[0]
        assert gaps[2] < 2e-5


def test_rare_reward_is_exact_in_fractions():
    truth = exact(rare_reward(Fraction(1, 10**9), Fraction(1, 2)))
    assert truth.surrogate == truth.J_pi - truth.J_mu == Fraction(1, 2 * 10**9)
    assert truth.error == 0
