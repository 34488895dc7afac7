"""The summary, against a slow reading of the definitions, and under any partition."""

import json
import math
from dataclasses import replace
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trbounds.errors import InputError
from trbounds.traces import TraceBatch, TraceSummary, example_path, open_trace, summarize
from trbounds.traces.omissions import Skipped
from trbounds.traces.sequence_table import COLUMNS, NO_GROUP

DATA = Path(__file__).parents[1] / "data"
FILES = [DATA / "stale_k16.parquet", DATA / "moe.parquet", Path(example_path())]


def sequences(path):
    """Each sequence of a file as a dict of Python lists and numbers."""
    for batch in open_trace(path):
        for i in range(batch.n_sequences):
            cut = slice(batch.offsets[i], batch.offsets[i + 1])
            row = {
                name: getattr(batch, name)[cut].tolist()
                for name in ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2", "entropy")
            }
            row["log_ratio"] = (batch.train_logprobs[cut] - batch.rollout_logprobs[cut]).tolist()
            row["reward"] = float(batch.reward[i])
            row["group"] = int(batch.prompt_id[i])
            yield row


def k3(x):
    return float(mpmath.expm1(x) - mpmath.mpf(x))


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.name)
def both(request):
    with mpmath.workdps(40):
        rows = list(sequences(request.param))
        for row in rows:
            row["k3"] = [k3(x) for x in row["log_ratio"]]
    return summarize(request.param), rows


def test_table_against_python(both):
    summary, rows = both
    table = summary.sequences
    expected = {name: [] for name in COLUMNS}
    for row in rows:
        ratio = [math.expm1(x) for x in row["log_ratio"]]
        expected["length"].append(len(ratio))
        expected["reward"].append(row["reward"])
        expected["group"].append(row["group"])
        expected["log_weight"].append(math.fsum(row["log_ratio"]))
        expected["ratio_sum"].append(math.fsum(ratio))
        expected["abs_ratio_sum"].append(math.fsum(map(abs, ratio)))
        expected["square_sum"].append(math.fsum(x * x for x in ratio))
        expected["k3_sum"].append(math.fsum(row["k3"]))
        for name in ("kl", "tv", "chi2", "entropy"):
            expected[f"{name}_sum"].append(math.fsum(row[name]))
        expected["rollout_logprob_sum"].append(math.fsum(row["rollout_logprobs"]))
        expected["kl_max"].append(max(row["kl"]))
        expected["k2_max"].append(max(x * x / 2 for x in row["log_ratio"]))
        before = [math.fsum(row["log_ratio"][:t]) for t in range(len(ratio))]
        terms = zip(before, row["chi2"], strict=True)
        expected["residual_path"].append(math.fsum(math.expm1(w) ** 2 * c for w, c in terms))
    assert table["record"].tolist() == list(range(len(rows)))
    for name, values in expected.items():
        if values:
            rounding = 6e-8 if COLUMNS[name] is np.float32 else 2e-13
            scale = max(map(abs, values))
            np.testing.assert_allclose(
                table[name], values, rtol=rounding, atol=1e-15 * scale, err_msg=name
            )


def test_positions_against_python(both):
    summary, rows = both
    positions = summary.positions
    n = len(rows)
    assert max(len(row["kl"]) for row in rows) == positions.T
    terms = {
        "ratio": lambda row, t: math.expm1(row["log_ratio"][t]),
        "abs_ratio": lambda row, t: abs(math.expm1(row["log_ratio"][t])),
        "square": lambda row, t: math.expm1(row["log_ratio"][t]) ** 2,
        **{name: lambda row, t, name=name: row[name][t] for name in ("kl", "tv", "chi2", "k3")},
    }
    for t in {0, 1, 17, 60, positions.T - 1}:
        alive = [row for row in rows if len(row["kl"]) > t]
        assert positions.alive[t] == len(alive)
        for name, term in terms.items():
            values = [term(row, t) for row in alive] + [0.0] * (n - len(alive))
            mean = math.fsum(values) / n
            size = math.fsum(map(abs, values)) / n
            spread = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
            assert positions.mean(name)[t] == pytest.approx(mean, rel=0, abs=1e-13 * size)
            assert positions.standard_error(name)[t] == pytest.approx(spread, rel=1e-9)
        for name in ("kl", "tv", "chi2"):
            assert positions.maximum(name)[t] == max(row[name][t] for row in alive)
        largest = max(abs(row["log_ratio"][t]) for row in alive)
        assert positions.maximum("abs_log_ratio")[t] == largest


