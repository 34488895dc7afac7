"""Thresholds for an acceptance and for a budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.masking import (
    compute_statistics,
    mask,
    threshold_for_acceptance,
    threshold_for_budget,
)
from trbounds.traces import TraceBatch, TraceSummary, open_trace


@pytest.mark.parametrize("target", [0.01, 0.1, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("statistic", ["max k2", "mean k3", "sum chi2", "product ratio"])
def test_accepts_the_share_and_no_smaller_threshold_does(summary, statistic, target):
    found = threshold_for_acceptance(summary, statistic, target)
    values = compute_statistics(summary, [statistic])[statistic]
    assert found.effect.accepted.share.value >= target - 1e-12
    assert (values <= found.value).mean() == found.effect.accepted.share.value
    assert (values < found.value).mean() < target
    assert found.lower <= found.value <= found.upper
    assert str(found.effect.rule) == f"{statistic} <= {found.value!r}"


def test_statistics_of_the_tokens(summary, moe_path):
    statistics = compute_statistics(summary, ["ln_trm"], open_trace(moe_path))
    found = threshold_for_acceptance(summary, "ln_trm", 0.5, statistics)
    assert (statistics["ln_trm"] <= found.value).mean() >= 0.5
    assert found.effect.length_neutral is not None


def make_summary(scores, prompts):
    """Sequences of one token whose k2 is the score."""
    n = scores.size
    shift = np.sqrt(2 * scores)
    return TraceSummary.of(
        TraceBatch(
            offsets=np.arange(n + 1),
            rollout_logprobs=np.full(n, -1.0),
            train_logprobs=-1.0 - shift,
            prompt_id=prompts,
        )
    )


@pytest.mark.parametrize("size", [1, 8])
def test_interval_covers_the_true_threshold(size):
    """Scores of a prompt are equal: an interval that took sequences as independent would miss."""
    rng = np.random.default_rng(0)
    prompts, target, missed = 120, 0.8, 0
    truth = -math.log(1 - target)
    for _ in range(150):
        scores = np.repeat(rng.exponential(size=prompts), size)
        summary = make_summary(scores, np.repeat(np.arange(prompts), size))
        found = threshold_for_acceptance(summary, "max k2", target)
        missed += not found.lower <= truth <= found.upper
    # 5 % of 150 is 7.5; 18 would be exceeded by chance once in ten thousand.
    assert missed <= 18


def test_interval_covers_with_few_prompts():
    """Three prompts: normal quantiles would miss one time in five."""
    rng = np.random.default_rng(1)
    prompts, missed = np.repeat(np.arange(3), 32), 0
    for _ in range(150):
        scores = rng.standard_normal(3)[prompts] + rng.standard_normal(96)
        summary = make_summary(np.exp(scores), prompts)
        found = threshold_for_acceptance(summary, "max k2", 0.9)
        missed += not found.lower <= math.exp(1.2815515655446004 * math.sqrt(2)) <= found.upper
    assert missed <= 18


def test_limits_are_open_where_the_sample_has_none():
    summary = make_summary(np.array([0.1, 0.2, 0.3]), np.arange(3))
    found = threshold_for_acceptance(summary, "sum k3", 0.9)
    assert found.upper == math.inf
    assert threshold_for_acceptance(summary, "sum k3", 1.0).upper == math.inf
    alone = threshold_for_acceptance(make_summary(np.array([0.1]), np.zeros(1, int)), "max k2", 0.5)
    assert (alone.lower, alone.upper) == (-math.inf, math.inf)


@pytest.mark.parametrize("budget", [1e-4, 0.02, 0.3])
@pytest.mark.parametrize("statistic", ["sum chi2", "sum kl", "max kl", "mean chi2", "max tv"])
def test_budget_is_kept_and_used(summary, moe_path, statistic, budget):
    statistics = compute_statistics(summary, [statistic], open_trace(moe_path))
    found = threshold_for_budget(summary, statistic, budget, statistics)
    guarantee = found.effect.guarantee
    assert guarantee.value <= budget
    assert guarantee.value == pytest.approx(budget, rel=1e-6)
    assert found.lower == found.value == found.upper
    at, low, high = found.for_reward
    # This reward varies less than any could; some bounds do not see that.
    assert found.value * (1 - 1e-9) <= low <= at <= high


def test_budget_in_closed_form(summary):
    x = threshold_for_budget(summary, "sum chi2", 0.05).value
    assert 0.5 * math.sqrt(math.expm1(x) - x) == pytest.approx(0.05, rel=1e-9)
    at = threshold_for_budget(summary, "sum chi2", 0.05).for_reward[0]
    rule = mask(summary, f"sum chi2 <= {at!r}")
    assert rule.guarantee.value_for_reward == pytest.approx(0.05, rel=1e-9)


def test_budget_scales_with_the_reward_range(batch):
    narrow = threshold_for_budget(TraceSummary.of(batch), "sum chi2", 0.05)
    wide = threshold_for_budget(TraceSummary.of(batch, reward_range=(-1, 3)), "sum chi2", 0.2)
    assert wide.value == pytest.approx(narrow.value, rel=1e-9)


def test_sampled_budgets_are_plug_in(batch):
    bare = TraceSummary.of(replace(batch, chi2=None, kl=None, tv=None, reward=None))
    found = threshold_for_budget(bare, "sum (rho-1)^2", 0.05)
    assert found.effect.guarantee.plug_in
    assert found.for_reward is None


def test_bad_questions_are_refused(summary):
    for target in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="field 'target'"):
            threshold_for_acceptance(summary, "max k2", target)
    with pytest.raises(InputError, match="between 0 and 1"):
        threshold_for_acceptance(summary, "max k2", 0.5, confidence=1.0)
    for budget in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="expected a positive number"):
            threshold_for_budget(summary, "sum chi2", budget)
    with pytest.raises(InputError, match="'max k2' limits no divergence"):
        threshold_for_budget(summary, "max k2", 0.05)
    with pytest.raises(InputError, match="no sequence"):
        threshold_for_acceptance(TraceSummary(), "max k2", 0.5)
