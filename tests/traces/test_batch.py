"""The ragged batch: segments, masks, cuts and places."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trbounds.traces import TraceBatch
from trbounds.traces.batch import reduce_segments


def make(lists, mask=None, **extra):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    flat = np.array([x for row in lists for x in row], dtype=np.float64)
    if mask is not None:
        extra["mask"] = np.array([x for row in mask for x in row], dtype=bool)
    return TraceBatch(
        offsets=offsets,
        rollout_logprobs=-np.ones_like(flat),
        train_logprobs=flat - 1.0,
        **extra,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-3, 3), max_size=4), max_size=6))
def test_segments_agree_with_python_on_any_lengths(lists):
    batch = make(lists)
    values = batch.log_ratio
    rows = [values[a:b] for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
    np.testing.assert_allclose(
        batch.segment_sum(values), [sum(row) for row in rows], rtol=0, atol=1e-15
    )
    assert batch.segment_max(values, empty=-9.0).tolist() == [
        max(row, default=-9.0) for row in rows
    ]


def test_empty_segments_at_both_ends_and_inside():
    offsets = np.array([0, 0, 2, 2, 3, 3])
    assert reduce_segments(np.add, np.array([1.0, 2.0, 4.0]), offsets).tolist() == [0, 3, 0, 4, 0]
    assert reduce_segments(np.add, np.empty(0), np.zeros(3, np.int64)).tolist() == [0, 0]
    assert reduce_segments(np.add, np.empty(0), np.zeros(1, np.int64)).tolist() == []


def test_ratio_minus_one_does_not_cancel():
    batch = TraceBatch(
        offsets=np.array([0, 1]),
        rollout_logprobs=np.array([-1e-18]),
        train_logprobs=np.array([-3e-18]),
    )
    assert batch.ratio_minus_one[0] == pytest.approx(-2e-18, rel=1e-15)


def test_masked_tokens_have_ratio_one_even_when_they_hold_fillers():
    batch = make([[0.5, np.nan, 0.25]], mask=[[1, 0, 1]])
    assert batch.log_ratio.tolist() == [0.5, 0.0, 0.25]
    assert batch.ratio_minus_one[1] == 0.0


def test_counted_takes_masked_tokens_out_and_remembers_positions():
    batch = make([[1, 2, 3], [4], []], mask=[[0, 1, 1], [0], []], file="f", first_record=7)
    counted = batch.counted()
    assert counted.mask is None
    assert counted.lengths.tolist() == [2, 0, 0]
    assert counted.log_ratio.tolist() == [2, 3]
    assert counted.place(1) == ("f", 7, 2)
    assert counted.counted() is counted
    again = replace(counted, mask=np.array([False, True])).counted()
    assert again.place(0) == ("f", 7, 2)


def test_select_keeps_record_numbers():
    batch = make([[1], [2, 3], [4]], reward=np.array([0.1, 0.2, 0.3]), first_record=10)
    kept = batch.select(np.array([False, True, True]))
    assert kept.record_numbers.tolist() == [11, 12]
    assert kept.log_ratio.tolist() == [2, 3, 4]
    assert kept.reward.tolist() == [0.2, 0.3]
    assert kept.place(2) == ("<memory>", 12, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 8))
def test_slices_cover_the_batch_once_and_hold_whole_sequences(lengths, limit):
    batch = make([[float(i)] * n for i, n in enumerate(lengths)], first_record=3)
    parts = list(batch.slices(limit))
    assert sum(part.n_sequences for part in parts) == batch.n_sequences
    numbers = [number for part in parts for number in part.record_numbers.tolist()]
    assert numbers == batch.record_numbers.tolist()
    assert [x for part in parts for x in part.log_ratio] == batch.log_ratio.tolist()
    assert all(part.n_tokens <= limit or part.n_sequences == 1 for part in parts)


def test_repr_names_what_is_there():
    batch = make([[1.0]], reward=np.array([1.0]))
    assert "1 sequences, 1 tokens, with reward" in repr(batch)
    assert "log-probabilities only" in repr(make([[1.0]]))
