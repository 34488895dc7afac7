"""The numpy and the compiled token pass: against long double, and against each other."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.compiling import uses_numba
from trbounds.errors import InputError, MissingDependency
from trbounds.traces import TraceBatch, TraceSummary, open_trace
from trbounds.traces.summary_file import _arrays, _document

DATA = Path(__file__).parents[1] / "data"
KERNELS = ["numpy", "numba"]
Long = np.longdouble


def make(lengths, scale=0.05, seed=0, *, divergences=True):
    """A batch with some large, some tiny and some zero log-ratios."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    m = int(offsets[-1])
    rollout = -rng.exponential(1.0, m)
    x = (
        scale
        * rng.standard_normal(m)
        * rng.choice([0.0, 1e-9, 1.0, 4.0], m, p=[0.1, 0.2, 0.6, 0.1])
    )
    batch = TraceBatch(
        offsets=offsets,
        rollout_logprobs=np.minimum(rollout, 0.0),
        train_logprobs=np.minimum(rollout + x, 0.0),
        reward=rng.random(offsets.size - 1),
    )
    if not divergences:
        return batch
    kl = np.abs(x) * rng.random(m)
    return replace(
        batch, kl=kl, tv=np.sqrt(kl / 2) * rng.random(m), chi2=kl * 3, entropy=rng.random(m)
    )


SHAPES = {
    "long": [3000, 513, 512, 511, 0, 1, 1024],
    "short": np.random.default_rng(1).integers(0, 60, 400),
    "equal": [700] * 40,
    "empty": [0, 0, 0],
}


def long_terms(batch):
    """Per-token values in long double."""
    x = (batch.train_logprobs - batch.rollout_logprobs).astype(Long)
    ratio = np.expm1(x)
    # The subtraction cancels: a series where it would, in the precision of long double.
    series = sum((x**n / Long(math.factorial(n)) for n in range(2, 25)), start=0 * x)
    k3 = np.where(np.abs(x) < 0.5, series, ratio - x)
    return {"log_weight": x, "ratio": ratio, "abs_ratio": abs(ratio), "square": ratio**2, "k3": k3}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["long", "short", "equal"])
def test_against_long_double(kernel, shape):
    batch = make(SHAPES[shape])
    summary = TraceSummary.of(batch, kernel=kernel)
    terms = long_terms(batch)
    terms.update({name: getattr(batch, name).astype(Long) for name in ("kl", "tv", "chi2")})
    edges = list(zip(batch.offsets[:-1], batch.offsets[1:], strict=True))
    for name, values in terms.items():
        column = name if name == "log_weight" else f"{name}_sum"
        exact = np.array([values[a:b].sum() for a, b in edges])
        size = np.array([np.abs(values[a:b]).sum() for a, b in edges])
        assert np.all(np.abs(summary.sequences[column] - exact) <= 1e-13 * size), name
    lengths = batch.lengths
    position = np.arange(batch.n_tokens) - np.repeat(batch.offsets[:-1], lengths)
    for name in ("ratio", "abs_ratio", "square", "k3", "kl", "tv", "chi2"):
        exact, size = np.zeros(lengths.max(), Long), np.zeros(lengths.max(), Long)
        np.add.at(exact, position, terms[name])
        np.add.at(size, position, np.abs(terms[name]))
        error = np.abs(summary.positions.mean(name) * lengths.size - exact)
        assert np.all(error <= 1e-13 * size), name
    weight = np.concatenate(
        [np.concatenate([[0], np.cumsum(terms["log_weight"][a:b])[:-1]]) for a, b in edges if b > a]
    )
    path = np.expm1(weight) ** 2 * terms["chi2"]
    exact = np.array([path[a:b].sum() for a, b in edges])
    np.testing.assert_allclose(
        summary.sequences["residual_path"], exact.astype(float), rtol=1e-12, atol=1e-25
    )


def assert_same(one, two):
    first, second = _document(one), _document(two)
    extremes = first.pop("extremes"), second.pop("extremes")
    assert first == second
    assert extremes[0].keys() == extremes[1].keys()
    for name, (value, *place) in extremes[0].items():
        assert extremes[1][name][0] == pytest.approx(value, rel=1e-13, abs=1e-25), name
        assert extremes[1][name][1:] == place, name
    arrays, others = _arrays(one), _arrays(two)
    assert arrays.keys() == others.keys()
    for name, values in arrays.items():
        other = others[name]
        if values.ndim == 2:
            values, other = values.sum(axis=0), other.sum(axis=0)
        signed = {"log_weight": "abs_ratio_sum", "ratio_sum": "abs_ratio_sum"}
        size = np.abs(values)
        if name.startswith("sequences/") and name[10:] in signed:
            size = np.maximum(size, one.sequences[signed[name[10:]]])
        elif name == "positions/sum_ratio":
            size = arrays["positions/sum_abs_ratio"].sum(axis=0)
        elif name.startswith("pairs/") or name == "sequences/residual_path":
            # Sums of either sign, and prefix weights, whose logarithms are such sums.
            size = 20.0 * np.maximum(
                size, 1e-2 * np.abs(values[np.isfinite(values)]).max(initial=0)
            )
        limit = 1.2e-7 * size if values.dtype == np.float32 else 1e-13 * size
        with np.errstate(invalid="ignore"):
            error = np.abs(values - other)
        assert np.all((error <= limit) | (values == other) | np.isnan(error)), name


