"""Framework metrics against straightforward float32 readings of the frameworks' formulas."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.metrics import FRAMEWORKS, framework_metrics, trace_statistics
from trbounds.traces import TraceBatch, TraceSummary, open_trace, summarize

MOE = str(Path(__file__).parent / "data" / "moe.parquet")
F = np.float32


def make_batch(seed: int, *, spread: float = 0.05, lengths=None) -> TraceBatch:
    """Log-probabilities that are float32 numbers, as frameworks hold them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, 24) if lengths is None else np.asarray(lengths)
    rollout = -rng.exponential(1.0, lengths.sum()).astype(F)
    train = np.minimum(rollout + spread * rng.standard_normal(rollout.size), 0).astype(F)
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=rollout.astype(np.float64),
        train_logprobs=train.astype(np.float64),
        prompt_id=np.arange(lengths.size) // 4,
        step=np.arange(lengths.size) % 3,
    )


def padded(batch: TraceBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-padded float32 matrices with rubbish in the padding, and the response mask."""
    width = int(batch.lengths.max()) + 3
    mask = np.arange(width) < batch.lengths[:, None]
    pi, mu = np.full(mask.shape, -7, F), np.full(mask.shape, -1, F)
    pi[mask], mu[mask] = batch.train_logprobs, batch.rollout_logprobs
    return pi, mu, mask.astype(F)


def masked_mean(values, mask, axis=None):
    return (values * mask).sum(axis=axis) / (mask.sum(axis=axis) + F(1e-8))


def verl_offpolicy(pi, mu, mask):
    found = {}
    mean_pi, mean_mu = masked_mean(pi, mask, -1), masked_mean(mu, mask, -1)
    found["training_ppl"] = np.exp(-mean_pi).mean()
    found["training_log_ppl"] = (-mean_pi).mean()
    found["kl"] = masked_mean(mu - pi, mask)
    log_ratio = pi - mu
    found["k3_kl"] = masked_mean(np.exp(log_ratio) - log_ratio - 1, mask)
    found["rollout_ppl"] = np.exp(-mean_mu).mean()
    found["rollout_log_ppl"] = (-mean_mu).mean()
    difference = mean_mu - mean_pi
    found["log_ppl_diff"] = difference.mean()
    found["log_ppl_abs_diff"] = np.abs(difference).mean()
    found["log_ppl_diff_max"] = difference.max()
    found["log_ppl_diff_min"] = difference.min()
    found["ppl_ratio"] = np.exp(difference).mean()
    rho = np.exp(np.clip(log_ratio, -20, 20))
    found["chi2_token"] = masked_mean(rho * rho, mask) - 1
    total = (log_ratio * mask).sum(-1)
    found["chi2_seq"] = np.exp(2 * np.clip(total, -20, 20)).mean() - 1
    return found


def verl_weights(pi, mu, mask, level, cap, floor):
    log_ratio = pi - mu
    total = (log_ratio * mask).sum(-1, keepdims=True)
    log_weight = log_ratio if level == "token" else total
    raw = np.exp(np.clip(log_weight, -20, 20)) * np.ones_like(mask) * mask
    low = F(1 / cap) if floor is None else F(floor)
    inside = (raw >= low) & (raw <= F(cap))
    weight = np.minimum(raw, F(cap)) if floor is None else np.where(inside, raw, F(0))
    found = {"mean": masked_mean(weight, mask)}
    if level == "token":
        found["max"], found["min"] = weight[mask > 0].max(), weight[mask > 0].min()
        found["ratio_fraction_high"] = masked_mean((raw > cap).astype(F), mask)
        found["ratio_fraction_low"] = masked_mean((raw < low).astype(F), mask)
    else:
        found["max"], found["min"] = np.exp(min(total.max(), 20)), np.exp(total.min())
        found["ratio_fraction_high"] = (total > np.log(cap)).mean()
        found["ratio_fraction_low"] = (total < np.log(low)).mean()
    mean = masked_mean(weight, mask)
    found["std"] = np.sqrt(max(masked_mean(weight**2, mask) - mean**2, 0))
    found["eff_sample_size"] = 1 / masked_mean((weight / (mean + F(1e-8))) ** 2, mask)
    by_sequence = masked_mean(weight, mask, -1)
    found["seq_mean"] = by_sequence.mean()
    found["seq_std"] = by_sequence.std(ddof=1)
    found["seq_max"], found["seq_min"] = by_sequence.max(), by_sequence.min()
    found["seq_max_deviation"] = np.abs(by_sequence - 1).max()
    raw_by_sequence = masked_mean(raw, mask, -1)
    found["seq_fraction_high"] = (raw_by_sequence > cap).mean()
    found["seq_fraction_low"] = (raw_by_sequence < low).mean()
    if floor is not None:
        found["oob_ratio"] = masked_mean((~inside).astype(F), mask)
    return {f"rollout_is_{name}": value for name, value in found.items()}


def values_of(batch, framework, **settings):
    """What both kernels find."""
    found, compiled = (
        framework_metrics([batch], framework, kernel=kernel, **settings)[0].values
        for kernel in ("numpy", "numba")
    )
    assert compiled.keys() == found.keys()
    # prime-rl's standard deviation is a difference of sums, good to 1e-7 of the mean.
    rough = {"mismatch_kl/all/std": 1e-7 * found.get("mismatch_kl/all/mean", 0.0)}
    for name, value in found.items():
        expected = pytest.approx(value, rel=1e-10, abs=rough.get(name, 1e-13), nan_ok=True)
        assert compiled[name] == expected, name
    return found


@pytest.mark.parametrize(
    ("level", "cap", "floor"),
    [
        ("token", 2.0, None),
        ("token", 1.05, None),
        ("token", 0.9, None),
        ("token", 1.1, 0.95),
        ("sequence", 1.3, None),
        ("sequence", 1.3, 0.9),
    ],
)
@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_verl(level, cap, floor, spread):
    lengths = np.random.default_rng(0).integers(1, 60, 24)
    lengths[5] = 0
    batch = make_batch(1, spread=spread, lengths=lengths)
    pi, mu, mask = padded(batch)
    expected = verl_offpolicy(pi, mu, mask) | verl_weights(pi, mu, mask, level, cap, floor)
    found = values_of(batch, "verl", cap=cap, floor=floor, level=level)
    assert set(found) == {f"rollout_corr/{name}" for name in expected}
    for name, value in expected.items():
        # The standard deviation is a difference of two float32 numbers near 1, then a root.
        slack = {"rollout_is_std": 1e-4}.get(name, 1e-6)
        assert found[f"rollout_corr/{name}"] == pytest.approx(float(value), rel=2e-6, abs=slack), (
            name
        )


def test_verl_clamps():
    """A token, and a sequence, beyond e^20 count as e^20; log ratios themselves do not."""
    batch = TraceBatch(
        offsets=np.array([0, 1, 3]),
        rollout_logprobs=np.array([-30.0, -15.0, -15.0]),
        train_logprobs=np.array([-1.0, -1.0, -1.0]),
    )
    found = values_of(batch, "verl", level="sequence")
    assert found["rollout_corr/chi2_token"] == pytest.approx(
        (math.exp(40) + 2 * math.exp(28)) / 3 - 1
    )
    assert found["rollout_corr/chi2_seq"] == pytest.approx(math.exp(40) - 1)
    assert found["rollout_corr/rollout_is_max"] == pytest.approx(math.exp(20))
    assert found["rollout_corr/kl"] == pytest.approx(-(29 + 28) / 3)
    # IcePop with weights of which none is kept has no effective sample.
    nothing = values_of(batch, "verl", floor=0.5)
    assert nothing["rollout_corr/rollout_is_oob_ratio"] == 1.0
    assert math.isnan(nothing["rollout_corr/rollout_is_eff_sample_size"])


@pytest.mark.parametrize(
    ("level", "cap", "floor"),
    [
        (None, None, None),
        ("tis", 1.2, None),
        ("tis", 1.2, 0.9),
        ("icepop", 1.2, 0.9),
        ("seq-mask-tis", 1.05, 0.96),
    ],
)
def test_nemo_rl(level, cap, floor):
    """Restated from NeMo-RL 0.7.0 and commit 7ea279a, whose formulas are the same.

    Of the loss: sums over tokens with ``token_mask * sample_mask`` 1, divided by their number in
    the global batch (plus 1e-8); nothing is clamped, and ratios that are not finite become 0. The
    mean ratio is that of the weights after truncation: cut, set to 0, or, by the geometric mean of
    a sequence, set to 0 in all of it. Of the driver: per sequence, after sequences above the
    threshold are masked.
    """
    batch = make_batch(2, spread=0.3, lengths=[*range(5, 28), 0])
    kept = np.arange(batch.n_sequences) % 5 != 0
    pi, mu, mask = padded(batch)
    mask = mask * kept[:, None].astype(F)
    d = pi - mu
    mixture = np.log(F(0.5) * np.exp(pi) + F(0.5) * np.exp(mu))

    def k3(x):
        return np.exp(x) - x - 1

    error = np.exp(np.abs(mu - pi) * mask)
    each = (error * mask).sum(-1) / np.maximum(mask.sum(-1), 1)
    each = each[mask.sum(-1) > 0]
    expected = {
        "token_mult_prob_error": masked_mean(error, mask),
        "gen_kl_error": masked_mean(k3(d), mask),
        "policy_kl_error": masked_mean(k3(-d), mask),
        "js_divergence_error": masked_mean(0.5 * k3(pi - mixture) + 0.5 * k3(mu - mixture), mask),
        "max_seq_mult_prob_error_after_mask": each.max(),
        "mean_seq_mult_prob_error_after_mask": each.mean(),
        "min_seq_mult_prob_error_after_mask": each.min(),
    }
    ratio = np.exp(d)
    low, high = F(floor or 0.0), F(cap or np.inf)
    outside = (ratio < low) | (ratio > high)
    if level == "tis":
        ratio = np.clip(ratio, low, high)
    elif level == "icepop":
        ratio = np.where(outside, F(0), ratio)
    elif level == "seq-mask-tis":
        geometric = np.exp(masked_mean(d, mask, -1))
        outside = (geometric < low) | (geometric > high)
        ratio = ratio * ~outside[:, None]
    expected["sampling_importance_ratio"] = masked_mean(ratio, mask)
    if level is not None:
        weight = kept.astype(F) if level == "seq-mask-tis" else mask
        expected["is_oob_ratio"] = masked_mean(outside.astype(F), weight)
        assert 0 < expected["is_oob_ratio"] < 1
    found = values_of(replace(batch, accepted=kept), "nemo-rl", level=level, cap=cap, floor=floor)
    assert set(found) == {f"train/{name}" for name in expected}
    for name, value in expected.items():
        assert found[f"train/{name}"] == pytest.approx(float(value), abs=1e-6, rel=1e-6), name
    with pytest.raises(InputError, match="nemo-rl kept"):
        values_of(replace(batch, accepted=np.zeros_like(kept)), "nemo-rl")


def test_what_equals_a_limit_is_inside():
    batch = TraceBatch(
        offsets=np.array([0, 1, 2]),
        rollout_logprobs=np.array([-1.0, -1.0]),
        train_logprobs=np.array([-1.0, -0.5]),
    )
    for level in ("seq-mask-tis", "icepop", "tis"):
        found = values_of(batch, "nemo-rl", level=level, cap=1.0, floor=1.0)
        assert found["train/is_oob_ratio"] == 0.5
        kept = 1.0 if level == "tis" else 0.5
        assert found["train/sampling_importance_ratio"] == kept


def test_extremes_over_sequences_have_no_standard_error():
    (found,) = framework_metrics([make_batch(2)], "nemo-rl")
    for name, error in found.standard_errors.items():
        assert math.isnan(error) == name.startswith(("train/max_", "train/min_")), name


def test_what_nemo_rl_left_out_is_nowhere_in_its_metrics():
    batch = make_batch(2, spread=0.3)
    # Of prompt 0 alone, or of steps 0 and 1 alone, something was kept.
    for kept in (batch.prompt_id == 0, batch.step != 2):
        logged = replace(batch, accepted=kept)
        for by_step in (False, True):
            found = framework_metrics([logged], "nemo-rl", by_step=by_step)
            alone = framework_metrics([batch.select(kept)], "nemo-rl", by_step=by_step)
            assert [repr(part) for part in found] == [repr(part) for part in alone]


def test_nemo_rl_drops_ratios_that_overflow():
    batch = TraceBatch(
        offsets=np.array([0, 2]),
        rollout_logprobs=np.array([-95.0, -1.0]),
        train_logprobs=np.array([-1.0, -1.5]),
    )
    found = values_of(batch, "nemo-rl")
    with np.errstate(over="ignore"):
        ratio = np.exp(np.array([94.0, -0.5], F))
    expected = np.nan_to_num(ratio, posinf=0.0).mean()
    assert found["train/sampling_importance_ratio"] == pytest.approx(float(expected), rel=1e-6)
    # What overflows is 0 before it is cut, and so below the lower limit.
    cut = values_of(batch, "nemo-rl", level="tis", cap=5.0, floor=0.5)
    assert cut["train/sampling_importance_ratio"] == pytest.approx((0.5 + math.exp(-0.5)) / 2)
    assert cut["train/is_oob_ratio"] == 0.5


@pytest.mark.parametrize("size", [1e-9, 1e-5, 0.00999, 0.01001, 0.05, 0.5, 12.0])
def test_jensen_shannon_is_accurate_at_every_size(size):
    mpmath = pytest.importorskip("mpmath")
    batch = TraceBatch(
        offsets=np.array([0, 1]),
        rollout_logprobs=np.array([-size]),
        train_logprobs=np.array([0.0]),
    )
    with mpmath.workdps(60):
        d = mpmath.mpf(size)
        mixture = mpmath.log((1 + mpmath.exp(-d)) / 2)
        expected = sum((mpmath.exp(x) - x - 1) / 2 for x in (-mixture, -d - mixture))
        assert values_of(batch, "nemo-rl")["train/js_divergence_error"] == pytest.approx(
            float(expected), rel=1e-9
        )


def test_prime_rl():
    """Restated from prime-rl 0.8.0 and commit 559b447: one distribution over all tokens.

    Mean, largest, and standard deviation with n - 1, as torch has it. Versions 0.3 to 0.5: one mean
    per sequence, of which these are mean and largest.
    """
    batch = make_batch(3, lengths=[*range(1, 24), 0])
    pi, mu, mask = padded(batch)
    d = pi - mu
    token = np.exp(d) - d - 1
    each = (token * mask).sum(-1) / np.maximum(mask.sum(-1), 1)
    counted = token[mask > 0].astype(np.float64)
    found = values_of(batch, "prime-rl")
    expected = {
        "mismatch_kl/all/mean": counted.mean(),
        "mismatch_kl/all/std": counted.std(ddof=1),
        "mismatch_kl/all/max": counted.max(),
        "mismatch_kl/mean": each.mean(),
        "mismatch_kl/max": each.max(),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-6), name


def test_prime_rl_at_extremes():
    def of(rollout, train):
        return values_of(
            TraceBatch(
                offsets=np.array([0, len(rollout)]),
                rollout_logprobs=np.array(rollout),
                train_logprobs=np.array(train),
            ),
            "prime-rl",
        )

    # torch.std of one number is not a number; of equal ones it is 0.
    assert math.isnan(of([-1.0], [-2.0])["mismatch_kl/all/std"])
    equal = of([-1.0] * 7, [-2.0] * 7)
    assert equal["mismatch_kl/all/std"] <= 1e-7 * equal["mismatch_kl/all/mean"]
    huge = of([-900.0, -1.0], [-1.0, -1.0])
    assert huge["mismatch_kl/all/max"] == math.inf
    assert math.isnan(huge["mismatch_kl/all/std"])


@pytest.mark.parametrize(("cap", "floor"), [(None, None), (1.2, None), (1.2, 0.9), (5.0, 0.5)])
def test_slime(cap, floor):
    """Restated from slime 0.3.1 and commit 624b824: a mean over sequences of means over tokens.

    A sequence without a token that counts has the mean 0 and counts. ``tis_clipfrac`` is the share
    of weights that the clamp to [tis_clip_low, tis_clip] changes, by default [0, 2]; IcePop's is
    the share outside of the same limits.
    """
    batch = make_batch(10, spread=0.4, lengths=[*range(1, 24), 0])
    pi, mu, mask = padded(batch)

    def reduce(values):
        return ((values * mask).sum(-1) / np.maximum(mask.sum(-1), 1)).mean()

    ratio = np.exp(pi - mu)
    clamped = np.clip(ratio, F(floor or 0.0), F(cap or 2.0))
    expected = {
        "train_rollout_logprob_abs_diff": reduce(np.abs(pi - mu)),
        "tis": reduce(ratio),
        "tis_abs": reduce(np.abs(ratio - 1)),
        "tis_clipfrac": reduce((clamped != ratio).astype(F)),
    }
    assert cap is None or expected["tis_clipfrac"] > 0
    found = values_of(batch, "slime", cap=cap, floor=floor)
    assert set(found) == {f"train/{name}" for name in expected}
    for name, value in expected.items():
        assert found[f"train/{name}"] == pytest.approx(float(value), rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("floor", [None, 0.8])
@pytest.mark.parametrize(
    "level", ["sequence_mask", "sequence_truncate", "token_mask", "token_truncate"]
)
def test_trl(level, floor):
    batch = make_batch(4, spread=0.3)
    pi, mu, mask = padded(batch)
    cap = F(3.0 if level.startswith("sequence") else 1.4)
    d = (pi - mu) * mask
    ratio = np.exp(d.sum(-1)) if level.startswith("sequence") else np.exp(d)[mask > 0]
    low = -np.inf if floor is None else F(floor)
    outside = (ratio < low) | (ratio > cap)
    assert outside.any()
    ratio = np.where(outside, 0, ratio) if level.endswith("mask") else np.clip(ratio, low, cap)
    delta = np.abs(pi - mu)[mask > 0]
    found = values_of(batch, "trl", level=level, cap=float(cap), floor=floor)
    for name, value in {
        "sampling_logp_difference/mean": delta.mean(),
        "sampling_logp_difference/max": delta.max(),
        "importance_sampling_ratio/min": ratio.min(),
        "importance_sampling_ratio/mean": ratio.mean(),
        "importance_sampling_ratio/max": ratio.max(),
    }.items():
        assert found[f"sampling/{name}"] == pytest.approx(float(value), rel=2e-6, abs=1e-6)


def test_trl_cuts_ratios_beyond_every_number():
    batch = TraceBatch(
        offsets=np.array([0, 1, 2]),
        rollout_logprobs=np.array([-900.0, -1.0]),
        train_logprobs=np.array([-1.0, -1.0]),
    )
    for level, mean in (("token_truncate", 2.0), ("token_mask", 0.5), ("sequence_mask", 0.5)):
        found = values_of(batch, "trl", level=level)
        assert found["sampling/importance_sampling_ratio/mean"] == pytest.approx(mean)
    uncapped = values_of(batch, "trl", level="token_mask", cap=math.inf)
    assert uncapped["sampling/importance_sampling_ratio/max"] == math.inf


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_lowest_training_log_probability_gives_infinities_and_no_warning(framework, kernel):
    batch = TraceBatch(
        offsets=np.array([0, 1, 2, 4]),
        rollout_logprobs=np.full(4, -1.0),
        train_logprobs=np.array([-1e4, -1.0, -1.5, -0.5]),
    )
    (found,) = framework_metrics([batch], framework, kernel=kernel)
    assert not any(map(math.isnan, found.values.values()))
    if framework == "verl":
        assert found.values["rollout_corr/training_ppl"] == math.inf
        assert found.values["rollout_corr/ppl_ratio"] == math.inf
        assert math.isnan(found.standard_errors["rollout_corr/training_ppl"])


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_sums_beyond_float64_give_no_warning(framework, kernel):
    # e^709.7 is a float64, twice that is not.
    batch = TraceBatch(
        offsets=np.array([0, 1, 3, 6]),
        rollout_logprobs=np.full(6, -0.0),
        train_logprobs=np.full(6, -709.7),
    )
    (found,) = framework_metrics([batch], framework, kernel=kernel)
    assert not any(map(math.isnan, found.values.values()))
    if framework == "verl":
        assert found.values["rollout_corr/training_ppl"] == math.inf


@pytest.mark.parametrize("d", [-8.0, -20.0, -30.0, -45.0, -300.0])
def test_small_weights_have_all_their_digits(d):
    batch = TraceBatch(
        offsets=np.array([0, 2]),
        rollout_logprobs=np.array([-1.0, -1.0]),
        train_logprobs=np.array([d - 1.0, -1.0]),
    )
    # From expm1(d) + 1 they would be without digits near e^-36, and 0 beyond.
    trl = values_of(batch, "trl", level="token_truncate")
    assert trl["sampling/importance_sampling_ratio/min"] == pytest.approx(
        math.exp(d), rel=1e-14, abs=0
    )
    verl = values_of(batch, "verl")["rollout_corr/rollout_is_min"]
    assert verl == pytest.approx(math.exp(max(d, -20.0)), rel=1e-14, abs=0)
    floor = math.exp(d) / 2
    assert values_of(batch, "slime", floor=floor)["train/tis_clipfrac"] == 0.0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_steps_are_the_metrics_of_their_sequences(framework):
    batch = make_batch(5)
    by_step = framework_metrics([batch], framework, by_step=True)
    assert [part.step for part in by_step] == [0, 1, 2]
    (without,) = framework_metrics([replace(batch, step=None)], framework, by_step=True)
    assert without.to_dict()["step"] is None
    for part in by_step:
        alone = values_of(batch.select(batch.step == part.step), framework)
        assert part.values == pytest.approx(alone)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_batches_and_masked_tokens_change_nothing(framework):
    batch = make_batch(6)
    whole = values_of(batch, framework)
    (cut,) = framework_metrics(batch.slices(100), framework)
    assert cut.values == pytest.approx(whole)
    flags = np.ones(batch.n_tokens, dtype=bool)
    flags[::3] = False
    left = values_of(replace(batch, mask=flags), framework)
    assert left == pytest.approx(values_of(replace(batch, mask=flags).counted(), framework))


def test_standard_error_is_that_of_a_mean():
    """With equal lengths the jackknife of a mean over tokens is that of the prompts' means."""
    batch = make_batch(7, lengths=[11] * 24)
    (found,) = framework_metrics([batch], "verl")
    prompts = (batch.rollout_logprobs - batch.train_logprobs).reshape(6, -1).mean(axis=1)
    assert found.standard_errors["rollout_corr/kl"] == pytest.approx(
        prompts.std(ddof=1) / math.sqrt(6)
    )
    assert math.isnan(found.standard_errors["rollout_corr/log_ppl_diff_max"])
    (single,) = framework_metrics([batch.select(np.arange(24) < 4)], "verl")
    assert math.isnan(single.standard_errors["rollout_corr/kl"])


def test_bad_settings_are_refused():
    batch = make_batch(8)
    with pytest.raises(InputError, match="expected one of verl, nemo-rl"):
        values_of(batch, "vrl")
    with pytest.raises(InputError, match="no such setting"):
        values_of(batch, "prime-rl", cap=2.0)
    with pytest.raises(InputError, match="above 0"):
        values_of(batch, "trl", cap=0.0)
    assert values_of(batch, "trl", cap=0.5)["sampling/importance_sampling_ratio/max"] <= 0.5
    with pytest.raises(InputError, match="above 0"):
        values_of(batch, "verl", cap=-1.0)
    with pytest.raises(InputError, match="field 'floor': found 5, expected above 0 and at most"):
        values_of(batch, "trl", floor=5.0)
    for settings, message in (
        ({"cap": 2.0}, "field 'level': found a limit of the weights, expected with it one of tis"),
        ({"floor": 0.5}, "field 'level': found a limit"),
        ({"level": "tis"}, "field 'cap': not given"),
        ({"level": "icepop", "cap": 2.0}, "field 'floor': not given"),
        ({"level": "seq-mask-tis", "cap": 2.0}, "field 'floor': not given"),
    ):
        with pytest.raises(InputError, match=message):
            values_of(batch, "nemo-rl", **settings)
    for framework in ("verl", "trl", "slime", "nemo-rl"):
        with pytest.raises(InputError, match=r"expected (.token.|one of (sequence_mask|none))"):
            values_of(batch, framework, level="geometric")
    with pytest.raises(InputError, match="no token"):
        framework_metrics([make_batch(9, lengths=[0, 0])], "verl")


def test_statistics_of_a_trace():
    summary = summarize(MOE)
    found = trace_statistics(summary)
    table = summary.sequences
    assert set(found.limits) == {"reward", "tv", "finished"}
    for name, values in {
        "reward": table["reward"],
        "tv": table["tv_sum"] / table["length"],
        "finished": table["finished"] == 1,
    }.items():
        limits = found.limits[name]
        assert limits.value == pytest.approx(values.mean())
        assert limits.lower <= limits.value <= limits.upper
        assert limits.n_groups == np.unique(table["group"]).size
    bare = [replace(b, reward=None, tv=None, finished=None) for b in open_trace(MOE)]
    parts = [TraceSummary.of(part) for part in bare]
    without = trace_statistics(functools.reduce(TraceSummary.merge, parts))
    assert without.limits == {}
    assert without.estimates.error is None


def test_command(capsys):
    from trbounds_cli import main

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(words)
        return stop.value.code or 0, *capsys.readouterr()

    code, out, _ = run("metrics", MOE, "--as", "verl", "--json")
    document = json.loads(out)
    assert code == 0
    (direct,) = framework_metrics(open_trace(MOE), "verl")
    found = document["results"][0]["metrics"]
    assert {name: part["value"] for name, part in found.items()} == pytest.approx(direct.values)
    code, out, _ = run("metrics", MOE, "--as", "trl", "--by-step")
    assert code == 0
    assert "sampling/sampling_logp_difference/mean" in out
    for words, message in (
        (
            ("--as", "vrl"),
            "'--as': found 'vrl', expected one of verl, nemo-rl, prime-rl, slime, trl, trbounds",
        ),
        (("--as", "prime-rl", "--cap", "2"), "--cap"),
        (("--as", "nemo-rl", "--cap", "2"), "--level"),
        (("--as", "verl", "--floor", "3"), "--floor"),
        (("--level", "geometric"), "--level"),
    ):
        code, out, err = run("metrics", MOE, *words)
        assert (code, out) == (2, "")
        assert message in err
    code, out, _ = run("metrics", MOE, "--as", "trbounds", "--json")
    document = json.loads(out)
    assert code == 0
    statistics = trace_statistics(summarize(MOE))
    shown = repr(statistics)
    assert shown.startswith("TraceStatistics(surrogate: ")
    assert f"error: {statistics.estimates.error.value:.3g} +- " in shown
    assert statistics.trust in shown
    assert document["estimates"]["error"]["value"] == statistics.estimates.error.value
    assert document["limits"]["tv"]["upper"] == statistics.limits["tv"].upper
    quantiles = document["quantiles"]
    assert list(quantiles) == ["abs_log_ratio", "k2", "k3", "kl", "tv", "chi2", "entropy"]
    assert quantiles["k2"]["0.999"] == summarize(MOE).quantile("k2", 0.999)
    code, out, _ = run("metrics", MOE, "--as", "trbounds")
    assert code == 0
    assert "k2 = (log rho)^2/2" in out
    text = " ".join(out.split())
    assert "the importance weights can be trusted" in text
    assert "; but the estimate of Q, and so the L2 bound, rests on about" in text
    code, _, err = run("metrics", MOE, "--as", "trbounds", "--by-step")
    assert code == 2
    assert "--by-step" in err
    code, _, err = run("metrics", "nothing.tbs")
    assert code == 2
    assert err.count("\n") == 1
