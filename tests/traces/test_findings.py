"""Findings: each logging fault is named on traces with exactly that fault; right ones have none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.traces import TraceBatch, TraceSummary, example_path, open_trace, summarize
from trbounds.traces.finding import FINDINGS
from trbounds.traces.findings import findings
from trbounds.traces.pair_moments import PairMoments
from trbounds.traces.token_terms import TokenTerms

DATA = Path(__file__).parents[1] / "data"
N, T, V = 200, 12, 40


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def policies(seed=0, mismatch=0.05):
    """Logits of both policies at every context, and uniform numbers to sample with."""
    random = np.random.default_rng(seed)
    z = 2.0 * random.standard_normal((N, T, V))
    return z, z + mismatch * random.standard_normal(z.shape), random.random((N, T))


def sampled(log_mu, u):
    cdf = np.cumsum(np.exp(log_mu), axis=-1)
    return np.minimum((cdf < u[..., None] * cdf[..., -1:]).sum(axis=-1), V - 1)


def at(log_p, tokens):
    return np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def batch_of(rollout, train, **fields):
    n, width = rollout.shape
    flat = {"rollout_logprobs": np.minimum(rollout, 0.0).ravel()}
    flat["train_logprobs"] = np.minimum(train, 0.0).ravel()
    return TraceBatch(offsets=np.arange(0, n * width + 1, width), **flat, **fields)


def right(seed=0, **fields):
    z, y, u = policies(seed)
    log_mu, log_pi = log_softmax(z), log_softmax(y)
    tokens = sampled(log_mu, u)
    return batch_of(at(log_mu, tokens), at(log_pi, tokens), **fields)


def named(batch):
    found = findings(TraceSummary.of(batch))
    assert all(item.name in FINDINGS for item in found)
    return {item.name: item for item in found}


@pytest.mark.parametrize("seed", range(5))
def test_right_traces_have_none(seed):
    assert named(right(seed)) == {}


@pytest.mark.parametrize("name", ["moe", "stale_k16"])
def test_real_traces_have_none(name):
    assert findings(summarize(DATA / f"{name}.parquet")) == []
    assert findings(summarize(example_path())) == []


def test_nothing_counted():
    batch = replace(right(), mask=np.zeros(N * T, bool), rollout_logprobs=np.zeros(N * T))
    assert named(batch) == {}


def test_chi2_that_is_not_sampled_is_named():
    z, y, u = policies()
    z[..., 0] = -12.0
    y[..., 0] = -6.0
    log_mu, log_pi = log_softmax(z), log_softmax(y)
    tokens = sampled(log_mu, u)
    chi2 = (np.exp(log_mu) * np.expm1(log_pi - log_mu) ** 2).sum(axis=-1)
    batch = batch_of(at(log_mu, tokens), at(log_pi, tokens), chi2=chi2.ravel())
    found = named(batch)
    assert set(found) == {"unsampled_chi2"}
    assert found["unsampled_chi2"].severity == "warning"
    assert found["unsampled_chi2"].numbers["share"] < 0.9
    # What is missing by rounding alone is nothing.
    square = np.expm1(batch.train_logprobs - batch.rollout_logprobs) ** 2
    assert named(replace(batch, chi2=square * (1 + 1e-7))) == {}


# ---- copied and missing columns


def test_copied_columns():
    batch = right()
    found = named(replace(batch, train_logprobs=batch.rollout_logprobs.copy()))
    assert set(found) == {"identical_logprobs"}
    assert found["identical_logprobs"].severity == "error"
    assert found["identical_logprobs"].numbers == {"share": 1.0}


def test_equal_policies_are_no_copies():
    batch = right()
    same = replace(batch, train_logprobs=batch.rollout_logprobs.copy())
    assert named(replace(same, kl=np.zeros(batch.n_tokens))) == {}
    assert set(named(replace(same, kl=np.full(batch.n_tokens, 1e-9)))) == {"identical_logprobs"}


def test_mostly_copied_columns_warn():
    batch = right()
    copied = np.arange(batch.n_tokens) % 4 > 0
    train = np.where(copied, batch.rollout_logprobs, batch.train_logprobs)
    found = named(replace(batch, train_logprobs=train))["identical_logprobs"]
    assert found.severity == "warning"
    assert found.numbers["share"] == pytest.approx(0.75)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_copied_sequences_among_others_warn(kernel):
    batch = right()
    copied = np.repeat(np.arange(N) % 4 == 0, T)
    train = np.where(copied, batch.rollout_logprobs, batch.train_logprobs)
    mixed = replace(batch, train_logprobs=train)
    (found,) = findings(TraceSummary.of(mixed, kernel=kernel))
    assert (found.name, found.severity) == ("identical_logprobs", "warning")
    unlikely = batch.segment_sum(batch.rollout_logprobs) < -20
    assert found.numbers["sequences"] == np.sum(unlikely & (np.arange(N) % 4 == 0))
    same = replace(mixed, kl=np.where(copied, 0.0, 1e-3))
    assert "identical_logprobs" not in named(same)


def test_certain_tokens_are_not_copies():
    batch = right()
    certain = np.arange(batch.n_tokens) % 10 > 0
    rollout = np.where(certain, 0.0, batch.rollout_logprobs)
    train = np.where(certain, 0.0, batch.train_logprobs)
    assert named(replace(batch, rollout_logprobs=rollout, train_logprobs=train)) == {}


def test_empty_training_column():
    batch = right()
    found = named(replace(batch, train_logprobs=np.zeros(batch.n_tokens)))
    assert set(found) == {"zero_train_logprobs"}
    assert found["zero_train_logprobs"].severity == "error"


@pytest.mark.parametrize(("every", "severity"), [(10, "error"), (1500, "warning")])
@pytest.mark.parametrize("side", ["rollout", "train"])
def test_zero_filled_tokens(side, every, severity):
    batch = right()
    column = getattr(batch, f"{side}_logprobs").copy()
    uncertain = (batch.rollout_logprobs < -0.2) & (batch.train_logprobs < -0.2)
    tokens = np.flatnonzero(uncertain)[::every]
    column[tokens] = 0.0
    found = named(replace(batch, **{f"{side}_logprobs": column}))[f"zero_{side}_logprobs"]
    assert found.severity == severity
    assert found.numbers["tokens"] == tokens.size


# ---- alignment and scale


@pytest.mark.parametrize("shift", [-1, 1])
def test_shift_by_one(shift):
    batch = right()
    train = np.roll(batch.train_logprobs.reshape(N, T), shift, axis=1).ravel()
    found = named(replace(batch, train_logprobs=train))["shifted_by_one"]
    assert found.severity == "error"
    assert found.numbers["lag"] == shift
    assert found.numbers["correlation"] > 0.99


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shift_by_one_in_a_part_of_the_trace(shift, share):
    batch = right()
    train = batch.train_logprobs.reshape(N, T).copy()
    part = slice(round((1 - share) * N), None)  # from one step of the training on
    train[part] = np.roll(train[part], shift, axis=1)
    found = named(replace(batch, train_logprobs=train.ravel()))["shifted_by_one"]
    assert found.severity == "error"
    assert found.found.startswith("in a part of the trace")
    assert found.numbers["lag"] == shift
    assert found.numbers["correlation"] == pytest.approx(share, abs=0.05)
    assert found.numbers["correlation_at_0"] == pytest.approx(1 - share, abs=0.05)


def test_a_shift_by_one_of_a_real_trace_is_found():
    (batch,) = list(open_trace(DATA / "moe.parquet"))[:1]
    train = np.append(batch.train_logprobs[1:], -1.0)
    assert "shifted_by_one" in named(replace(batch, train_logprobs=train))


@pytest.mark.parametrize("temperature", [0.7, 0.9, 1.2])
@pytest.mark.parametrize("scaled", ["train", "rollout"])
def test_temperature_on_one_side_only(temperature, scaled):
    z, y, u = policies()
    tokens = sampled(log_softmax(z / temperature), u)
    rollout = z / temperature if scaled == "rollout" else z
    train = y / temperature if scaled == "train" else y
    found = named(batch_of(at(log_softmax(rollout), tokens), at(log_softmax(train), tokens)))
    item = found["temperature_mismatch"]
    slope = item.numbers["slope"]
    assert (slope > 1) == ((temperature < 1) == (scaled == "train"))


def truncated(z, mass):
    """Keep the most probable tokens until their mass exceeds `mass`; logits of the rest -inf."""
    order = np.argsort(-z, axis=-1)
    p = np.exp(log_softmax(z))
    ranked = np.cumsum(np.take_along_axis(p, order, axis=-1), axis=-1)
    keep = np.zeros(z.shape, bool)
    before = np.concatenate([np.zeros((*z.shape[:-1], 1)), ranked[..., :-1]], axis=-1)
    np.put_along_axis(keep, order, before < mass, axis=-1)
    return np.where(keep, z, -np.inf)


@pytest.mark.parametrize("mass", [0.8, 0.9, 0.95])
def test_truncated_sampling(mass):
    z, y, u = policies()
    cut = truncated(z, mass)
    tokens = sampled(log_softmax(cut), u)
    found = named(batch_of(at(log_softmax(cut), tokens), at(log_softmax(y), tokens)))
    item = found["truncated_sampling"]
    assert item.severity == "error"
    kept = np.where(np.isinf(cut), 0.0, np.exp(log_softmax(y))).sum(axis=-1).mean()
    assert item.numbers["mean_ratio"] == pytest.approx(kept, abs=0.005)
    if mass == 0.8:
        # The cut left a single token here and there, which the log shows as certain.
        assert "zero_rollout_logprobs" in found


def test_truncated_sampling_as_logged():
    batch = right(top_p=np.full(N, 0.9))
    assert named(batch)["truncated_sampling"].numbers["sequences"] == N


@pytest.mark.parametrize("offset", [-0.2, -0.5])
def test_constant_offset(offset):
    batch = right()
    train = batch.train_logprobs + offset
    found = named(replace(batch, train_logprobs=train))
    assert found["constant_offset"].numbers["mean_log_ratio"] == pytest.approx(offset, abs=0.01)
    assert "truncated_sampling" in found


def test_ratio_above_one():
    batch = right()
    found = named(replace(batch, rollout_logprobs=batch.rollout_logprobs - 0.1))
    assert found["ratio_above_one"].numbers["mean_ratio"] > 1.05


# ---- masks and versions


def test_mask_after_a_token_rule():
    batch = right()
    kept = np.abs(batch.log_ratio) < 0.08
    found = named(replace(batch, mask=kept))["post_rejection_mask"]
    assert found.severity == "error"
    assert found.numbers["smallest"] >= 0.08 > found.numbers["kept"]


def test_mask_after_a_looser_rule():
    batch = right()
    random = np.random.default_rng(0)
    kept = (np.abs(batch.log_ratio) < 0.08) | (random.random(batch.n_tokens) < 0.1)
    assert "post_rejection_mask" in named(replace(batch, mask=kept))


def test_masks_that_have_nothing_to_do_with_ratios():
    batch = right()
    random = np.random.default_rng(0)
    assert named(replace(batch, mask=random.random(batch.n_tokens) < 0.7)) == {}
    prompt = np.arange(batch.n_tokens) % T >= 4
    assert named(replace(batch, mask=prompt)) == {}
    filled = np.where(prompt, batch.rollout_logprobs, 0.0)
    assert named(replace(batch, mask=prompt, rollout_logprobs=filled)) == {}


def test_sequences_rejected_by_the_mask():
    batch = right()
    worst = np.abs(batch.log_ratio).reshape(N, T).max(axis=1) > 0.12
    assert 10 < worst.sum() < 190
    found = named(replace(batch, mask=np.repeat(~worst, T)))["rejected_sequences"]
    assert found.severity == "warning"
    assert found.numbers["sequences"] == worst.sum()


def test_sequences_that_the_framework_left_out():
    accepted = np.arange(N) % 5 > 0
    found = named(right(accepted=accepted))["rejected_sequences"]
    assert found.severity == "warning"
    assert found.numbers["sequences"] == 40


def test_mixed_versions():
    version = np.tile(np.arange(T) // 6, N)
    found = named(right(weight_version=version))
    assert set(found) == {"mixed_weight_versions"}
    assert named(right(weight_version=np.repeat(np.arange(N), T))) == {}


def test_order_and_plain_values():
    uneven = np.minimum(np.arange(N) // 3, 2)
    batch = right(prompt_id=uneven, weight_version=np.tile(np.arange(T), N))
    found = findings(TraceSummary.of(replace(batch, train_logprobs=batch.rollout_logprobs)))
    assert [item.severity for item in found] == ["error", "warning", "info"]
    assert str(found[0]).endswith(".") is False
    assert set(found[0].to_dict()) == {"name", "severity", "found", "advice", "numbers"}


# ---- joined wrongly


def test_unrelated_lists_are_a_warning_as_two_policies_may_differ_entirely():
    batch = right()
    train = np.random.default_rng(1).permutation(batch.train_logprobs)
    found = named(replace(batch, train_logprobs=train))["unrelated_logprobs"]
    assert found.severity == "warning"
    assert abs(found.numbers["correlation"]) < 0.1


def test_one_sequence_with_another_list():
    long, other = right(), right(seed=1)
    lengths = np.full(N // 2, 2 * T)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    train = long.train_logprobs.copy()
    train[48:72] = other.train_logprobs[48:72]
    found = named(replace(long, offsets=offsets, train_logprobs=train, file="f"))
    assert found["misaligned_sequences"].numbers["sequences"] == 1
    assert "(f, record 2)" in found["misaligned_sequences"].found


def test_records_and_tokens_written_twice():
    batch = right()
    offsets = np.arange(0, N * T + 1, 2 * T)
    long = replace(batch, offsets=offsets)
    columns = {n: getattr(batch, n) for n in ("rollout_logprobs", "train_logprobs")}
    both = {name: np.concatenate([values, values]) for name, values in columns.items()}
    twice = replace(long, offsets=np.arange(0, 2 * N * T + 1, 2 * T), **both)
    assert named(long) == {}
    assert named(twice)["repeated_sequences"].numbers["sequences"] == N // 2
    tokens = {name: np.repeat(values, 2) for name, values in columns.items()}
    doubled = replace(long, offsets=2 * offsets, **tokens)
    assert set(named(doubled)) == {"repeated_tokens"}


def test_likely_sequences_are_sampled_twice_by_chance():
    # Twenty tokens of probability near 0.999 each: most samples of a prompt are the same.
    rng = np.random.default_rng(5)
    rest = np.repeat(rng.uniform(1e-3, 2e-3, (20, 20)), 10, axis=0)
    other = rng.random(rest.shape) < rest
    rollout = np.log(np.where(other, rest, 1 - rest))
    train = np.log(np.where(other, 1.1 * rest, 1 - 1.1 * rest))
    assert "repeated_sequences" not in named(batch_of(rollout, train))


# ---- the fold


def pair_state(moments):
    return {name: values.tolist() for name, values in moments.state().items()}


def test_pair_moments_against_a_slow_reading():
    batch = right(mask=np.random.default_rng(3).random(N * T) < 0.8)
    moments = TraceSummary.of(batch).pairs
    pairs = {-1: [], 0: [], 1: []}
    holes = []
    for i in range(N):
        rows = range(i * T, (i + 1) * T)
        counted = [k for k in rows if batch.mask[k]]
        for a, here in enumerate(counted):
            for lag in pairs:
                if 0 <= a + lag < len(counted):
                    there = counted[a + lag]
                    pairs[lag].append((batch.rollout_logprobs[here], batch.train_logprobs[there]))
        first = counted[0] if counted else None
        holes += [k for k in rows if not batch.mask[k] and first is not None and k > first]
    for lag, values in pairs.items():
        x, y = np.array(values).T
        assert moments.correlation(lag) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    x, y = np.array(pairs[0]).T
    assert moments.slope == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-12)
    assert moments.log_ratio_mean == pytest.approx((y - x).mean(), rel=1e-12)
    assert moments.log_ratio_deviation == pytest.approx((y - x).std(), rel=1e-12)
    size = np.abs(batch.train_logprobs - batch.rollout_logprobs)[holes]
    assert moments.masked("hole")[0] == len(holes)
    assert moments.masked("hole")[1] == pytest.approx(size.mean(), rel=1e-12)
    assert moments.masked("hole")[2] == size.min()


def test_pair_moments_of_any_partition(tmp_path):
    batch = right(mask=np.random.default_rng(3).random(N * T) < 0.5)
    whole = TraceSummary.of(batch)
    merged = TraceSummary()
    for part in list(batch.slices(5 * T))[::-1]:
        merged = merged.merge(TraceSummary.of(part))
    for name, values in whole.pairs.state().items():
        got, expected = merged.pairs.state()[name], values
        if got.ndim == 2:
            got, expected = got.sum(axis=0), expected.sum(axis=0)
        assert np.allclose(got, expected, rtol=1e-12, atol=1e-11)
    merged.save(tmp_path / "a.tbs")
    loaded = TraceSummary.load(tmp_path / "a.tbs")
    assert loaded.pairs.correlation(0) == merged.pairs.correlation(0)
    assert loaded.pairs.masked("rejected") == merged.pairs.masked("rejected")


def test_pair_moments_of_little():
    empty = PairMoments()
    assert np.isnan([empty.correlation(0), empty.slope, empty.log_ratio_mean]).all()
    assert np.isnan(empty.log_ratio_deviation)
    offsets = np.array([0, 0, 1, 1, 3])
    batch = TraceBatch(
        offsets=offsets, rollout_logprobs=-np.arange(1.0, 4), train_logprobs=-np.arange(2.0, 5)
    )
    moments = PairMoments()
    moments.add(TokenTerms.of(batch), batch)
    assert moments.correlation(0) == pytest.approx(1.0)
    assert np.isnan(moments.correlation(1))
    assert moments.masked("hole")[0] == 0


def test_lengths_that_are_not_those_logged_are_named():
    batch = right()
    assert "length_mismatch" not in named(replace(batch, length=batch.lengths))
    length = batch.lengths.copy()
    length[:3] += 1
    found = named(replace(batch, length=length))["length_mismatch"]
    assert found.severity == "warning"
    assert found.numbers["sequences"] == 3


def test_a_length_may_leave_out_masked_tokens():
    batch = right()
    mask = np.arange(batch.n_tokens) % T > 1
    for length in (batch.lengths, batch.lengths - 2):
        assert "length_mismatch" not in named(replace(batch, mask=mask, length=length))
    assert "length_mismatch" in named(replace(batch, mask=mask, length=batch.lengths - 1))


def test_prompts_with_different_numbers_of_sequences_are_noted():
    prompt = np.arange(N) // 4
    batch = right(prompt_id=prompt)
    assert "uneven_groups" not in named(batch)
    found = named(batch.select(np.arange(N) != 5))["uneven_groups"]
    assert found.severity == "info"
    assert found.numbers == {"smallest": 3.0, "largest": 4.0}
    # Once more in a later step: the same prompts, as often in each.
    assert "uneven_groups" not in named(right(prompt_id=prompt % 25, step=np.arange(N) // 100))


@pytest.mark.parametrize(("empty", "is_named"), [(0, False), (2, False), (3, True)])
def test_one_sequence_in_a_hundred_may_have_no_token(empty, is_named):
    batch = right()
    lengths = np.r_[np.zeros(empty, dtype=int), np.full(N - empty, T)]
    short = replace(
        batch,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=batch.rollout_logprobs[empty * T :],
        train_logprobs=batch.train_logprobs[empty * T :],
    )
    assert ("empty_sequences" in named(short)) is is_named


def test_many_sequences_without_a_token_are_named():
    batch = right()
    tokens = np.repeat(np.arange(N) % 4 > 0, T)
    empty = replace(
        batch,
        offsets=np.concatenate([[0], np.cumsum(np.where(np.arange(N) % 4 > 0, T, 0))]),
        rollout_logprobs=batch.rollout_logprobs[tokens],
        train_logprobs=batch.train_logprobs[tokens],
    )
    assert named(empty)["empty_sequences"].numbers["sequences"] == N // 4
    # Masked after they were scored: that has its own name.
    masked = named(replace(batch, mask=tokens))
    assert "rejected_sequences" in masked
    assert "empty_sequences" not in masked


def as_bfloat16(values):
    bits = values.astype(np.float32).view(np.uint32)
    nearest = bits + 0x7FFF + ((bits >> 16) & 1)
    return (nearest & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (("rollout_logprobs",), "rollout log-probabilities"),
        (("train_logprobs",), "training log-probabilities"),
        (("rollout_logprobs", "train_logprobs"), "rollout and training log-probabilities"),
    ],
)
def test_bfloat16_log_probabilities_warn(columns, text, kernel):
    batch = right()
    rounded = replace(batch, **{name: as_bfloat16(getattr(batch, name)) for name in columns})
    found = {f.name: f for f in findings(TraceSummary.of(rounded, kernel=kernel))}
    assert found["rounded_logprobs"].severity == "warning"
    assert found["rounded_logprobs"].found.startswith(text)


def test_every_token_is_looked_at_once():
    """Digits of 60 tokens show no pattern, in sequences of one token each either."""
    values = as_bfloat16(-np.linspace(0.5, 4.0, 60))
    for length, count in ((1, 60), (2, 60), (3, 60), (4, 60), (6, 40)):
        batch = TraceBatch(
            offsets=np.arange(0, 61, length), rollout_logprobs=values, train_logprobs=values * 1.1
        )
        summary = TraceSummary.of(batch)
        assert summary.counts["probed_tokens"] == count
        assert summary.counts["rounded_rollout_logprobs"] == count
        assert "rounded_logprobs" not in named(batch)


def test_digits_are_seen_however_a_batch_stores_its_numbers():
    batch = right()
    rounded = as_bfloat16(batch.rollout_logprobs)
    for stored in (rounded.astype(np.float32), rounded.astype(">f8")):
        assert "rounded_logprobs" in named(replace(batch, rollout_logprobs=stored))


def test_few_digits_of_certain_tokens_are_right():
    """Near certainty float32 log-probabilities are small multiples of 2^-24; zeros have none."""
    batch = right()
    certain = np.float64(-(2.0**-20))
    rollout, train = batch.rollout_logprobs.copy(), batch.train_logprobs.copy()
    rollout[::2], train[::2] = certain, certain * 1.5
    assert "rounded_logprobs" not in named(
        replace(batch, rollout_logprobs=rollout, train_logprobs=train)
    )
    every = np.full(batch.n_tokens, certain)
    assert "rounded_logprobs" not in named(
        replace(batch, rollout_logprobs=every, train_logprobs=every * 1.5)
    )


@pytest.mark.parametrize(
    ("fields", "is_named"),
    [
        ({"temperature": 0.7}, True),
        ({"temperature": 1.0}, False),
        ({"top_p": 0.9}, True),
        ({"temperature": 1.0, "top_k": 20}, True),
        ({}, False),
    ],
)
@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_raw_log_probabilities_are_not_those_that_were_sampled_from(fields, is_named, mode):
    filled = {name: np.full(N, value) for name, value in fields.items()}
    found = named(right(logprobs_mode=np.full(N, mode), **filled))
    assert ("raw_logprobs" in found) == (is_named and mode.startswith("raw"))
    if "raw_logprobs" in found:
        assert found["raw_logprobs"].severity == "error"
        assert found["raw_logprobs"].numbers == {"sequences": N, "share": 1.0}
