"""What a mask accepts and leaves, and the guarantee of a cap."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from trbounds.bounds import best_bound
from trbounds.errors import InputError
from trbounds.masking import compare, compute_statistics, mask, parse_rule
from trbounds.masking.acceptance import by_length, by_value, token_exclusion
from trbounds.masking.guarantees import CAPPED, capped_profile
from trbounds.oracle import exact, random_pair
from trbounds.traces import TraceSummary, open_trace


def test_effect_of_a_mask(summary):
    threshold = float(np.median(summary.sequences["kl_max"]))
    found = mask(summary, f"max kl <= {threshold!r}")
    accept = summary.sequences["kl_max"] <= threshold
    assert (found.accept == accept).all()
    assert found.accepted.share.value == accept.mean()
    lengths = summary.sequences["length"]
    assert found.kept_token_share.value == lengths[accept].sum() / lengths.sum()
    for bins in (found.by_length, found.by_reward):
        assert sum(part.n_sequences for part in bins) == summary.n_sequences
        kept = sum(part.n_sequences * part.share.value for part in bins)
        assert kept == pytest.approx(accept.sum())
    per_token = summary.sequences["log_weight"] / lengths
    assert found.ppl_gap == pytest.approx(np.abs(per_token).mean())
    assert found.accepted_ppl_gap == pytest.approx(np.abs(per_token[accept]).mean())


def test_share_accepted_is_clustered_by_prompt(summary):
    found = mask(summary, "max kl <= 0.001").accepted
    groups = summary.groups()
    accept = (summary.sequences["kl_max"] <= 0.001).astype(float)
    prompts = np.unique(groups)
    # Delete one prompt at a time, by hand.
    without = [accept[groups != prompt].mean() for prompt in prompts]
    count = prompts.size
    expected = math.sqrt((count - 1) / count * sum((w - np.mean(without)) ** 2 for w in without))
    assert found.share.jackknife_error == pytest.approx(expected, rel=1e-12)
    assert found.limits.n_groups == count
    assert found.limits.lower <= found.share.value <= found.limits.upper


def test_masked_surrogate_is_divided_by_the_batch_size(summary):
    table, groups = summary.sequences, summary.groups()
    found = mask(summary, "mean kl <= 1e-4")
    total = 0.0
    for i in np.flatnonzero(found.accept):
        others = [j for j in np.flatnonzero(groups == groups[i]) if j != i]
        baseline = table["reward"][others].mean()
        total += (table["reward"][i] - baseline) * table["ratio_sum"][i]
    assert 0 < found.accepted.share.value < 1
    assert found.surrogate.value == pytest.approx(total / summary.n_sequences, rel=1e-9)
    everything = mask(summary, "mean kl <= 1e9")
    assert everything.surrogate == everything.unmasked_surrogate


def test_a_mask_that_accepts_nothing(summary):
    found = mask(summary, "sum chi2 < 0")
    assert found.accepted.share.value == 0.0
    assert found.surrogate.value == 0.0
    assert found.token_exclusion == 1.0
    assert math.isnan(found.accepted_ppl_gap)


def test_comparison_applies_each_rule_by_itself(summary):
    rules = ["max kl <= 1e-3", parse_rule("ser <= 5e-3"), "max kl <= 1e-3 and ser <= 5e-3"]
    one, two, both = compare(summary, rules)
    assert (both.accept == (one.accept & two.accept)).all()
    assert [str(effect.rule) for effect in (one, two)] == ["max kl <= 0.001", "ser <= 0.005"]


def test_max_criterion_drops_long_sequences_more_than_the_length_neutral_one(summary, moe_path):
    statistics = compute_statistics(summary, ["max kl", "ln_trm"], open_trace(moe_path))
    rules = [
        f"{name} <= {float(np.median(values))!r}"
        for name, values in statistics.items()
        if name in ("max kl", "ln_trm")
    ]
    by_max, neutral = compare(summary, rules, statistics)
    assert by_max.by_length[-1].share.value < neutral.by_length[-1].share.value


# -- acceptance by length, reward and step -----------------------------------------------------


@pytest.mark.parametrize("p", [0.0003, 0.01, 0.2])
def test_expected_shares_are_right_where_tokens_are_alike(p):
    """Refuse a sequence if any of its tokens is bad, tokens being independent."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 200, 40_000).astype(np.int32)
    accept = rng.random(lengths.size) < (1 - p) ** lengths
    assert token_exclusion(accept, lengths) == pytest.approx(p, rel=0.1)
    bins = by_length(accept, lengths, np.arange(lengths.size), np.where(accept, lengths, 0))
    assert len(bins) == 10
    for part in bins:
        assert abs(part.share.value - part.expected) <= 5 * part.share.error + 2e-3
    mean = sum(part.n_sequences * part.expected for part in bins) / lengths.size
    assert mean == pytest.approx(accept.mean(), rel=1e-9)


