"""Masking rules against their definitions, and the guarantee of a path-sum cap."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.masking import RULES, length_neutral_scores, mask, sweep
from trbounds.masking.effect import MaskEffect
from trbounds.oracle import exact, random_pair, stopped_path_fields
from trbounds.traces import TraceBatch, TraceSummary, open_trace, summarize

MOE = str(Path(__file__).parent / "data" / "moe.parquet")


@pytest.fixture(scope="module")
def batch() -> TraceBatch:
    parts = list(open_trace(MOE))
    assert len(parts) > 0
    return parts[0]


@pytest.fixture(scope="module")
def summary() -> TraceSummary:
    return summarize(MOE)


def slow_scores(batch: TraceBatch, rule: str) -> list[float]:
    """Each rule as its definition reads, one sequence at a time."""
    out = []
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        log_ratio = batch.train_logprobs[first:last] - batch.rollout_logprobs[first:last]
        rho = np.exp(log_ratio)
        kl, chi2 = batch.kl[first:last], batch.chi2[first:last]
        out.append(
            {
                "trm_max": lambda kl=kl: kl.max(),
                "trm_max_k2": lambda x=log_ratio: (x**2 / 2).max(),
                "trm_average": lambda kl=kl: kl.mean(),
                "trm_average_k3": lambda r=rho, x=log_ratio: (r - 1 - x).mean(),
                "ser": lambda r=rho: np.abs(r - 1).mean(),
                "geometric_ratio": lambda x=log_ratio: abs(x.mean()),
                "sequence_ratio": lambda x=log_ratio: math.exp(x.sum()),
                "path_sum_chi2": lambda c=chi2: c.sum(),
                "path_sum_kl": lambda kl=kl: kl.sum(),
            }[rule]()
        )
    return out


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if rule.score])
def test_scores_are_what_the_rules_say(batch, rule):
    scores = RULES[rule].scores(TraceSummary.of(batch))
    assert scores == pytest.approx(slow_scores(batch, rule), rel=1e-6)


@pytest.mark.parametrize("tv_max", [None, 0.01])
def test_length_neutral_scores(batch, tv_max):
    T, delta = 300, 1e-3
    found = length_neutral_scores([batch], T=T, kl_max=delta, tv_max=tv_max)
    for i in range(batch.n_sequences):
        tokens = slice(batch.offsets[i], batch.offsets[i + 1])
        ratio = np.abs(np.exp(batch.train_logprobs[tokens] - batch.rollout_logprobs[tokens]) - 1)
        left = [T - t for t in range(1, ratio.size + 1)]
        weights = [min(1.0, math.sqrt(n * delta / 2), n * (tv_max or math.inf)) for n in left]
        expected = sum(r * w for r, w in zip(ratio, weights, strict=True)) / sum(weights)
        assert found[i] == pytest.approx(expected, rel=1e-9)


def test_length_neutral_scores_follow_the_order_of_a_summary(batch):
    first = replace(batch.select(np.arange(batch.n_sequences) < 10), file="b")
    second = replace(batch.select(np.arange(batch.n_sequences) >= 10), file="a")
    pieces = [*list(first.slices(500))[::-1], second]
    found = length_neutral_scores(pieces, T=256, kl_max=0.1)
    straight = length_neutral_scores([second, first], T=256, kl_max=0.1)
    assert found == pytest.approx(straight, rel=0, abs=0)
    merged = TraceSummary.of(first).merge(TraceSummary.of(second))
    assert merged.files == ["a", "b"]
    assert found[: second.n_sequences] == pytest.approx(
        length_neutral_scores([second], T=256, kl_max=0.1)
    )


def test_length_neutral_scores_skip_masked_tokens_and_refuse_a_short_horizon(batch):
    flags = np.ones(batch.n_tokens, dtype=bool)
    flags[batch.offsets[3] : batch.offsets[4]] = False
    scores = length_neutral_scores([replace(batch, mask=flags)], T=256, kl_max=0.1)
    assert scores[3] == 0.0
    with pytest.raises(InputError, match="at most T = 5"):
        length_neutral_scores([batch], T=5, kl_max=0.1)


def test_effect_of_a_mask(summary):
    threshold = float(np.median(summary.sequences["kl_max"]))
    found = mask(summary, {"trm_max": threshold})
    accept = summary.sequences["kl_max"] <= threshold
    assert (found.accept == accept).all()
    assert found.accepted_share == accept.mean()
    lengths = summary.sequences["length"]
    assert found.accepted_token_share == lengths[accept].sum() / lengths.sum()
    assert sum(b.n_sequences for b in found.by_length) == summary.n_sequences
    assert sum(b.n_sequences * b.accepted_share for b in found.by_length) == pytest.approx(
        accept.sum()
    )
    per_token = summary.sequences["log_weight"] / lengths
    assert found.ppl_gap == pytest.approx(np.abs(per_token).mean())
    assert found.accepted_ppl_gap == pytest.approx(np.abs(per_token[accept]).mean())


def test_masked_surrogate_is_divided_by_the_batch_size(summary):
    table, groups = summary.sequences, summary.groups()
    found = mask(summary, {"trm_average": 1e-4})
    total = 0.0
    for i in np.flatnonzero(found.accept):
        others = [j for j in np.flatnonzero(groups == groups[i]) if j != i]
        baseline = table["reward"][others].mean()
        total += (table["reward"][i] - baseline) * table["ratio_sum"][i]
    assert 0 < found.accepted_share < 1
    assert found.surrogate.value == pytest.approx(total / summary.n_sequences, rel=1e-9)
    everything = mask(summary, {"trm_average": 1e9})
    assert everything.surrogate == everything.unmasked_surrogate


def test_rules_combine(summary):
    one, two = mask(summary, {"trm_max": 1e-3}), mask(summary, {"ser": 5e-3})
    both = mask(summary, {"trm_max": 1e-3, "ser": 5e-3})
    assert (both.accept == (one.accept & two.accept)).all()


def test_a_mask_that_accepts_nothing(summary):
    found = mask(summary, {"path_sum_chi2": 0.0})
    assert found.accepted_share == 0.0
    assert found.surrogate.value == 0.0
    assert math.isnan(found.accepted_ppl_gap)


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if rule.score])
def test_a_sweep_accepts_from_a_tenth_to_all(summary, rule):
    found = sweep(summary, rule)
    shares = [effect.accepted_share for effect in found]
    assert shares == sorted(shares)
    assert shares[0] >= 0.1
    assert shares[-1] == 1.0
    assert isinstance(found[0], MaskEffect)
    given = sweep(summary, rule, [0.0, 1e300])
    assert [effect.accepted_share for effect in given][1] == 1.0


def test_max_criterion_drops_long_sequences_more_than_the_length_neutral_one(summary):
    scores = {
        "ln_trm": length_neutral_scores(
            open_trace(MOE), T=summary.T, kl_max=summary.extremes["kl_max"].value
        )
    }
    by_max = sweep(summary, "trm_max")[4]
    neutral = sweep(summary, "ln_trm", scores=scores)[4]
    assert by_max.by_length[-1].accepted_share < neutral.by_length[-1].accepted_share


# -- what a cap proves -------------------------------------------------------------------------


def test_guarantee_is_the_bound_at_the_cap(summary):
    found = mask(summary, {"path_sum_chi2": 0.1, "trm_max": 1.0}).guarantee
    assert found.value == pytest.approx(0.5 * math.sqrt(math.expm1(0.1) - 0.1), rel=1e-12)
    assert found.value_for_reward < found.value
    assert found.covers.startswith("the policy that follows")
    assert mask(summary, {"trm_max": 1.0}).guarantee is None
    whole = mask(summary, {"path_sum_chi2": 100.0}).guarantee
    assert whole.covers.startswith("the training policy itself")
    by_kl = mask(summary, {"path_sum_kl": 0.01}).guarantee
    assert by_kl.value == pytest.approx(0.0220518, rel=1e-5)
    assert mask(summary, {"path_sum_chi2": 0.1, "path_sum_kl": 0.01}).guarantee == by_kl


@pytest.mark.parametrize("seed", range(6))
def test_the_stopped_policy_keeps_within_the_guarantee(seed):
    """Stop a policy pair at the cap and enumerate: its error is below what the cap proves."""
    rng = np.random.default_rng(seed)
    pair = random_pair(rng, 4, 3, kind="far", reward="worst")
    cap = float(exact(pair).chi2_path_max) / 3
    chi2 = [
        ((pi - mu) ** 2 / mu).sum(axis=-1) for mu, pi in zip(pair.rollout, pair.train, strict=True)
    ]
    spent, train = np.zeros((1, 1)), []
    for mu, pi, step in zip(pair.rollout, pair.train, chi2, strict=True):
        total = spent + step
        stopped = total > cap
        train.append(np.where(stopped[..., None], mu, pi))
        # Once stopped, a response stays stopped.
        spent = np.repeat(np.where(stopped, np.inf, total), 3, axis=1)
    stopped_pair = replace(pair, train=tuple(train))
    truth = exact(stopped_pair)
    assert stopped_path_fields(pair, cap)["chi2_stop_prob"] > 0
    proved = 0.5 * math.sqrt(math.expm1(cap) - cap)
    assert 0 < truth.sup_error <= proved


def test_bad_rules_are_refused(summary):
    with pytest.raises(InputError, match="no rule 'nope'; there are: trm_max"):
        mask(summary, {"nope": 1.0})
    with pytest.raises(InputError, match="at least 0"):
        mask(summary, {"trm_max": float("nan")})
    with pytest.raises(InputError, match="no rule given"):
        mask(summary, {})
    with pytest.raises(InputError, match="needs the tokens"):
        mask(summary, {"ln_trm": 1.0})


def test_a_rule_without_its_columns_is_refused(batch):
    bare = TraceSummary.of(replace(batch, kl=None))
    with pytest.raises(InputError, match="'trm_max' needs kl"):
        mask(bare, {"trm_max": 1.0})
    assert mask(bare, {"trm_max_k2": 1.0}).accepted_share > 0


def test_documents_are_plain(summary):
    document = mask(summary, {"path_sum_chi2": 0.1}).to_dict()
    assert set(document) == {
        "thresholds",
        "accepted_share",
        "accepted_token_share",
        "by_length",
        "surrogate",
        "unmasked_surrogate",
        "ppl_gap",
        "accepted_ppl_gap",
        "guarantee",
    }
    bare = mask(TraceSummary.of(next(iter(open_trace(MOE)))), {"ser": 1.0}).to_dict()
    assert bare["guarantee"] is None
