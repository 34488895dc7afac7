"""The mismatch of a trace: the logit error that explains it, bins, bias, and merging."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import mpmath as mp
import numpy as np
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError
from trbounds.mismatch import (
    MismatchCase,
    MismatchSummary,
    get_law,
    smallest_logit_error,
    summarize_rows,
    summarize_traces,
    token_mismatch,
)
from trbounds.mismatch.logspace import log1mexp
from trbounds.traces import Progress, TraceBatch, example_path, open_trace, write_parquet

DATA = Path(__file__).parents[1] / "data"


def random_batch(rng: np.random.Generator, n: int = 12, *, noise: float = 0.1) -> TraceBatch:
    lengths = rng.integers(0, 30, n)
    logp = -rng.exponential(2.0, lengths.sum()) * 10.0 ** rng.integers(-6, 1, lengths.sum())
    odds = logp - np.log(-np.expm1(logp)) + noise * rng.normal(size=logp.size)
    logq = -np.log1p(np.exp(-odds))
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=logq,
        train_logprobs=logp,
    )


def test_smallest_logit_error_solves_the_envelope() -> None:
    law = get_law("envelope")
    for logp in (-1e-290, -1e-12, -0.3, -5.0, -600.0):
        for a in (1e-9, 0.02, 0.7, 3.0):
            case = MismatchCase(logit_error=a, logp=logp)
            for delta in (law.evaluate(case), law.evaluate_lower(case)):
                # Rounding of logq = logp + delta moves a by this much; elsewhere it is exact.
                slack = 4e-16 * max(1.0, abs(logp / delta))
                found = smallest_logit_error(logp, logp + delta)
                assert found == pytest.approx(a, rel=1e-13 + slack)


def test_smallest_logit_error_against_mpmath() -> None:
    rng = np.random.default_rng(4)
    logs = -(10.0 ** np.r_[rng.uniform(-15, 2.8, 300), rng.uniform(-290, -15, 100)])
    moved = logs * (1.0 + 10.0 ** rng.uniform(-12, 0, 400) * rng.choice([-1, 1], 400))
    logs, moved = np.r_[logs, -1e-300, -0.3, -700.0], np.r_[moved, -0.6, -1e-300, -1e-300]
    with mp.workdps(400):
        for x, y in zip(logs, np.minimum(moved, -1e-300), strict=True):
            odds = [mp.mpf(v) - mp.log(-mp.expm1(mp.mpf(v))) for v in (float(x), float(y))]
            exact = abs(odds[0] - odds[1]) / 2
            assert smallest_logit_error(x, y) == pytest.approx(float(exact), rel=1e-14)


def test_logarithms_of_complements_keep_their_digits() -> None:
    x = -(10.0 ** np.r_[np.linspace(-300, 2.8, 200), np.linspace(-1, 0.5, 60)])
    with mp.workdps(400):
        exact = [float(mp.log(-mp.expm1(mp.mpf(v)))) for v in x]
    np.testing.assert_allclose(log1mexp(np, x), exact, rtol=1e-15)


def test_the_largest_predicted_bias_is_that_of_two_tokens() -> None:
    """The squares of the others sum to at most (1-p)^2, which one other token attains."""
    batch = random_batch(np.random.default_rng(6), n=40)
    p, rest = np.exp(batch.train_logprobs), -np.expm1(batch.train_logprobs)
    told = MismatchSummary.of(batch, square_sums=p * p + rest * rest)
    untold = MismatchSummary.of(batch)
    scale = untold.noise_variance.value / told.noise_variance.value
    for known, unknown in zip(told.bins(), untold.bins(), strict=True):
        assert unknown.predicted_high == pytest.approx(scale * known.predicted_high, rel=1e-6)
        assert unknown.predicted_low < unknown.predicted_high


def test_smallest_logit_error_on_arrays(xp: ModuleType) -> None:
    p, q = (xp.asarray(v, dtype=xp.float64) for v in ([-0.1, -2.0, 0.0], [-0.2, -2.0, 0.0]))
    value = smallest_logit_error(p, q)
    assert type(value) is type(p)
    assert float(value[0]) == pytest.approx(smallest_logit_error(-0.1, -0.2), rel=1e-15)
    assert float(value[1]) == float(value[2]) == 0.0
    assert smallest_logit_error(0.0, -0.5) == math.inf


@pytest.mark.parametrize("bad", [0.1, float("nan"), float("-inf")])
def test_bad_log_probabilities(bad: float) -> None:
    with pytest.raises(InputError, match="field 'logq'"):
        smallest_logit_error(-1.0, bad)


def test_quantiles_do_not_exceed_the_largest() -> None:
    """The first bin of the histogram starts at 0: tokens that need nothing are in it."""
    batch = TraceBatch(
        offsets=np.array([0, 3]), rollout_logprobs=np.zeros(3), train_logprobs=np.zeros(3)
    )
    summary = MismatchSummary.of(batch)
    assert summary.logit_error_max == 0.0
    assert summary.logit_error_quantile(0.5) == 0.0


def test_real_logits_need_no_less_than_what_explains_the_sampled_token() -> None:
    with np.load(DATA / "logits_sample_small.npz", allow_pickle=False) as data:
        tokens = token_mismatch(data["rollout_logits"], data["train_logits"], data["token_ids"])
    needed = smallest_logit_error(tokens.logp, tokens.logq)
    assert (needed <= tokens.logit_error * (1 + 1e-9)).all()
    assert needed.max() > 0.005
    law = get_law("envelope")
    delta = tokens.logq - tokens.logp
    assert (delta <= law.evaluate(tokens.case())).all()
    assert (delta >= law.evaluate_lower(tokens.case())).all()


def slow_bins(batch: TraceBatch) -> dict[int, list[tuple[int, float]]]:
    found: dict[int, list[tuple[int, float]]] = {}
    for token in range(batch.n_tokens):
        logp = float(batch.train_logprobs[token])
        odds = (logp - math.log(-math.expm1(logp))) / math.log(10)
        key = min(max(math.floor(odds * 2), -24), 23)
        delta = float(batch.rollout_logprobs[token]) - logp
        found.setdefault(key, []).append((batch.sequence_of(token), delta))
    return found


def test_bins_against_a_slow_reading() -> None:
    batch = random_batch(np.random.default_rng(8), 60)
    summary = MismatchSummary.of(batch)
    expected = slow_bins(batch)
    bins = summary.bins()
    assert len(bins) == len(expected)
    for found, key in zip(bins, sorted(expected), strict=True):
        tokens = expected[key]
        deltas = np.array([delta for _, delta in tokens])
        assert found.tokens == len(tokens)
        assert found.sequences == len({s for s, _ in tokens})
        assert found.bias.value == pytest.approx(deltas.mean(), rel=1e-12)
        assert found.abs_mismatch.value == pytest.approx(np.abs(deltas).mean(), rel=1e-12)
        assert found.abs_mismatch_max == np.abs(deltas).max()
        low = 10 ** (key / 2) if key > -24 else 0.0
        assert found.p_low == pytest.approx(low / (1 + low), rel=1e-12)
        assert found.rest_high == pytest.approx(1 / (1 + low), rel=1e-12)
        assert found.rest_low < found.one_minus_p <= found.rest_high
        groups = {s: [d for t, d in tokens if t == s] for s, _ in tokens}
        if len(groups) > 1:
            spread = sum((sum(g) - len(g) * deltas.mean()) ** 2 for g in groups.values())
            error = math.sqrt(spread * len(groups) / (len(groups) - 1)) / len(tokens)
            assert found.bias.standard_error == pytest.approx(error, rel=1e-9)
        else:
            assert math.isnan(found.bias.standard_error)


def test_maximum_quantiles_and_tokens_beyond_a_common_error() -> None:
    batch = random_batch(np.random.default_rng(3), 80)
    needed = smallest_logit_error(batch.train_logprobs, batch.rollout_logprobs)
    common = float(np.quantile(needed, 0.9))
    summary = MismatchSummary.of(batch, logit_error=common)
    assert summary.logit_error_max == needed.max()
    assert summary.exceeding_tokens == (needed > common).sum()
    assert summary.logit_error_quantile(0.5) == pytest.approx(np.median(needed), rel=1 / 16)
    order = np.argsort(-needed)[:20]
    assert [x.value for x in summary.worst] == list(needed[order])
    assert [x.place for x in summary.worst] == [batch.place(int(i)) for i in order]
    # The envelope with the largest one holds for every token, and with less it does not.
    law, delta = get_law("envelope"), batch.rollout_logprobs - batch.train_logprobs
    case = MismatchCase(logit_error=needed.max() * (1 + 1e-12), logp=batch.train_logprobs)
    assert ((law.evaluate_lower(case) <= delta) & (delta <= law.evaluate(case))).all()


def test_certain_tokens_are_counted_apart() -> None:
    batch = TraceBatch(
        offsets=np.array([0, 3]),
        rollout_logprobs=np.array([0.0, 0.0, -1.0]),
        train_logprobs=np.array([0.0, -1e-7, -1.1]),
    )
    summary = MismatchSummary.of(batch)
    assert summary.certain_tokens == 1
    assert summary.logit_error_max == smallest_logit_error(-1.0, -1.1)
    assert sum(b.tokens for b in summary.bins()) == 3


def test_masked_tokens_do_not_count() -> None:
    batch = random_batch(np.random.default_rng(6))
    mask = np.random.default_rng(7).uniform(size=batch.n_tokens) < 0.5
    squares = np.random.default_rng(8).uniform(0.1, 0.9, batch.n_tokens)
    masked = TraceBatch(
        offsets=batch.offsets,
        rollout_logprobs=np.where(mask, batch.rollout_logprobs, -99.0),
        train_logprobs=batch.train_logprobs,
        mask=mask,
    )
    summary = MismatchSummary.of(masked, square_sums=squares)
    assert summary.n_tokens == mask.sum()
    needed = smallest_logit_error(batch.train_logprobs, batch.rollout_logprobs)
    assert summary.logit_error_max == needed[mask].max()
    counts = np.add.reduceat(np.append(mask, 0), batch.offsets[:-1]) * (batch.lengths > 0)
    alone = TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        rollout_logprobs=batch.rollout_logprobs[mask],
        train_logprobs=batch.train_logprobs[mask],
    )
    same = MismatchSummary.of(alone, square_sums=squares[mask])
    assert summary.noise_variance == same.noise_variance


def test_any_partition_gives_the_same_summary() -> None:
    rng = np.random.default_rng(12)
    batch = random_batch(rng, 40)
    parts = [MismatchSummary.of(part, logit_error=0.1) for part in batch.slices(60)]
    assert len(parts) > 3
    whole = MismatchSummary.of(batch, logit_error=0.1)
    left = right = MismatchSummary(logit_error=0.1)
    for i in rng.permutation(len(parts)):
        left = left.merge(parts[i])
    for part in reversed(parts):
        right = part.merge(right)
    for merged in (left, right):
        assert merged.worst == whole.worst
        assert merged.exceeding_tokens == whole.exceeding_tokens
        np.testing.assert_array_equal(merged.histogram.counts, whole.histogram.counts)
        assert merged.noise_variance.value == pytest.approx(whole.noise_variance.value, rel=1e-12)
        for a, b in zip(merged.bins(), whole.bins(), strict=True):
            assert (a.tokens, a.sequences) == (b.tokens, b.sequences)
            assert a.bias.value == pytest.approx(b.bias.value, rel=1e-9, abs=1e-15)
    with pytest.raises(InputError, match="one logit error"):
        whole.merge(MismatchSummary())


def noisy_rows(
    rng: np.random.Generator, n: int, tokens: int, s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    train = rng.normal(size=(n, tokens)) * 2
    rollout = train + s * rng.normal(size=(n, tokens))
    q = np.exp(rollout - np.logaddexp.reduce(rollout, axis=1, keepdims=True))
    ids = (q.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return rollout, train, np.minimum(ids, tokens - 1)


def test_sampled_bias_meets_its_prediction_and_the_noise_is_found() -> None:
    s = 0.3
    rollout, train, ids = noisy_rows(np.random.default_rng(21), 60_000, 12, s)
    full = summarize_rows(rollout, train, ids)
    tokens = token_mismatch(rollout, train, ids)
    # The remainder is of relative order s^2.
    assert full.noise_variance.value == pytest.approx(s**2, rel=0.03)
    assert tokens.noise_variance == pytest.approx(s**2, rel=0.01)
    without = MismatchSummary.of(
        TraceBatch(
            offsets=np.arange(len(ids) + 1),
            rollout_logprobs=tokens.logq,
            train_logprobs=tokens.logp,
        )
    )
    assert without.noise_variance.value == pytest.approx(s**2, rel=0.06)
    for exact, interval in zip(full.bins(), without.bins(), strict=True):
        if exact.tokens < 500:
            continue
        assert exact.predicted_low == exact.predicted_high
        room = 4 * exact.bias.standard_error + s**2 * abs(exact.predicted_low) + 2e-4
        assert abs(exact.bias.value - exact.predicted_low) < room
        ratio = without.noise_variance.value / full.noise_variance.value
        assert interval.predicted_low <= exact.predicted_low * ratio + 1e-12
        assert interval.predicted_high >= exact.predicted_high * ratio - 1e-12
    tail = next(b for b in full.bins() if b.tokens >= 500)
    assert tail.p_high < 0.04
    assert tail.bias.value > 4 * tail.bias.standard_error


def test_real_trace() -> None:
    """bfloat16 experts against float32: one common error explains all; the tail is biased up."""
    total = MismatchSummary()
    for batch in open_trace(DATA / "moe.parquet"):
        total = total.merge(MismatchSummary.of(batch))
    assert total.n_sequences == 64
    assert total.certain_tokens == 0
    assert total.logit_error_quantile(0.5) < 0.02 < total.logit_error_max
    scaled = [b.abs_mismatch.value / b.one_minus_p for b in total.bins() if b.tokens > 50]
    raw = [b.abs_mismatch.value for b in total.bins() if b.tokens > 50]
    # |Delta| itself spans three decades over the bins; divided by 1 - p, less than one.
    assert max(raw) / min(raw) > 100
    assert max(scaled) / min(scaled) < 10


@pytest.mark.parametrize("squares", [[0.5], [0.5, 0.0], [0.5, float("nan")]])
def test_bad_square_sums(squares: list[float]) -> None:
    batch = TraceBatch(
        offsets=np.array([0, 2]),
        rollout_logprobs=np.array([-1.0, -1.0]),
        train_logprobs=np.array([-1.0, -1.0]),
    )
    with pytest.raises(InputError, match="square_sums"):
        MismatchSummary.of(batch, square_sums=np.array(squares))


def test_empty_summary() -> None:
    empty = MismatchSummary()
    assert empty.bins() == []
    assert empty.logit_error_max == 0
    assert math.isnan(empty.noise_variance.value)
    with pytest.raises(InputError, match="no value"):
        empty.logit_error_quantile(0.5)


def test_traces_are_read_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a file tell how far the reading is, and change nothing of the result."""
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", 1000)
    (batch,) = open_trace(example_path())
    file = tmp_path / "parts.parquet"
    write_parquet([batch], file)
    pq.write_table(pq.read_table(file), file, row_group_size=16)
    seen: list[Progress] = []
    found = summarize_traces([file, example_path()], logit_error=0.05, on_progress=seen.append)
    once = MismatchSummary.of(batch, logit_error=0.05)
    assert found.n_tokens == 2 * once.n_tokens
    assert found.exceeding_tokens == 2 * once.exceeding_tokens
    assert found.logit_error_max == once.logit_error_max
    done = [step.bytes_done for step in seen]
    assert done == sorted(done)
    assert len({*done}) > 3
    last = seen[-1]
    assert (last.parts_done, last.bytes_done) == (last.parts, last.bytes)
    assert (last.sequences, last.tokens) == (2 * batch.n_sequences, 2 * batch.n_tokens)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.tbs").touch()
    with pytest.raises(InputError, match="holds a summary"):
        summarize_traces(tmp_path / "a.tbs")
    with pytest.raises(InputError, match="format"):
        summarize_traces(example_path(), "nothing", on_error="skip")
    skipped: list[InputError] = []
    (tmp_path / "bad.jsonl").write_text('{"prompt_id": 0}\n')
    found = summarize_traces(tmp_path / "bad.jsonl", on_error="skip", on_skip=skipped.append)
    assert found.n_tokens == 0
    assert len(skipped) == 1


def test_standard_errors_allow_for_prompts() -> None:
    """Sequences of one prompt that are the same tell no more than one of them."""
    batch = random_batch(np.random.default_rng(9), 40)
    once = MismatchSummary.of(replace(batch, prompt_id=np.arange(40)))
    copies = [
        MismatchSummary.of(replace(batch, prompt_id=np.arange(40), first_record=40 * i))
        for i in range(8)
    ]
    often = copies[0]
    for copy in copies[1:]:
        often = often.merge(copy)
    pairs = [(once.noise_variance, often.noise_variance)]
    for one, eight in zip(once.bins(), often.bins(), strict=True):
        if one.sequences > 1:
            pairs += [(one.bias, eight.bias), (one.abs_mismatch, eight.abs_mismatch)]
    for one, eight in pairs:
        assert eight.value == pytest.approx(one.value, rel=1e-12)
        assert eight.standard_error == pytest.approx(one.standard_error, rel=1e-9)