@pytest.mark.parametrize("divergences", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_say_the_same(shape, divergences):
    batch = make(SHAPES[shape], divergences=divergences)
    assert_same(*(TraceSummary.of(batch, kernel=kernel) for kernel in KERNELS))


def masked(batch):
    """Some tokens of every sequence left out, of some sequences all."""
    rng = np.random.default_rng(2)
    kept = np.repeat(rng.random(batch.n_sequences) < 0.8, batch.lengths)
    mask = kept & (rng.random(batch.n_tokens) < 0.7)
    return replace(batch, mask=mask, weight_version=np.arange(batch.n_tokens) // 1000)


def test_both_say_the_same_of_masked_tokens():
    batch = masked(make(SHAPES["long"]))
    assert_same(*(TraceSummary.of(batch, kernel=kernel) for kernel in KERNELS))


def test_both_say_the_same_of_runaway_weights():
    batch = make([600, 900, 4], scale=0.0)
    x = np.concatenate([np.full(600, 0.4), np.full(450, -1.0), np.full(450, 1.1), [-9e3, 90, 0, 3]])
    train = np.full(x.size, -200.0)
    batch = replace(batch, rollout_logprobs=np.clip(train - x, -100, 0), train_logprobs=train)
    batch = replace(batch, train_logprobs=batch.rollout_logprobs + x)
    one, two = (TraceSummary.of(batch, kernel=kernel) for kernel in KERNELS)
    assert one.counts["saturated_sequences"] == 1
    assert_same(one, two)


@pytest.mark.parametrize("name", ["moe", "stale_k16"])
def test_both_say_the_same_of_real_traces(name):
    for batch in open_trace(DATA / f"{name}.parquet"):
        assert_same(*(TraceSummary.of(batch, kernel=kernel) for kernel in KERNELS))


def test_threads_change_nothing(monkeypatch):
    batch = make(SHAPES["equal"])
    whole = TraceSummary.of(batch, kernel="numba")
    monkeypatch.setattr("trbounds.traces.summary._THREAD_TOKENS", 1000)
    monkeypatch.setattr("trbounds.traces.summary.usable_cores", lambda: 3)
    assert_same(whole, TraceSummary.of(batch, kernel="numba"))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["long", "short"])
@pytest.mark.parametrize("change", [lambda batch: batch, masked], ids=["all", "masked"])
def test_blocks_may_be_added_in_any_order(kernel, shape, change):
    batch = change(make(SHAPES[shape]))
    whole = TraceSummary.of(batch, kernel=kernel)
    blocks = list(batch.slices(700))
    for order in (blocks, blocks[::-1]):
        summary = TraceSummary()
        for block in order:
            summary.add(block, kernel=kernel)
        assert_same(whole, summary)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("field", ["step", "records"])
def test_a_refused_batch_changes_nothing(kernel, field):
    """Also where the numbers that do not fit are in a block of tokens after the first."""
    batch = make([200_000, 3])
    summary = TraceSummary.of(batch, kernel=kernel)
    bad = replace(batch, first_record=2, **{field: np.array([5, 2**40])})
    with pytest.raises(InputError, match=r"found 1099511627776, expected at most"):
        summary.add(bad, kernel=kernel)
    assert_same(summary, TraceSummary.of(batch, kernel=kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_was_returned_does_not_change_when_batches_are_added(kernel):
    summary = TraceSummary.of(make([5, 9]), kernel=kernel)
    other = replace(make([9], scale=3.0, seed=1), first_record=2)
    merged = summary.merge(TraceSummary.of(other, kernel=kernel))
    names = ("tv", "kl", "chi2", "abs_log_ratio")
    held = [summary.positions.maximum(name) for name in names]
    before = [values.tolist() for values in held]
    summary.add(other, kernel=kernel)
    assert [values.tolist() for values in held] == before
    assert_same(summary, merged)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.astype(np.float32),
        lambda values: values.astype(">f8"),
        lambda values: np.repeat(values, 2)[::2],
    ],
    ids=["float32", "big-endian", "strided"],
)
def test_arrays_of_a_caller_need_not_be_float64(change, kernel):
    names = ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2", "entropy")
    batch = make([3, 0, 700, 40])
    batch = replace(
        batch, **{n: getattr(batch, n).astype(np.float32).astype(np.float64) for n in names}
    )
    other = replace(batch, **{name: change(getattr(batch, name)) for name in names})
    assert_same(*(TraceSummary.of(each, kernel=kernel) for each in (batch, other)))


def test_choice_of_the_kernel(monkeypatch):
    assert not uses_numba("numpy")
    assert uses_numba("numba", worth=False)
    assert uses_numba("auto", worth=True)
    assert not uses_numba("auto", worth=False)
    with pytest.raises(InputError, match="'auto', 'numpy' or 'numba'"):
        TraceSummary.of(make([3]), kernel="fortran")
    monkeypatch.setattr("trbounds.compiling._has_numba", lambda: False)
    assert not uses_numba("auto")
    with pytest.raises(MissingDependency, match="numba"):
        uses_numba("numba")