def test_extremes_against_python_with_their_places(both):
    summary, rows = both
    tokens = [(i, t, row) for i, row in enumerate(rows) for t in range(len(row["kl"]))]
    functions = {
        "kl_max": (max, lambda row, t: row["kl"][t]),
        "kl_min": (min, lambda row, t: row["kl"][t]),
        "tv_max": (max, lambda row, t: row["tv"][t]),
        "tv_min": (min, lambda row, t: row["tv"][t]),
        "chi2_max": (max, lambda row, t: row["chi2"][t]),
        "chi2_min": (min, lambda row, t: row["chi2"][t]),
        "entropy_max": (max, lambda row, t: row["entropy"][t]),
        "entropy_min": (min, lambda row, t: row["entropy"][t]),
        "abs_log_ratio_max": (max, lambda row, t: abs(row["log_ratio"][t])),
        "k2_min": (min, lambda row, t: row["log_ratio"][t] ** 2 / 2),
        "k3_min": (min, lambda row, t: row["k3"][t]),
        "pinsker_excess": (max, lambda row, t: row["tv"][t] - math.sqrt(row["kl"][t] / 2)),
        "tv_chi2_excess": (max, lambda row, t: row["tv"][t] - math.sqrt(row["chi2"][t]) / 2),
        "kl_log_chi2_excess": (max, lambda row, t: row["kl"][t] - math.log1p(row["chi2"][t])),
        "chi2_over_kl": (max, lambda row, t: row["chi2"][t] / row["kl"][t]),
    }
    assert set(functions) == set(summary.extremes)
    for name, (best, function) in functions.items():
        extreme = summary.extremes[name]
        values = [function(row, t) for _, t, row in tokens]
        assert extreme.value == pytest.approx(best(values), rel=1e-12, abs=1e-18), name
        at = function(rows[extreme.record], extreme.position)
        assert at == pytest.approx(extreme.value, rel=1e-12, abs=1e-18), name
        assert extreme.file == summary.files[0]
    log1p = [math.log1p(row["chi2"][t]) for _, t, row in tokens]
    above = sum(row["kl"][t] > bound for (_, t, row), bound in zip(tokens, log1p, strict=True))
    assert summary.counts["kl_above_log_chi2"] == above


def test_stopped_sums_against_python(both):
    summary, rows = both
    stopped = summary.stopped
    n = len(rows)
    for index in range(0, 40, 3):
        budget = stopped.budgets[index]
        weights, tails = [], []
        for row in rows:
            spent = [math.fsum(row["chi2"][: t + 1]) for t in range(len(row["chi2"]))]
            tau = next((t for t, s in enumerate(spent) if s > budget), None)
            weights.append(0.0 if tau is None else math.exp(math.fsum(row["log_ratio"][:tau])))
            tails.append(0.0 if tau is None else math.fsum(row["chi2"][tau:]))
        assert stopped.crossed[index] == np.count_nonzero(weights)
        for found, error, values in (
            (stopped.stop_prob, stopped.stop_prob_standard_error, weights),
            (stopped.stop_tail, stopped.stop_tail_standard_error, tails),
        ):
            assert found[index] == pytest.approx(np.mean(values), rel=1e-12, abs=1e-15)
            spread = np.std(values, ddof=1) / math.sqrt(n)
            assert error[index] == pytest.approx(spread, rel=1e-6, abs=1e-9)


def test_a_budget_that_is_met_exactly_is_not_exceeded():
    budgets = TraceSummary().stopped.budgets
    batch = plain([[0.1], [0.1, 0.2]], chi2=np.array([budgets[7], budgets[7], 1e-9]))
    crossed = TraceSummary.of(batch).stopped.crossed
    assert crossed.tolist() == [2] * 7 + [1] + [0] * 32


def test_histograms_count_every_token(both):
    summary, _ = both
    names = {"abs_log_ratio", "k3", "kl", "tv", "chi2", "entropy"}
    assert set(summary.histograms) == names
    assert {h.total for h in summary.histograms.values()} == {summary.n_tokens}


