"""The token pass on any array library, against the summary of a trace and against exact sums."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import TraceBatch, TraceSummary
from trbounds.traces import device_sums as module
from trbounds.traces.device_sums import token_sums

SEQUENCES = (
    "log_weight",
    "ratio_sum",
    "abs_ratio_sum",
    "square_sum",
    "k3_sum",
    "kl_sum",
    "tv_sum",
    "chi2_sum",
    "residual_path",
)
POSITIONS = ("ratio", "abs_ratio", "square", "k3", "kl", "tv", "chi2")


def make_batch(seed: int, n: int = 40, *, scale: float = 0.2) -> TraceBatch:
    """Ragged sequences, some of them empty, the first of all longer than the rest together."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, n)
    lengths[0], lengths[1] = 900, 0
    size = int(lengths.sum())
    logq = -rng.exponential(1.0, size)
    kl = scale**2 * rng.exponential(1.0, size)
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=logq,
        train_logprobs=np.minimum(logq + scale * rng.normal(size=size), 0.0),
        kl=kl,
        tv=np.sqrt(kl / 3.0),
        chi2=2.5 * kl,
    )


def on(xp: ModuleType, values: Any) -> Any:
    return xp.asarray(np.asarray(values), dtype=xp.float64)


def host(values: Any) -> np.ndarray:
    return np.array([float(v) for v in values])


@pytest.mark.parametrize("cells", [1, 1000, 1 << 21])
def test_the_same_as_the_summary_of_the_trace(
    xp: ModuleType, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the sequences are put into rectangles."""
    monkeypatch.setattr(module, "_BLOCK_CELLS", cells)
    batch = make_batch(1)
    columns = {name: on(xp, getattr(batch, name)) for name in ("kl", "tv", "chi2")}
    found = token_sums(on(xp, batch.log_ratio), batch.offsets, **columns)
    summary = TraceSummary.of(batch, kernel="numpy")
    assert (found.n_sequences, found.T) == (summary.n_sequences, summary.T)
    for name in SEQUENCES:
        assert type(found.sequences[name]) is type(columns["kl"])
        np.testing.assert_allclose(
            host(found.sequences[name]), summary.sequences[name], rtol=1e-12, atol=1e-14
        )
    for name in ("kl_max", "k2_max"):  # float32 in the table
        np.testing.assert_allclose(host(found.sequences[name]), summary.sequences[name], rtol=1e-6)
    for name in POSITIONS:
        np.testing.assert_allclose(
            host(found.position_mean(name)), summary.positions.mean(name), rtol=1e-12, atol=1e-15
        )
    for name in ("kl", "tv", "chi2", "abs_log_ratio"):
        np.testing.assert_array_equal(
            host(found.position_maxima[name]), summary.positions.maximum(name)
        )
    np.testing.assert_array_equal(host(found.alive), summary.positions.alive)


def test_small_sequences_keep_their_digits_beside_huge_ones() -> None:
    """A running sum over the batch would leave nothing of the second sequence."""
    log_ratio = np.concatenate([np.full(5000, 5.0), [1e-9, -3e-9, 2e-9]])
    found = token_sums(log_ratio, [0, 5000, 5003])
    small = log_ratio[5000:]
    assert found.sequences["k3_sum"][1] == pytest.approx(
        math.fsum(d * d / 2 + d**3 / 6 for d in small), rel=1e-14
    )
    assert found.sequences["log_weight"][0] == 25_000.0
    assert abs(found.sequences["log_weight"][1]) < 1e-24


def test_sums_over_many_sequences_are_as_close_as_stated() -> None:
    n = 200_000
    found = token_sums(np.full(2 * n, 0.1), np.arange(n + 1) * 2)
    one = math.expm1(0.1)
    assert found.position_sums["ratio"].tolist() == pytest.approx([n * one] * 2, rel=2e-16 * n)
    long = token_sums(np.full(n, 0.1), [0, n]).sequences["ratio_sum"]
    assert long.tolist() == pytest.approx([n * one], rel=1e-14)


def test_weights_saturate_as_in_a_trace() -> None:
    rng = np.random.default_rng(3)
    logq = np.full(300, -60.0)
    batch = TraceBatch(
        offsets=np.array([0, 300]),
        rollout_logprobs=logq,
        train_logprobs=logq + rng.uniform(0.0, 2.0, 300),
        chi2=rng.exponential(1.0, 300),
    )
    found = token_sums(batch.log_ratio, batch.offsets, chi2=batch.chi2)
    expected = TraceSummary.of(batch, kernel="numpy").sequences["residual_path"]
    np.testing.assert_allclose(found.sequences["residual_path"], expected, rtol=1e-12)
    assert set(found.position_sums) == {"chi2", "ratio", "abs_ratio", "square", "k3"}
    assert "kl_max" not in found.sequences


def test_no_token_at_all(xp: ModuleType) -> None:
    found = token_sums(on(xp, np.zeros(0)), [0, 0, 0])
    assert (found.n_sequences, found.T) == (2, 0)
    assert host(found.sequences["k3_sum"]).tolist() == [0.0, 0.0]
    assert found.position_mean("k3").shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: token_sums(x, [0, 2]), "'log_ratio': found 3 tokens, expected 2"),
        (lambda x: token_sums(x, [0, 3], kl=x[:2]), "'kl': found 2 tokens, expected 3"),
        (lambda x: token_sums(x, [0, 2, 1, 3]), "'offsets': .*do not fall"),
        (lambda x: token_sums(x, [0.0, 3.0]), "'offsets'"),
        (lambda x: token_sums(x, [3]), "'offsets'"),
        (lambda x: token_sums(x[None], [0, 3]), r"'log_ratio': found shape \(1, 3\)"),
        (lambda x: token_sums(x - np.inf, [0, 3]), "record 0, field 'log_ratio': found -inf"),
        (lambda x: token_sums(x + 101.0, [0, 3]), r"found 101, expected .* in \[-10000, 100\]"),
        (lambda x: token_sums(x, [0, 3], tv=x + 1.5), r"found 1.5, expected .* in \[0, 1\]"),
        (lambda x: token_sums(x, [0, 3], tv=x - 1.0), "record 0, field 'tv': found -1"),
        (lambda x: token_sums(x, [0, 3], chi2=x * np.nan), "field 'chi2': found nan"),
        (lambda x: token_sums(x, [0, 3]).position_mean("kl"), "found 'kl', expected one of ratio"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.zeros(3))
