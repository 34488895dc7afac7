"""Estimates that hold whatever the supports of the two policies, against exact truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trbounds.bounds import all_bounds
from trbounds.oracle import TabularPair, exact, missing_absolute_continuity, random_pair
from trbounds.oracle.sampling import sample_trace
from trbounds.oracle.tree import walk
from trbounds.trace_bounds import bounds_on_trace
from trbounds.traces import TraceSummary
from trbounds.traces.error_estimates import estimate_error
from trbounds.traces.jackknife import Blocks
from trbounds.traces.profile import profile_of


def truncated(pair: TabularPair) -> TabularPair:
    """Never sample the least likely token of any context."""
    rollout = []
    for table in pair.rollout:
        kept = np.where(table > table.min(axis=-1, keepdims=True), table, 0.0)
        rollout.append(kept / kept.sum(axis=-1, keepdims=True))
    return replace(pair, rollout=tuple(rollout))


def exact_ends(pair: TabularPair) -> tuple[float, float, float, float]:
    """Enumerate the ends of the error, the lower end of the gain, and the unseen mass S."""
    responses = walk(pair).responses
    seen = responses.mu > 0
    # B = M - log W, with W = 1 + M + residual.
    M = responses.ratio_sum_excess
    log_weight = np.log(np.where(seen, 1 + M + responses.residual, 1))
    spent = np.where(seen, M - log_weight, 0)
    weight = pair.prompt_probability[:, None] * responses.mu
    unseen = -float(np.sum(weight * M))
    low = -np.sum(weight * pair.reward * spent)
    high = np.sum(weight * (1 - pair.reward) * spent) + unseen
    return low, high, np.sum(weight * pair.reward * log_weight), unseen


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", ["near", "far", "heavy", "sparse", "two_valued"])
def test_the_error_lies_between_its_exact_ends(kind: str, cut: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        pair = random_pair(rng, 3, 3, prompts=2, kind=kind, reward="worst")
        if cut:
            pair = truncated(pair)
        truth = exact(pair)
        if not np.isfinite(truth.kl_seq):
            continue
        low, high, gain_low, unseen = exact_ends(pair)
        assert low - 1e-12 <= truth.error <= high + 1e-12
        assert gain_low <= truth.J_pi - truth.J_mu + 1e-12
        assert high - low == pytest.approx(truth.kl_seq, rel=1e-9, abs=1e-14)
        assert (unseen > 1e-9) == cut
        responses = walk(pair).responses
        W = 1 + responses.ratio_sum_excess + responses.residual
        weight = pair.prompt_probability[:, None] * responses.mu
        assert np.sum(weight * np.maximum(1 - W, 0)) == pytest.approx(truth.tv_seq, abs=1e-12)


def test_without_the_unseen_mass_the_upper_end_would_be_wrong() -> None:
    pair = missing_absolute_continuity(0.1).to_float()
    truth = exact(pair)
    _, high, _, unseen = exact_ends(pair)
    assert unseen == pytest.approx(0.1)
    assert high - unseen < truth.error == pytest.approx(0.1)
    assert truth.error <= high


def sampled_only(pair: TabularPair, prompts: int, rng: np.random.Generator) -> TraceSummary:
    batch = sample_trace(pair, prompts, 4, rng)
    return TraceSummary.of(replace(batch, kl=None, tv=None, chi2=None, entropy=None))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_truncated_rollouts_do_not_shrink_the_divergences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = truncated(random_pair(rng, 4, 4, prompts=2, kind="near", closeness=0.4, reward="worst"))
    truth, summary = exact(pair), sampled_only(pair, 2000, rng)
    profile = profile_of(summary)
    for name, value in (
        ("kl_seq", truth.kl_seq),
        ("tv_seq", truth.tv_seq),
        ("tv_total", float(np.sum(truth.tv_mean))),
    ):
        error = profile.provenance[name].standard_error
        assert abs(getattr(profile, name) - value) < 4 * error, name
    # The usual estimator of the KL falls far short here.
    k3 = Blocks(summary.groups()).mean(summary.sequences["k3_sum"])
    assert k3.value + 20 * k3.error < truth.kl_seq
    estimates = estimate_error(summary)
    assert estimates.error_low is not None
    assert estimates.error_high is not None
    assert estimates.gain_low is not None
    assert estimates.error_low.value - 4 * estimates.error_low.error <= truth.error
    assert truth.error <= estimates.error_high.value + 4 * estimates.error_high.error
    gain = truth.J_pi - truth.J_mu
    assert estimates.gain_low.value <= gain + 4 * estimates.gain_low.error
    _, _, gain_low, _ = exact_ends(pair)
    assert abs(estimates.gain_low.value - gain_low) < 4 * estimates.gain_low.error
    found = bounds_on_trace(summary)
    for key, bound in all_bounds().items():
        if not bound.assumes:
            assert found[key].value + 4 * found[key].standard_error >= abs(truth.error), key


def test_the_kl_is_the_larger_of_two_means() -> None:
    """So it is never negative, and never below k3, whose sum over positions bounds rely on."""
    rng = np.random.default_rng(3)
    pair = random_pair(rng, 3, 3, prompts=2, kind="near", closeness=0.05, reward="uniform")
    raised = 0
    for _ in range(40):
        summary = sampled_only(pair, 10, rng)
        profile, table = profile_of(summary), summary.sequences
        k1, k3 = -table["log_weight"].mean(), table["k3_sum"].mean()
        assert profile.kl_seq == pytest.approx(max(k1, k3), rel=1e-9)
        assert profile.kl_seq >= np.sum(profile.kl_mean) * (1 - 1e-12) > 0
        raised += k1 > k3
        # Every profile of the jackknife is one: no KL in it is negative.
        assert np.isfinite(bounds_on_trace(summary)["sequence_kl"].standard_error)
    assert 5 < raised < 35


def test_estimates_agree_with_exact_ends() -> None:
    rng = np.random.default_rng(11)
    pair = random_pair(rng, 4, 3, prompts=2, kind="near", closeness=0.4, reward="uniform")
    truth = exact(pair)
    summary = TraceSummary.of(sample_trace(pair, 40, 100, rng))
    found = estimate_error(summary)
    assert found.error_low is not None
    assert found.error_high is not None
    assert found.gain_low is not None
    width = found.error_high.value - found.error_low.value
    table = summary.sequences
    larger = max(np.mean(table["k3_sum"]), -np.mean(table["log_weight"]))
    assert width == pytest.approx(larger, rel=1e-12)
    slack = 4 * found.error_low.error
    assert found.error_low.value - slack <= truth.error
    assert found.gain_low.value <= truth.J_pi - truth.J_mu + 4 * found.gain_low.error