# ---- merging


def flatten(summary):
    """Everything a summary says, as named arrays with the size that rounding scales with."""
    out = {f"table {name}": (summary.sequences[name], 0.0) for name in COLUMNS}
    positions = summary.positions
    for name in ("tv", "kl", "chi2", "abs_ratio", "square", "k3", "ratio"):
        size = positions.mean("abs_ratio") if name == "ratio" else 0.0
        out[f"mean {name}"] = (positions.mean(name), size)
    for name in ("tv", "kl", "chi2", "abs_log_ratio"):
        out[f"max {name}"] = (positions.maximum(name), 0.0)
    out["alive"] = (positions.alive, 0.0)
    out["crossed"] = (summary.stopped.crossed, 0.0)
    out["stop_prob"] = (summary.stopped.stop_prob, 0.0)
    out["stop_tail"] = (summary.stopped.stop_tail, 0.0)
    for name, histogram in summary.histograms.items():
        out[f"histogram {name}"] = (histogram.counts, 0.0)
    return out


def assert_same(one, two):
    assert (one.files, one.counts, one.present, one.seen) == (
        two.files,
        two.counts,
        two.present,
        two.seen,
    )
    assert {n: e.place for n, e in one.extremes.items()} == {
        n: e.place for n, e in two.extremes.items()
    }
    first, second = flatten(one), flatten(two)
    assert first.keys() == second.keys()
    for name, (values, size) in first.items():
        error = np.abs(values - second[name][0])
        limit = 1e-12 * np.maximum(np.abs(values), size)
        assert np.all((error <= limit) | np.isnan(error)), name


@pytest.fixture(scope="module")
def real():
    batches = [batch for path in FILES for batch in open_trace(path)]
    whole = TraceSummary()
    for batch in batches:
        whole = whole.merge(TraceSummary.of(batch))
    return batches, whole


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_partition_merged_in_any_order_is_the_same(real, data):
    batches, whole = real
    parts = []
    for batch in batches:
        n = batch.n_sequences
        labels = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        parts += [TraceSummary.of(batch.select(np.array(labels) == label)) for label in set(labels)]
    parts = data.draw(st.permutations(parts))
    # A random tree of merges, either argument first.
    while len(parts) > 1:
        i = data.draw(st.integers(0, len(parts) - 2))
        pair = parts[i : i + 2]
        first, second = pair if data.draw(st.booleans()) else pair[::-1]
        parts[i : i + 2] = [first.merge(second)]
    assert_same(whole, parts[0])


def test_large_batches_are_looked_at_in_blocks(real, monkeypatch):
    batches, whole = real
    monkeypatch.setattr("trbounds.traces.summary._BLOCK_TOKENS", 1000)
    parts = [TraceSummary.of(batch) for batch in batches]
    assert max(part.n_tokens for part in parts) > 3000
    joined = TraceSummary()
    for part in parts:
        joined = joined.merge(part)
    assert_same(whole, joined)


def test_merge_leaves_its_arguments_alone(real):
    batches, _ = real
    one, two = TraceSummary.of(batches[0]), TraceSummary.of(batches[-1])
    before = flatten(one), flatten(two)
    merged = one.merge(two)
    assert merged.merge(TraceSummary.of(batches[1])).n_sequences > merged.n_sequences
    for kept, summary in zip(before, (one, two), strict=True):
        for name, (values, _size) in flatten(summary).items():
            np.testing.assert_array_equal(values, kept[name][0])


def test_the_empty_summary_changes_nothing(real):
    batches, _ = real
    one = TraceSummary.of(batches[0])
    assert_same(one, one.merge(TraceSummary()))
    assert_same(one, TraceSummary().merge(one))


def test_a_record_counted_twice_is_refused(real):
    batches, _ = real
    one = TraceSummary.of(batches[0])
    twice = one.merge(one)
    for _ in range(2):
        with pytest.raises(InputError, match=r"record 0: found twice"):
            _ = twice.sequences


def test_a_summary_does_not_absorb_itself(real):
    summary = TraceSummary.of(real[0][0])
    with pytest.raises(InputError, match="found the summary itself"):
        summary.absorb(summary)
    assert_same(summary, TraceSummary.of(real[0][0]))


