"""The data of the figures on mismatch and pruning, against plain loops over tokens and rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.logits import example_logits_path, read_logits
from trbounds.mismatch import smallest_logit_error
from trbounds.pruning import sweep_file
from trbounds.traces import example_path, open_trace
from trbounds_figures import mismatch, pruning, render


@pytest.fixture(scope="module")
def measured() -> mismatch.MismatchData:
    return mismatch.measure({"example": example_path()})


def test_cells_count_every_token_with_a_mismatch(measured: mismatch.MismatchData) -> None:
    (trace,) = measured.traces
    pairs = [
        (float(p), float(q))
        for batch in open_trace(example_path())
        for p, q in zip(batch.train_logprobs, batch.rollout_logprobs, strict=True)
    ]
    counts: dict[tuple[int, int], int] = {}
    for p, q in pairs:
        if p != q:
            column = min(max(math.floor(10 * (math.log10(-math.expm1(p)) + 4)), 0), 39)
            row = min(max(math.floor(10 * (math.log10(abs(q - p)) + 7)), 0), 79)
            counts[row, column] = counts.get((row, column), 0) + 1
    density = trace.density()
    assert trace.tokens == len(pairs)
    assert np.count_nonzero(~np.isnan(density)) == len(counts)
    for place, count in counts.items():
        assert density[place] == count
    assert trace.logit_error == pytest.approx(max(smallest_logit_error(p, q) for p, q in pairs))


def test_mismatch_survives_its_document(measured: mismatch.MismatchData, tmp_path: Path) -> None:
    path = tmp_path / "mismatch.json"
    path.write_text(measured.to_json())
    assert mismatch.data(path) == measured
    figure = render("mismatch", measured)
    assert len(figure.axes[0].child_axes) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]x", "{}", '{"traces": [1]}', '{"traces": [{"name": "a"}]}'],
    ids=["empty", "not JSON", "no traces", "no object", "no counts"],
)
def test_other_documents_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a record of mismatch"):
        mismatch.data(path)


def test_recorded_tokens_lie_below_the_envelope_and_follow_the_law() -> None:
    """On the six real traces: nothing above the envelope, and a mean that goes with 1 - p."""
    traces = mismatch.data().traces
    names = [trace.name for trace in traces]
    assert names == ["precision", "stale_k1", "moe", "stale_k4", "fp8", "stale_k16"]
    for trace in traces:
        density = trace.density()
        assert 180_000 < np.nansum(density) <= trace.tokens
        # Lower edge of the highest cell of each column, against the column's right edge.
        for column in range(density.shape[1]):
            rows = np.flatnonzero(~np.isnan(density[:, column]))
            if rows.size:
                edge = np.array([10 ** ((column + 1) / 10 - 4)])
                limit = mismatch.envelope(trace.logit_error, edge)
                assert 10 ** (rows.max() / 10 - 7) <= limit * (1 + 1e-9)
        rest, mean = np.array(trace.one_minus_p), np.array(trace.mean)
        middle = (rest > 1e-3) & (rest < 0.3)
        slope = np.polyfit(np.log(rest[middle]), np.log(mean[middle]), 1)[0]
        assert slope == pytest.approx(1, abs=0.12), trace.name


def test_envelope_is_attained_by_two_tokens() -> None:
    a = 0.7
    for rest in (1e-6, 0.2, 0.999):
        p = 1 - rest
        loss = math.log(p * math.exp(-a) + rest * math.exp(a)) + a
        assert mismatch.envelope(a, np.array([rest]))[0] == pytest.approx(loss, rel=1e-9)
    assert mismatch.envelope(a, np.array([1.0]))[0] == 2 * a


def test_pruning_collects_the_sweep_in_order() -> None:
    rows = sweep_file(read_logits(example_logits_path()), [0.1, 1e-3, 0.02])
    found = pruning.data(rows)
    assert found.min_p.tolist() == [1e-3, 0.02, 0.1]
    assert found.bias.tolist() == [rows[i].pruned_mass.value for i in (1, 2, 0)]
    assert found.removed["kl"].tolist() == [rows[i].removed("kl") for i in (1, 2, 0)]
    assert found.tv == rows[0].before.tv.value
    assert np.all(np.diff(found.bias) > 0)


def test_pruning_by_default_is_of_the_real_logits() -> None:
    found = pruning.data()
    assert found.n_rows == 100
    assert set(found.removed) == {"kl", "tv", "abs_mismatch"}
    # On these logits the bias exceeds the mismatch itself before a tenth of it is removed.
    assert found.bias[found.removed["tv"] > 0.1].min() > found.tv


def test_pruning_needs_two_thresholds() -> None:
    rows = sweep_file(read_logits(example_logits_path()), [0.1])
    with pytest.raises(InputError, match="found 1 thresholds, expected at least 2"):
        pruning.data(rows)