def test_expected_shares_at_the_ends():
    lengths = np.array([0, 3, 5], dtype=np.int32)
    assert token_exclusion(np.array([True, True, True]), lengths) == 0.0
    assert token_exclusion(np.array([True, False, False]), lengths) == 1.0
    assert 0 < token_exclusion(np.array([True, True, False]), lengths) < 1


def test_equal_lengths_make_one_bin():
    accept = np.array([True, False, True, True])
    (only,) = by_length(accept, np.full(4, 7, np.int32), np.arange(4), np.array([7, 3, 7, 7]))
    assert (only.lowest, only.highest, only.n_sequences) == (7, 7, 4)
    assert only.share.value == 0.75
    assert only.kept.value == 24 / 28
    assert only.expected == pytest.approx(0.75, rel=1e-12)


def test_bins_by_value():
    rng = np.random.default_rng(3)
    accept, few = rng.random(500) < 0.5, rng.integers(0, 4, 500) / 4
    groups = np.arange(500) // 5
    lengths = np.ones(500, dtype=np.int32)
    parts = (accept, lengths, groups, np.where(accept, 1, 0))
    bins = by_value(few, *parts)
    assert [(part.lowest, part.highest) for part in bins] == [(v, v) for v in (0, 0.25, 0.5, 0.75)]
    for part in bins:
        assert part.share.value == accept[few == part.lowest].mean()
    many = rng.random(500)
    assert [part.n_sequences for part in by_value(many, *parts)] == [100] * 5
    assert len(by_value(many, *parts, each=True)) == 500


def test_steps_are_shown_where_they_are_logged(batch):
    stepped = replace(batch, step=np.arange(batch.n_sequences) % 12)
    found = mask(TraceSummary.of(stepped), "max kl <= 0.001")
    assert [part.lowest for part in found.by_step] == list(range(12))
    bare = TraceSummary.of(replace(batch, step=None, reward=None))
    without = mask(bare, "max kl <= 0.001")
    assert without.by_step == without.by_reward == ()
    assert without.surrogate is None


# -- what a cap proves -------------------------------------------------------------------------


def test_guarantee_is_the_bound_at_the_cap(summary):
    found = mask(summary, "sum chi2 <= 0.1 and ser <= 1").guarantee
    assert found.value == pytest.approx(0.5 * math.sqrt(math.expm1(0.1) - 0.1), rel=1e-12)
    assert found.bound == "path_sum_chi2"
    assert found.fields == {"chi2_path_max": 0.1}
    assert not found.plug_in
    assert found.value_for_reward < found.value
    assert found.covers.startswith("the policy that follows")
    assert mask(summary, "ser <= 1").guarantee is None
    assert mask(summary, "not sum chi2 <= 0.1").guarantee is None
    whole = mask(summary, "sum chi2 <= 100").guarantee
    assert whole.covers.startswith("the training policy itself")


def test_a_mean_caps_the_sum_over_the_horizon(summary):
    by_mean = mask(summary, "mean chi2 <= 1e-4").guarantee
    by_sum = mask(summary, f"sum chi2 <= {1e-4 * summary.T!r}").guarantee
    assert by_mean.value == by_sum.value


def test_more_caps_prove_no_less(summary):
    one = mask(summary, "sum chi2 <= 0.1").guarantee
    both = mask(summary, "sum chi2 <= 0.1 and sum kl <= 0.001").guarantee
    assert both.value < one.value


def test_caps_on_samples_are_marked(summary):
    sampled = mask(summary, "sum (rho-1)^2 <= 0.1").guarantee
    logged = mask(summary, "sum chi2 <= 0.1").guarantee
    assert sampled.plug_in
    assert sampled.value == logged.value
    # A cap that proves something is not mixed with one that does not.
    mixed = mask(summary, "sum (rho-1)^2 <= 1e-6 and sum chi2 <= 0.1").guarantee
    assert not mixed.plug_in
    assert mixed.value == logged.value