def test_different_reward_ranges_do_not_merge():
    with pytest.raises(InputError, match="expected one range"):
        TraceSummary().merge(TraceSummary(reward_range=(0, 2)))


# ---- what is not there


def plain(lists, **extra):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    flat = np.array([x for row in lists for x in row], dtype=np.float64)
    return TraceBatch(
        offsets=offsets,
        rollout_logprobs=np.minimum(-flat, 0.0) - 0.5,
        train_logprobs=np.minimum(-flat, 0.0) - 0.5 + flat,
        **extra,
    )


def test_tables_of_many_parts_are_joined_like_with_like(monkeypatch):
    monkeypatch.setattr("trbounds.traces.sequence_table._LOOSE", 2)
    found, lists = TraceSummary(), [[0.01 * i] for i in range(1, 65)]
    for i, row in enumerate(lists):
        found.absorb(TraceSummary.of(plain([row], file="a", first_record=i)))
        # A power of two each, none twice, and one that is not joined yet.
        assert len(found._table._chunks) <= (i + 1).bit_length() + 1
    whole = TraceSummary.of(plain(lists, file="a"))
    np.testing.assert_array_equal(found.sequences["log_weight"], whole.sequences["log_weight"])
    np.testing.assert_array_equal(found.sequences["record"], np.arange(64))


def test_optional_fields_are_those_that_every_part_has():
    n = 2
    bare = TraceSummary.of(plain([[0.1], [0.2]], file="a"))
    full = TraceSummary.of(plain([[0.1], [0.2]], file="b", kl=np.ones(n), reward=np.ones(n)))
    both = bare.merge(full)
    assert not both.has("kl")
    assert full.has("kl", "reward")
    assert both.seen == {"kl", "reward"}
    assert np.isnan(bare.sequences["kl_sum"]).all()
    assert (bare.sequences["group"] == NO_GROUP).all()
    assert bare.groups().tolist() == [0, 1]
    assert not TraceSummary().has("kl")


def test_empty_and_fully_masked_sequences_count_with_weight_one():
    batch = plain([[], [0.5, -0.25], [0.5], []], chi2=np.ones(3))
    masked = replace(batch, mask=np.array([True, True, False]))
    summary = TraceSummary.of(masked)
    table = summary.sequences
    assert table["length"].tolist() == [0, 2, 0, 0]
    assert table["log_weight"].tolist() == [0.0, 0.25, 0.0, 0.0]
    assert table["residual_path"].tolist() == [0.0, pytest.approx(math.expm1(0.5) ** 2), 0.0, 0.0]
    assert summary.positions.mean("chi2").tolist() == [0.25, 0.25]
    counts = {"tokens": 2, "masked_tokens": 1, "empty_sequences": 3}
    assert {name: summary.counts[name] for name in counts} == counts
    nothing = TraceSummary.of(plain([[], []]))
    assert (nothing.n_sequences, nothing.n_tokens, nothing.T) == (2, 0, 0)


def test_masking_is_the_same_as_leaving_the_tokens_out():
    values = [[0.3, -0.2, 0.1, 0.4], [0.2, 0.2, -0.7]]
    keep = [[0, 1, 0, 1], [1, 1, 0]]
    batch = plain(values, mask=np.array([bool(x) for row in keep for x in row]))
    rows = [[x for x, k in zip(v, m, strict=True) if k] for v, m in zip(values, keep, strict=True)]
    one, two = TraceSummary.of(batch), TraceSummary.of(plain(rows))
    for name in COLUMNS:
        np.testing.assert_allclose(one.sequences[name], two.sequences[name], rtol=1e-15)
    np.testing.assert_allclose(one.positions.mean("ratio"), two.positions.mean("ratio"))
    assert one.extremes["abs_log_ratio_max"].place == ("<memory>", 0, 3)


