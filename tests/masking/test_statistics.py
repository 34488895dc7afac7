"""Statistics of sequences against their definitions, from the table and from the tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.masking import STATISTICS, compute_statistics, needs_tokens
from trbounds.masking.statistics import weights_of
from trbounds.traces import TraceBatch, TraceSummary

PLAIN = [name for name in STATISTICS if not name.startswith("ln_trm")]


def slow(batch, name):
    """A statistic as its name reads, one sequence at a time."""
    out = []
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        x = batch.train_logprobs[first:last] - batch.rollout_logprobs[first:last]
        rho = np.exp(x)
        terms = {
            "k1": -x,
            "k2": x**2 / 2,
            "k3": rho - 1 - x,
            "|rho-1|": np.abs(rho - 1),
            "(rho-1)^2": (rho - 1) ** 2,
            "ratio": rho,
            "mult_prob_error": np.maximum(rho, 1 / rho),
            "prob_delta": np.exp(batch.train_logprobs[first:last])
            - np.exp(batch.rollout_logprobs[first:last]),
            "kl": batch.kl[first:last],
            "tv": batch.tv[first:last],
            "chi2": batch.chi2[first:last],
        }
        safe = np.array([min(max(v, -20.0), 20.0) for v in x])
        terms["clamped_k1"] = -safe
        terms["clamped_k2"] = safe**2 / 2
        terms["clamped_k3"] = np.exp(safe) - 1 - safe
        aggregate, _, term = ("mean |rho-1|" if name == "ser" else name).partition(" ")
        values = terms[term]
        function = {
            "max": np.max,
            "min": np.min,
            "mean": np.mean,
            "sum": np.sum,
            "product": np.prod,
            "geomean": lambda values: values.prod() ** (1 / values.size),
        }[aggregate]
        out.append(float(function(values)))
    return out


@pytest.mark.parametrize("name", PLAIN)
def test_statistics_are_what_their_names_say(batch, summary, name):
    found = compute_statistics(summary, [name], [batch] if needs_tokens([name]) else None)
    assert found[name] == pytest.approx(slow(batch, name), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("tv_max", [None, 0.01])
def test_length_neutral_scores(batch, summary, tv_max):
    name, delta = "ln_trm" if tv_max is None else "ln_trm_tv", 1e-3
    found = compute_statistics(summary, [name], [batch], kl_max=delta, tv_max=tv_max)
    for i in range(batch.n_sequences):
        tokens = slice(batch.offsets[i], batch.offsets[i + 1])
        ratio = np.abs(np.exp(batch.train_logprobs[tokens] - batch.rollout_logprobs[tokens]) - 1)
        left = [summary.T - t for t in range(1, ratio.size + 1)]
        weights = [min(1.0, math.sqrt(n * delta / 2), n * (tv_max or math.inf)) for n in left]
        expected = sum(r * w for r, w in zip(ratio, weights, strict=True)) / sum(weights)
        assert found[name][i] == pytest.approx(expected, rel=1e-9)
        assert found[weights_of(name)][i] == pytest.approx(sum(weights), rel=1e-12)


def test_weights_take_the_largest_logged_divergences(batch, summary):
    by_default = compute_statistics(summary, ["ln_trm_tv"], [batch])
    given = compute_statistics(
        summary,
        ["ln_trm_tv"],
        [batch],
        kl_max=float(batch.kl.max()),
        tv_max=float(batch.tv.max()),
    )
    assert by_default["ln_trm_tv"] == pytest.approx(given["ln_trm_tv"], rel=1e-12)


def test_tokens_follow_the_order_of_a_summary(batch):
    first = replace(batch.select(np.arange(batch.n_sequences) < 10), file="b")
    second = replace(batch.select(np.arange(batch.n_sequences) >= 10), file="a")
    summary = TraceSummary.of(first).merge(TraceSummary.of(second))
    assert summary.files == ["a", "b"]
    pieces = [*list(first.slices(500))[::-1], second]
    found = compute_statistics(summary, ["max k3", "ln_trm"], pieces)
    expected = slow(second, "max k3") + slow(first, "max k3")
    assert found["max k3"] == pytest.approx(expected)
    straight = compute_statistics(summary, ["ln_trm"], [second, first])
    assert (found["ln_trm"] == straight["ln_trm"]).all()


def test_masked_tokens_do_not_count_and_empty_sequences_are_neutral(batch):
    flags = np.ones(batch.n_tokens, dtype=bool)
    flags[batch.offsets[3] : batch.offsets[4]] = False
    flags[0] = False
    masked = replace(batch, mask=flags)
    summary = TraceSummary.of(masked)
    found = compute_statistics(summary, STATISTICS, [masked])
    for name in STATISTICS:
        neutral = 1.0 if name.endswith("ratio") else 0.0
        assert found[name][3] == neutral, name
    counted = masked.counted().select(np.arange(batch.n_sequences) == 0)
    for name in PLAIN:
        assert found[name][0] == pytest.approx(slow(counted, name)[0], rel=1e-6), name


def test_another_trace_is_refused(batch, summary):
    with pytest.raises(InputError, match="other files"):
        compute_statistics(summary, ["max k3"], [replace(batch, file="elsewhere")])
    with pytest.raises(InputError, match="other sequences"):
        compute_statistics(summary, ["max k3"], [batch.select(np.arange(batch.n_sequences) != 2)])
    for twice in (batch, batch.select(np.arange(batch.n_sequences) == 2)):
        with pytest.raises(InputError, match="other sequences"):
            compute_statistics(summary, ["max k3"], [batch, twice])
    shorter = np.ones(batch.n_tokens, dtype=bool)
    shorter[7] = False
    with pytest.raises(InputError, match="other sequences"):
        compute_statistics(summary, ["max k3"], [replace(batch, mask=shorter)])
    later = replace(batch, first_record=batch.n_sequences)
    with pytest.raises(InputError, match="other sequences"):
        compute_statistics(summary, ["max k3"], [later])


def test_what_is_not_there_is_refused(batch, summary):
    bare = TraceSummary.of(replace(batch, kl=None))
    with pytest.raises(InputError, match="'max kl' needs kl"):
        compute_statistics(bare, ["max kl"])
    with pytest.raises(InputError, match="field 'kl_max': not logged, and not given"):
        compute_statistics(bare, ["ln_trm"], [batch])
    with pytest.raises(InputError, match="field 'kl_max': found nan"):
        compute_statistics(summary, ["ln_trm"], [batch], kl_max=math.nan)
    with pytest.raises(InputError, match="'max k3' needs the tokens"):
        compute_statistics(summary, ["max k3"])
    with pytest.raises(InputError, match="no statistic 'max k9'; there are: max k1"):
        compute_statistics(summary, ["max k9"])


def far_apart(batch):
    """The same trace with some log-ratios beyond the clamp, to either side."""
    shift = np.zeros(batch.n_tokens)
    shift[::97], shift[5::97] = -25.0, 30.0
    rollout = batch.rollout_logprobs - np.maximum(shift, 0)
    train = batch.train_logprobs + np.minimum(shift, 0)
    return replace(batch, rollout_logprobs=rollout, train_logprobs=train, kl=None, chi2=None)


@pytest.mark.parametrize("name", [name for name in PLAIN if "clamped" in name])
def test_clamped_statistics_read_the_tokens_where_the_clamp_matters(batch, summary, name):
    plain = name.replace("clamped_", "")
    assert needs_tokens([name]) == needs_tokens([name], summary) == needs_tokens([plain])
    far = far_apart(batch)
    beyond = TraceSummary.of(far)
    assert needs_tokens([name], beyond)
    with pytest.raises(InputError, match=f"'{name}' needs the tokens"):
        compute_statistics(beyond, [name])
    found = compute_statistics(beyond, [name], [far])[name]
    expected = slow(replace(far, kl=np.zeros(far.n_tokens), chi2=np.zeros(far.n_tokens)), name)
    assert found == pytest.approx(expected, rel=1e-12)
    unclamped = compute_statistics(beyond, [plain], [far])[plain]
    assert not np.allclose(found, unclamped)


@pytest.mark.parametrize("name", PLAIN)
def test_sequences_of_one_token(batch, name):
    fields = ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2")
    tokens = {field: getattr(batch, field)[:4] for field in fields}
    few = TraceBatch(offsets=np.array([0, 1, 2, 4]), **tokens)
    found = compute_statistics(TraceSummary.of(few), [name], [few])
    assert found[name] == pytest.approx(slow(few, name), rel=1e-6, abs=1e-12)
