"""Estimates from traces against pairs whose truth is known, and against real truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import genpareto, norm
from scipy.stats import t as student

from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError
from trbounds.oracle import exact, random_pair
from trbounds.oracle.profiles import profile_of as exact_profile_of
from trbounds.oracle.sampling import sample_trace
from trbounds.trace_bounds import JACKKNIFE, OBSERVED, RAISED, bounds_on_trace
from trbounds.traces import TraceBatch, TraceSummary, example_path, summarize, validate
from trbounds.traces.error_estimates import centred_reward, estimate_error
from trbounds.traces.jackknife import Blocks, jackknife_error, student_limit
from trbounds.traces.profile import profile_of
from trbounds.traces.weights import diagnose_weights

SUMMARIES = Path(str(files("trbounds_figures") / "data"))
TRUTH = json.loads((SUMMARIES / "truth.json").read_text())


def make_pair(seed: int, **rest: object):
    rng = np.random.default_rng(seed)
    settings = {"prompts": 3, "eos": True, "closeness": 0.4} | rest
    pair = random_pair(rng, 3, 3, **settings)
    return pair, exact(pair), rng


def trace(pair, prompts: int, samples: int, rng, **changes: object) -> TraceSummary:
    batch = sample_trace(pair, prompts, samples, rng)
    validate(batch)
    kept = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return TraceSummary.of(TraceBatch(**{**kept, **changes}))


# -- estimates against exact truth -------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["near", "far"])
def test_estimates_agree_with_enumeration(seed, kind):
    pair, truth, rng = make_pair(seed, kind=kind)
    found = estimate_error(trace(pair, 3000, 4, rng))
    known = {
        "J_mu": truth.J_mu,
        "surrogate": truth.surrogate,
        "gain": truth.J_pi - truth.J_mu,
        "error": truth.error,
        "sup_error": truth.sup_error,
        "tv_seq": truth.tv_seq,
        "residual_square": truth.residual_square,
        "residual_square_path": truth.residual_square,
        "reward_var": truth.reward_var,
        "l2": math.sqrt(truth.reward_var * truth.residual_square),
    }
    for name, value in known.items():
        estimate = getattr(found, name)
        assert abs(estimate.value - value) < 4 * estimate.error, name


@pytest.mark.parametrize("logged", [True, False])
def test_profile_agrees_with_enumeration(logged):
    pair, truth, rng = make_pair(4)
    left_out = {} if logged else {"kl": None, "tv": None, "chi2": None}
    # One sequence per prompt: standard errors by position take sequences as independent.
    summary = trace(pair, 16_000, 1, rng, **left_out)
    profile = profile_of(summary)
    quantity = {"tv_mean": "tv", "kl_mean": "kl", "chi2_mean": "chi2"}
    if not logged:
        quantity = {"tv_mean": "abs_ratio", "kl_mean": "k3", "chi2_mean": "square"}
    for name, of in quantity.items():
        error = summary.positions.standard_error(of)
        assert (abs(getattr(profile, name) - getattr(truth, name)) < 4 * error + 1e-12).all()
    exact_profile = exact_profile_of(truth).complete()
    for name in ("kl_seq", "tv_seq", "tv_total", "chi2_total", "kl_position_moment"):
        error = profile.provenance[name].standard_error
        assert abs(getattr(profile, name) - getattr(exact_profile, name)) < 4 * error, name
    observed = {name for name, mark in profile.provenance.items() if mark.kind == "observed"}
    if logged:
        # Every context is reached in so large a sample.
        for name in ("tv_max", "kl_max", "chi2_max", "chi2_path_max", "kl_path_max"):
            assert getattr(profile, name) == pytest.approx(getattr(truth, name), rel=1e-12)
            assert name in observed
        assert profile.chi2_position_max == pytest.approx(truth.chi2_position_max, rel=1e-12)
    else:
        assert observed == {"log_ratio_max"}
    assert all(mark.plug_in for mark in profile.provenance.values())


def test_stopped_path_sum_matches_enumeration():
    from trbounds.oracle import stopped_path_fields

    pair, _, rng = make_pair(5, kind="far")
    profile = profile_of(trace(pair, 4000, 2, rng))
    known = stopped_path_fields(pair, float(profile.chi2_stop_budget))
    for name in ("chi2_stop_prob", "chi2_stop_tail"):
        error = profile.provenance[name].standard_error
        assert abs(getattr(profile, name) - known[name]) <= 4 * error + 1e-12


@pytest.mark.parametrize("alike", [True, False])
def test_stopped_path_sum_allows_for_prompts(alike):
    # Half of the prompts, or half of the sequences of each, are far beyond any budget.
    prompts, samples = 20, 16
    far = np.arange(prompts * samples) // (samples if alike else 1) % 2
    batch = TraceBatch(
        offsets=np.arange(far.size + 1),
        rollout_logprobs=np.full(far.size, -1.0),
        train_logprobs=np.full(far.size, -1.0),
        chi2=5.0 * far,
        prompt_id=np.repeat(np.arange(prompts), samples),
    )
    profile = profile_of(TraceSummary.of(batch))
    assert profile.chi2_stop_prob == 0.5
    independent = prompts if alike else prompts * samples
    found = profile.provenance["chi2_stop_prob"].standard_error
    assert found == pytest.approx(math.sqrt(0.25 / (independent - 1)), rel=1e-12)


def test_a_budget_that_no_sequence_exceeds_is_an_observed_maximum():
    batch = TraceBatch(
        offsets=np.arange(9),
        rollout_logprobs=np.full(8, -1.0),
        train_logprobs=np.full(8, -1.0),
        chi2=np.full(8, 1e-3),
    )
    profile = profile_of(TraceSummary.of(batch))
    assert profile.chi2_stop_prob == 0.0
    for name in ("chi2_stop_prob", "chi2_stop_tail"):
        assert profile.provenance[name].kind == "observed"


def test_standard_errors_are_calibrated():
    """Over many traces, estimates scatter as much as their standard errors say."""
    pair, truth, rng = make_pair(6)
    names = ("surrogate", "error", "sup_error", "tv_seq", "residual_square", "reward_var", "l2")
    keys = ("martingale", "entropy_dual", "l2", "triangle", "chi2_kl", "entropy_dual_second_order")
    values: dict[str, list[float]] = {name: [] for name in (*names, *keys)}
    errors: dict[str, list[float]] = {name: [] for name in (*names, *keys)}
    for _ in range(150):
        summary = trace(pair, 60, 4, rng)
        found = estimate_error(summary)
        for name in names:
            values[name].append(getattr(found, name).value)
            errors[name].append(getattr(found, name).jackknife_error)
        bounds = bounds_on_trace(summary)
        for key in set(keys) - {"l2"}:
            values[key].append(bounds[key].value)
            errors[key].append(bounds[key].standard_error)
        assert bounds["l2"].value == pytest.approx(found.l2.value, rel=1e-12)
        assert bounds["l2"].standard_error == pytest.approx(found.l2.jackknife_error, rel=1e-9)
    for name in set(names) | set(keys):
        spread, said = np.std(values[name], ddof=1), np.mean(errors[name])
        if name in ("chi2_kl", "entropy_dual_second_order"):
            # By position only an upper bound is stated.
            assert said > 0.85 * spread, name
        else:
            assert 0.8 < said / spread < 1.25, name
    for name in ("surrogate", "error", "sup_error", "tv_seq", "residual_square"):
        exact_value = getattr(truth, name)
        mean, sem = np.mean(values[name]), np.std(values[name]) / math.sqrt(150)
        assert abs(mean - exact_value) < 4 * sem, name


def test_bounds_on_a_trace_say_how_their_error_was_made():
    pair, _, rng = make_pair(7)
    found = bounds_on_trace(trace(pair, 50, 4, rng))
    assert {b.bound.key for b in found.bounds} == set(all_bounds())
    assert found["martingale"].method == JACKKNIFE
    assert found["adaptive"].method == RAISED
    assert found["coupling"].method == OBSERVED
    assert math.isnan(found["coupling"].standard_error)
    assert found.best.value == min(b.value for b in found.bounds)
    assert all(b.assessment.plug_in for b in found.bounds)


# -- pieces ------------------------------------------------------------------------------------


def test_reward_is_centred_by_the_others_of_its_prompt():
    pair, _, rng = make_pair(8)
    summary = trace(pair, 20, 3, rng, prompt_id=np.repeat(np.arange(20), 3))
    reward, groups = summary.sequences["reward"], summary.groups()
    expected = [
        r - np.mean([s for j, s in enumerate(reward) if j != i and groups[j] == groups[i]])
        for i, r in enumerate(reward)
    ]
    assert centred_reward(summary.sequences, groups) == pytest.approx(expected, abs=1e-14)
    alone = np.arange(reward.size)
    total = reward.sum()
    expected = [r - (total - r) / (reward.size - 1) for r in reward]
    assert centred_reward(summary.sequences, alone) == pytest.approx(expected, abs=1e-14)


def test_without_prompts_the_total_variance_and_single_sequences_are_used():
    pair, truth, rng = make_pair(9)
    summary = trace(pair, 4000, 1, rng, prompt_id=None)
    profile = profile_of(summary)
    assert profile.provenance["reward_var"].by == "total variance"
    assert profile.reward_var == pytest.approx(truth.reward_var_total, rel=0.05)
    assert profile.reward_var == pytest.approx(summary.sequences["reward"].var(ddof=1), rel=1e-12)
    grouped = profile_of(trace(pair, 4000, 2, rng), reward_variance="total")
    assert grouped.provenance["reward_var"].by == "total variance"


def test_variance_of_a_binary_reward_stays_in_range():
    pair, _, rng = make_pair(10, reward="binary")
    profile = profile_of(trace(pair, 2, 2, rng, reward=np.array([0.0, 1.0, 0.0, 1.0])))
    assert profile.reward_var == 0.25


def test_rewards_that_never_differ_leave_the_variance_uncertain():
    pair, _, rng = make_pair(12)
    summary = trace(pair, 20, 4, rng, reward=np.full(80, 0.5))
    found = estimate_error(summary)
    assert found.reward_var.value == found.l2.value == 0.0
    # One of 60 degrees of freedom may be of a reward at the other end of the range.
    assert found.reward_var.error == pytest.approx(1 / 60, rel=0.1)
    q = found.residual_square_path.value
    assert found.l2.error == pytest.approx(math.sqrt(q / 60), rel=0.2)
    assert bounds_on_trace(summary)["l2"].standard_error == pytest.approx(found.l2.error)


@pytest.mark.parametrize("low", [1e3, -1e6, 1e9])
def test_a_range_of_rewards_far_from_0_costs_no_digits(low):
    pair, _, rng = make_pair(12)
    batch = sample_trace(pair, 20, 7, rng)
    for reward in (np.full(140, low + 0.3), low + rng.integers(0, 2, 140)):
        far, near = (
            estimate_error(TraceSummary.of(replace(batch, reward=rewards), reward_range=limits))
            for rewards, limits in ((reward, (low, low + 1)), (reward - low, (0, 1)))
        )
        for name in ("surrogate", "gain", "error", "reward_var", "l2"):
            found, expected = getattr(far, name), getattr(near, name)
            assert found.value == pytest.approx(expected.value, rel=1e-9, abs=1e-300)
            assert found.error == pytest.approx(expected.error, rel=1e-9, abs=1e-300)


def test_jackknife_of_a_mean_is_its_clustered_error():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 5)
    values = rng.normal(size=150) + np.repeat(rng.normal(size=30), 5)
    estimate = Blocks(groups).mean(values)
    means = values.reshape(30, 5).mean(axis=1)
    assert estimate.jackknife_error == pytest.approx(means.std(ddof=1) / math.sqrt(30), rel=1e-12)
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(150), rel=1e-12)
    assert estimate.error == max(estimate.standard_error, estimate.jackknife_error)
    assert math.isnan(jackknife_error(np.array([1.0])))
    # Bounds that grow exponentially get there, and squares would overflow.
    assert jackknife_error(np.array([1e300, 3e300])) == pytest.approx(1e300, rel=1e-15)
    many = Blocks(np.arange(2000))
    assert many.n_blocks == 500
    assert many.sums(np.ones(2000)).sum() == 2000


def test_a_mean_without_a_block_keeps_its_sign_and_its_digits():
    # The rest of each block: 0 exactly, or far below the rounding error of the total.
    values = np.array([0.1, 0.2, 0.3, 0.0, 0.0])
    assert Blocks(np.array([0, 0, 0, 1, 2])).leave_one_out(values)[0] == 0.0
    values = np.array([1e20, 1.0, 2.0, 3.0])
    assert Blocks(np.arange(4)).leave_one_out(values)[0] == 2.0
    assert math.isnan(Blocks(np.zeros(3, np.int64)).leave_one_out(np.ones(3))[0])


def test_limits_with_few_sequences_are_those_of_student():
    for limit in (0.5, 1.96, 3.0, 4.0):
        for n in (2, 3, 10, 500):
            expected = student.isf(norm.sf(limit), n - 1)
            assert student_limit(limit, n) == pytest.approx(expected, rel=1e-9)
        assert student_limit(limit, 10**9) == pytest.approx(limit, rel=1e-6)
    assert student_limit(4.0, 1) == math.inf
    assert student_limit(100.0, 10**6) == 100.0


def test_limits_with_few_sequences_grow_with_those_with_many():
    limits = np.linspace(0.0, 60.0, 241)
    for n in range(2, 40):
        found = np.array([student_limit(limit, n) for limit in limits])
        assert (found >= limits).all()
        assert (np.diff(found) >= 0).all()


def test_one_sequence_has_no_standard_error():
    pair, _, rng = make_pair(11)
    found = estimate_error(trace(pair, 1, 1, rng))
    assert math.isnan(found.error.error)
    assert found.error.value == 0.0
    assert profile_of(trace(pair, 1, 1, rng)).provenance["tv_seq"].standard_error is None


def test_a_trace_without_tokens_is_refused():
    empty = TraceBatch(
        offsets=np.zeros(3, np.int64), rollout_logprobs=np.zeros(0), train_logprobs=np.zeros(0)
    )
    with pytest.raises(InputError, match="found no token"):
        profile_of(TraceSummary.of(empty))


def test_without_rewards_the_error_is_not_estimated_but_its_largest_value_is():
    pair, truth, rng = make_pair(12)
    found = estimate_error(trace(pair, 2000, 2, rng, reward=None))
    assert found.error is None
    assert found.J_mu is None
    assert found.l2 is None
    assert abs(found.sup_error.value - truth.sup_error) < 4 * found.sup_error.error


def test_heavy_weights_are_called_heavy():
    pair, _, rng = make_pair(13)
    light = trace(pair, 200, 4, rng)
    assert diagnose_weights(light.sequences).warning is None
    heavy = genpareto.rvs(1.0, size=2000, random_state=np.random.default_rng(2)) + 0.1
    table = {"log_weight": np.log(heavy), "ratio_sum": heavy - 1}
    table["residual_path"] = np.full(2000, np.nan)
    assert "too heavy to trust" in diagnose_weights(table).warning


def test_a_square_that_rests_on_few_sequences_is_named():
    path = np.concatenate([np.full(5, 1.0), np.zeros(995)])
    table = {"log_weight": np.zeros(1000), "ratio_sum": np.zeros(1000), "residual_path": path}
    found = diagnose_weights(table)
    assert found.square_sample_size == 5.0
    assert not found.heavy
    assert "rests on about 5.0 sequences" in found.warning
    # Without chi2 Q is the mean of (W - 1 - M)^2; where that is 0 nothing is missing.
    table["residual_path"] = np.full(1000, np.nan)
    assert diagnose_weights(table).square_sample_size == 1000.0
    table["ratio_sum"] = np.sqrt(path)
    assert diagnose_weights(table).square_sample_size == 5.0


# -- the six real traces -----------------------------------------------------------------------

#: Total reward variance, Pinsker; 3.11 by the sample mean of (W - 1 - M)^2.
TABLE = {
    # D, adaptive, entropy dual, chi2-KL, path sum (X), sup, sqrt(v Q)
    "precision": (0.00627, 1.114, 0.0667, 0.0525, 0.0097, 0.0525, 0.0029, 0.0026),
    "stale_k1": (0.0104, 1.579, 0.0896, 0.0909, 0.0184, 0.0984, 0.0045, 0.0041),
    "moe": (0.0141, 1.261, 0.1096, 0.1122, 0.545, 1.959, 0.0039, 0.0063),
    "stale_k4": (0.0876, 4.679, 0.3489, 0.7715, 0.2154, 0.975, 0.0388, 0.0380),
    "fp8": (0.1362, 6.007, 0.4758, 1.110, 0.2498, 1.111, 0.0589, 0.0559),
    "stale_k16": (0.7623, 13.93, 1.563, 7.002, 68.0, 11.1, 0.297, 0.286),
}


@pytest.fixture(scope="module", params=TABLE)
def real(request: pytest.FixtureRequest) -> tuple[str, TraceSummary]:
    return request.param, TraceSummary.load(SUMMARIES / f"{request.param}.tbs")


def close(value: float, printed: float) -> bool:
    """Within 1 %, or what rounding to the printed digits allows."""
    return abs(value - printed) <= max(0.01 * printed, 5.1e-5)


def test_known_numbers_of_real_traces_are_reproduced(real):
    name, summary = real
    found = bounds_on_trace(summary, reward_variance="total")
    profile = found.profile
    by_kl = profile.with_values(tv_seq=None)
    estimates = estimate_error(summary)
    values = (
        float(profile.kl_seq),
        found["adaptive"].value,
        all_bounds()["entropy_dual"].evaluate(by_kl),
        found["chi2_kl"].value,
        found["path_sum_chi2"].value,
        float(profile.chi2_path_max),
        estimates.sup_error.value,
        math.sqrt(float(profile.reward_var) * estimates.residual_square.value),
    )
    assert all(close(value, printed) for value, printed in zip(values, TABLE[name], strict=True))
    weights = estimates.weights
    assert weights.heavy == (name == "stale_k16")
    # Few tokens, those that change their experts, carry Q.
    assert ("rests on about 13" in (weights.warning or "")) == (name == "moe")
    assert (weights.warning is None) == (name not in ("moe", "stale_k16"))


def test_estimates_agree_with_independent_rollouts(real):
    name, summary = real
    found = estimate_error(summary)
    for key, truth in TRUTH[name].items():
        if key in ("error", "surrogate", "sup_error", "J_mu"):
            estimate = getattr(found, key)
            error = math.hypot(estimate.error, truth["standard_error"])
            assert abs(estimate.value - truth["value"]) < 3 * error, key


def test_every_bound_is_above_the_true_error(real):
    name, summary = real
    truth = TRUTH[name]
    sup, error = truth["sup_error"], truth["error"]
    for bound in bounds_on_trace(summary).bounds:
        if "reward_var" not in bound.bound.requires:
            assert bound.value >= sup["value"] - 3 * sup["standard_error"], bound.bound.key
        assert bound.value >= abs(error["value"]) - 3 * error["standard_error"], bound.bound.key


def test_bounds_on_a_trace_are_found_by_key_and_one_after_another() -> None:
    found = bounds_on_trace(summarize(example_path()))
    assert found["l2"].bound is get_bound("l2")
    assert "l2" in found
    assert "L2" not in found
    assert list(found) == list(found.bounds)
    assert len(found) == len(found.bounds)
    with pytest.raises(InputError, match=r"no bound on this trace 'sequence_k'.*'sequence_kl'"):
        found["sequence_k"]