def test_runaway_weights_saturate_and_are_counted():
    n = 400
    lists = [[0.5] * n, [0.01] * 3, [0.5] * n]
    summary = TraceSummary.of(plain(lists, chi2=np.full(2 * n + 3, 0.5)))
    assert summary.counts["saturated_sequences"] == 2
    assert summary.sequences["log_weight"].tolist() == pytest.approx([200.0, 0.03, 200.0])
    path = sum(math.expm1(min(0.5 * t, 100.0)) ** 2 * 0.5 for t in range(n))
    assert summary.sequences["residual_path"][[0, 2]].tolist() == pytest.approx([path, path])
    assert np.isfinite(summary.stopped.stop_prob_standard_error).all()


def test_admissible_extremes_stay_finite():
    batch = TraceBatch(
        offsets=np.array([0, 2]),
        rollout_logprobs=np.array([-100.0, 0.0]),
        train_logprobs=np.array([0.0, -1e4]),
        kl=np.array([1e4, 0.0]),
        tv=np.array([1.0, 0.0]),
        chi2=np.array([math.exp(100), 0.0]),
    )
    summary = TraceSummary.of(batch).merge(TraceSummary())
    for name in ("kl", "chi2", "square", "k3"):
        assert np.isfinite(summary.positions.mean(name)).all()
    assert all(np.isfinite(extreme.value) for extreme in summary.extremes.values())


def test_counts_of_suspicious_tokens():
    batch = TraceBatch(
        offsets=np.array([0, 2, 4, 4]),
        rollout_logprobs=np.array([0.0, -1.0, 0.0, -2.0]),
        train_logprobs=np.array([0.0, -1.0, -1.0, -3.0]),
        weight_version=np.array([1, 1, 1, 2]),
        top_p=np.array([0.9, 1.0, 1.0]),
        top_k=np.array([0, 5, 0]),
        finished=np.array([True, False, False]),
    )
    counts = TraceSummary.of(batch).counts
    for other, filled in ((-0.05, 0), (-0.15, 1)):
        pair = np.array([0.0]), np.array([other])
        for name, (one, two) in (("rollout", pair), ("train", pair[::-1])):
            token = TraceBatch(offsets=np.array([0, 1]), rollout_logprobs=one, train_logprobs=two)
            assert TraceSummary.of(token).counts[f"zero_filled_{name}"] == filled
    assert counts["equal_logprobs"] == 2
    assert counts["zero_rollout_logprobs"] == 2
    assert counts["zero_train_logprobs"] == 1
    assert counts["mixed_versions"] == 1
    assert counts["truncated_sampling"] == 2
    assert counts["finished"] == 1


def test_groups_and_steps():
    labels = np.array(["b", "a", "b", "c"], dtype=object)
    extra = {"reward": np.array([1.0, 0.0, 0.5, 0.5]), "step": np.array([2, 1, 1, 2])}
    batch = plain([[0.1, 0.2], [], [0.3], [0.4]], kl=np.full(4, 0.5), **extra)
    summary = TraceSummary.of(replace(batch, prompt_id=labels))
    groups = summary.groups()
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 3
    as_group = TraceSummary.of(replace(batch, group_id=labels))
    assert as_group.groups().tolist() == groups.tolist()
    series = summary.steps()
    assert series.step.tolist() == [1, 2]
    assert series.n_sequences.tolist() == [2, 2]
    assert series.kl_seq.tolist() == [0.25, 0.75]
    assert series.reward_mean.tolist() == [0.25, 0.75]
    assert series.length_mean.tolist() == [0.5, 1.5]
    assert series.ratio_mean.tolist() == pytest.approx(
        [math.exp(0.3), (math.exp(0.1) + math.exp(0.2) + math.exp(0.4)) / 3]
    )


# ---- summarize


def test_summarize_lists_what_it_skips(tmp_path):
    good = {"rollout_logprobs": [-1.0], "train_logprobs": [-2.0]}
    bad = {"rollout_logprobs": [1.0], "train_logprobs": [-2.0]}
    lines = "".join(json.dumps(row) + "\n" for row in (good, bad, good))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(InputError, match="record 1"):
        summarize(tmp_path)
    summary = summarize(tmp_path, on_error="skip")
    assert summary.sequences["record"].tolist() == [0, 2]
    assert summary.counts["skipped"] == 2
    assert [(s.file[-7:], s.record, s.field) for s in summary.skipped] == [
        ("a.jsonl", 1, "rollout_logprobs"),
        ("b.jsonl", -1, ""),
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps(bad))
    with pytest.raises(InputError, match="found no sequence; left out because of an error: 2"):
        summarize(tmp_path, on_error="skip")