def test_length_neutral_guarantee(summary, batch, moe_path):
    delta = float(batch.kl.max())
    statistics = compute_statistics(summary, ["ln_trm"], open_trace(moe_path), kl_max=delta)
    threshold = float(np.median(statistics["ln_trm"]))
    found = mask(summary, f"ln_trm <= {threshold!r}", statistics)
    each, weight_sums = [], []
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        ratio = np.exp(batch.train_logprobs[first:last] - batch.rollout_logprobs[first:last])
        left = summary.T - np.arange(1, last - first + 1)
        weights = np.minimum(1, np.sqrt(left * delta / 2))
        each.append(np.abs(ratio - 1) @ weights)
        weight_sums.append(weights.sum())
    neutral = found.length_neutral
    assert neutral.value.value == pytest.approx(np.mean(each), rel=1e-9)
    assert neutral.accepted.value == pytest.approx(np.mean(each * found.accept), rel=1e-9)
    assert neutral.from_cap == pytest.approx(threshold * np.mean(weight_sums), rel=1e-9)
    assert neutral.accepted.value <= neutral.from_cap
    assert found.guarantee is None
    assert mask(summary, "ser <= 1").length_neutral is None


def divergences(pair):
    """Of every context: kl, tv and chi2, by position."""
    out = {"kl": [], "tv": [], "chi2": []}
    for mu, pi in zip(pair.rollout, pair.train, strict=True):
        out["kl"].append((mu * np.log(mu / pi)).sum(axis=-1))
        out["tv"].append(np.abs(pi - mu).sum(axis=-1) / 2)
        out["chi2"].append(((pi - mu) ** 2 / mu).sum(axis=-1))
    return out


def stop(pair, aggregate, values, cap):
    """Follow the training policy until the cap would be exceeded, the rollout policy from then."""
    spent, train, stops = np.zeros((1, 1)), [], 0
    for mu, pi, value in zip(pair.rollout, pair.train, values, strict=True):
        total = np.maximum(spent, value) if aggregate == "max" else spent + value
        stopped = total > cap
        stops += int(stopped.sum())
        train.append(np.where(stopped[..., None], mu, pi))
        # Once stopped, a response stays stopped.
        spent = np.repeat(np.where(stopped, np.inf, total), mu.shape[-1], axis=1)
    return replace(pair, train=tuple(train)), stops


@pytest.mark.parametrize(("kind", "seed"), [("far", 0), ("far", 1), ("near", 2), ("heavy", 3)])
@pytest.mark.parametrize("statistic", [name for name, (_, _, exact) in CAPPED.items() if exact])
def test_the_stopped_policy_keeps_within_the_guarantee(statistic, kind, seed):
    """Stop a policy pair at the cap and enumerate: its error is below what the cap proves."""
    aggregate, _, term = statistic.partition(" ")
    T = 4
    pair = random_pair(np.random.default_rng(seed), T, 3, kind=kind, reward="worst")
    values = divergences(pair)[term]
    # Above the divergence of the first token, so that the policy is not stopped at once.
    cap = (float(values[0].max()) + max(float(value.max()) for value in values)) / 2
    # A cap on the mean of a response of T tokens is a cap T times as large on its sum.
    stopped, stops = stop(pair, aggregate, values, cap * (T if aggregate == "mean" else 1))
    if aggregate != "mean":
        assert stops > 0
    profile = capped_profile(SimpleNamespace(T=T, reward_range=(0.0, 1.0)), {statistic: cap})
    proved = best_bound(profile).value
    assert 0 < exact(stopped).sup_error <= proved * (1 + 1e-12)


def test_what_a_rule_needs_is_asked_for(batch, summary):
    with pytest.raises(InputError, match="'ln_trm' needs the tokens"):
        mask(summary, "ln_trm <= 1")
    bare = TraceSummary.of(replace(batch, kl=None))
    with pytest.raises(InputError, match=r"'max kl' needs kl .* there is 'max k3'"):
        mask(bare, "max kl <= 1")
    assert mask(bare, "max k2 <= 1").accepted.share.value > 0


def test_documents_are_plain(summary):
    document = mask(summary, "sum chi2 <= 0.1").to_dict()
    again = json.loads(json.dumps(document))
    assert again["rule"] == "sum chi2 <= 0.1"
    assert again["by_length"][0]["share"]["value"] == document["by_length"][0]["share"]["value"]
    assert mask(summary, "ser <= 1").to_dict()["guarantee"] is None


def test_thresholds_beyond_single_precision_accept_all_or_none(summary):
    # The largest k2 of a sequence is kept in single precision, of which 1e300 is no number.
    assert mask(summary, "max k2 <= 1e300").accept.all()
    assert not mask(summary, "max k2 >= 1e300").accept.any()


def test_an_effect_is_shown_in_a_line(summary):
    effect = mask(summary, "max k2 <= 0.05")
    share = f"{effect.accepted.share.value:.1%} of the sequences accepted"
    assert repr(effect).startswith(f"MaskEffect('max k2 <= 0.05': {share}, ")
    assert len(repr(effect)) < 120