def test_unknown_names_are_refused():
    summary = summarize(example_path())
    with pytest.raises(InputError, match="expected one of tv, kl"):
        summary.positions.mean("k9")
    with pytest.raises(InputError, match="expected one of tv, kl"):
        summary.positions.maximum("k3")
    with pytest.raises(InputError, match="holds no sequence"):
        TraceSummary().positions.mean("kl")


def test_memory_per_sequence():
    assert sum(np.dtype(kind).itemsize for kind in COLUMNS.values()) <= 128


def test_whole_numbers_in_text_are_themselves_as_prompts():
    labels = [str(2**63 - 1), str(-(2**63) + 1), "7", "007", str(-(2**63)), str(2**63)]
    batch = plain([[0.1]] * 6, prompt_id=np.array(labels, dtype=object))
    found = TraceSummary.of(batch).sequences["group"].tolist()
    assert found[:3] == [2**63 - 1, -(2**63) + 1, 7]
    assert NO_GROUP not in found
    assert len(set(found)) == 6


def test_the_first_thousand_records_left_out_are_listed():
    summary = TraceSummary()
    for record in reversed(range(1005)):
        summary.record_skip(InputError("bad", file="f", record=record))
    assert [skipped.record for skipped in summary.skipped] == list(range(1000))
    assert summary.counts["skipped"] == 1005
    for error in (InputError("bad", file="f", record=3, field="kl"), InputError("bad", file="f")):
        assert str(Skipped.of(error).error()) == str(error)


@pytest.mark.parametrize(("rollout", "holes"), [(0.0, 0), (-np.inf, 0), (-0.2, 1)])
def test_fillers_are_no_holes_of_a_mask(rollout, holes):
    batch = TraceBatch(
        offsets=np.array([0, 3]),
        rollout_logprobs=np.array([-1.0, rollout, -1.0]),
        train_logprobs=np.array([-1.1, -0.5, -1.2]),
        mask=np.array([True, False, True]),
    )
    count, mean, smallest = TraceSummary.of(batch).pairs.masked("hole")
    assert count == holes
    if holes:
        assert mean == smallest == pytest.approx(0.3)


def test_quantiles_of_token_values():
    batches = list(open_trace(FILES[1]))
    x = np.concatenate([batch.log_ratio for batch in batches])
    tokens = {"abs_log_ratio": np.abs(x), "k2": x * x / 2, "k3": np.expm1(x) - x}
    for name in ("kl", "tv", "chi2", "entropy"):
        tokens[name] = np.concatenate([getattr(batch, name) for batch in batches])
    whole, parts = summarize(FILES[1]), TraceSummary()
    for batch in batches:
        for part in batch.slices(1000):
            parts.absorb(TraceSummary.of(part))
    for name, values in tokens.items():
        for q in (0.0, 0.5, 0.9, 0.999, 1.0):
            found = whole.quantile(name, q)
            rel = 1 / 8 if name == "k2" else 1 / 16
            exact = np.sort(values)[min(int(q * values.size), values.size - 1)]
            assert found == pytest.approx(exact, rel=rel, abs=1e-17)
            assert parts.quantile(name, q) == found
        if name != "k3":
            assert whole.quantile(name, 1.0) == pytest.approx(values.max(), rel=1e-15)


def test_quantiles_are_of_what_every_token_has():
    plain = TraceBatch(
        offsets=np.array([0, 2]),
        rollout_logprobs=np.array([-1.0, -2.0]),
        train_logprobs=np.array([-1.5, -2.0]),
    )
    summary = TraceSummary.of(plain)
    assert summary.quantile("k2", 1.0) == 0.125
    more = TraceSummary.of(replace(plain, kl=np.array([0.1, 0.2]), file="other"))
    assert more.quantile("kl", 1.0) == 0.2
    summary.absorb(more)
    for name in ("kl", "tv", "k4"):
        with pytest.raises(InputError, match="expected a value that every token has"):
            summary.quantile(name, 0.5)
    with pytest.raises(InputError, match="holds no token"):
        TraceSummary.of(plain.select(np.array([False]))).quantile("k3", 0.5)
