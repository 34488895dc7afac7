"""Terms of tokens and their sums against exact arithmetic, by both kernels."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from trbounds.metrics.importance import Weights
from trbounds.metrics.numba_terms import COMPILED
from trbounds.metrics.sums import sum_sequences
from trbounds.metrics.terms import COLUMNS
from trbounds.traces import TraceBatch

KERNELS = ["numpy", "numba"]


def make_batch(log_ratio, lengths):
    rollout = np.full(log_ratio.size, -1.0)
    train = rollout + log_ratio
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=rollout,
        train_logprobs=train,
    )


def exact(batch, term):
    """Sum of a term over each sequence, of the log-ratios as float64 gives them."""
    d = batch.train_logprobs - batch.rollout_logprobs
    with mpmath.workdps(40):
        terms = [term(mpmath.mpf(float(x))) for x in d]
        cuts = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
        return np.array([float(mpmath.fsum(terms[a:b])) for a, b in cuts])


def clamped(x):
    return min(max(x, mpmath.mpf(-20)), mpmath.mpf(20))


EXACT = {
    "log_ratio": lambda x: x,
    "k3": lambda x: mpmath.expm1(x) - x,
    "k3_square": lambda x: (mpmath.expm1(x) - x) ** 2,
    "clamped_chi2": lambda x: mpmath.expm1(2 * clamped(x)),
    "clamped_k1": lambda x: -clamped(x),
    "clamped_k2": lambda x: clamped(x) ** 2 / 2,
    "clamped_k3": lambda x: mpmath.expm1(clamped(x)) - clamped(x),
    "absolute": abs,
    "weight": mpmath.exp,
    "weight_distance": lambda x: abs(mpmath.expm1(x)),
}
OF_ONE_SIGN = [name for name in EXACT if name not in ("log_ratio", "clamped_chi2", "clamped_k1")]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spread", [1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 0.05, 0.5, 5.0, 40.0])
def test_sums_are_accurate_at_every_size(spread, kernel):
    """However close the policies are: the difference of two terms would lose k3 then."""
    rng = np.random.default_rng(0)
    lengths = np.array([1, 0, 5, 40, 3])
    batch = make_batch(spread * rng.standard_normal(lengths.sum()), lengths)
    found = sum_sequences([batch], EXACT, Weights(), kernel=kernel)
    for name, term in EXACT.items():
        expected = exact(batch, term)
        rtol = 2e-11 if name in OF_ONE_SIGN else 0
        atol = 0 if name in OF_ONE_SIGN else 1e-13 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[name], expected, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_close_sequence_beside_one_that_is_not(kernel):
    """One block, of which the mean k3 is large, and a sequence for which it is tiny."""
    rng = np.random.default_rng(1)
    log_ratio = np.concatenate([0.3 * rng.standard_normal(900), 1e-9 * rng.standard_normal(30)])
    batch = make_batch(log_ratio, np.array([900, 30]))
    found = sum_sequences([batch], ["k3", "k3_max"], Weights(), kernel=kernel)
    np.testing.assert_allclose(found["k3"], exact(batch, EXACT["k3"]), rtol=2e-11)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [1.3e-3, 1.5e-3, 0.02])
def test_long_sequences_of_log_ratios_of_one_sign(size, kernel):
    """On both sides of where k3 begins to be summed as the difference of two sums."""
    rng = np.random.default_rng(2)
    lengths = np.full(3, 3000)
    sign = np.repeat([1.0, -1.0, 1.0], lengths)
    batch = make_batch(sign * size * rng.uniform(0.9, 1.1, sign.size), lengths)
    found = sum_sequences([batch], ["k3", "clamped_chi2"], Weights(), kernel=kernel)
    for name in ("k3", "clamped_chi2"):
        np.testing.assert_allclose(found[name], exact(batch, EXACT[name]), rtol=1e-12)


@pytest.mark.parametrize(
    "weights",
    [
        Weights(),
        Weights(cap=1.2),
        Weights(cap=1.2, floor=0.9),
        Weights(cap=1.2, floor=0.9, masks=True),
        Weights(cap=3.0, masks=True, clamps=True),
        Weights(cap=2.0, clamps=True),
        Weights(drops_overflow=True),
        Weights(cap=5.0, drops_overflow=True, masks=True),
    ],
)
@pytest.mark.parametrize("spread", [1e-6, 0.1, 30.0])
def test_compiled_columns_are_those_of_numpy(weights, spread):
    rng = np.random.default_rng(2)
    # Several tiles, sequences without tokens at both ends, and tokens beyond every clamp.
    lengths = np.array([0, 1, 700, 0, 512, 513, 1024, 2, 0])
    log_ratio = np.clip(spread * rng.standard_normal(lengths.sum()), -300, 99)
    log_ratio[::97] = 0.0
    batch = make_batch(log_ratio, lengths)
    names = [name for name, column in COLUMNS.items() if column[:2] in COMPILED]
    one, other = (sum_sequences([batch], names, weights, kernel=kernel) for kernel in KERNELS)
    assert len(names) > 15
    for name in names:
        np.testing.assert_allclose(other[name], one[name], rtol=3e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_extremes_of_sequences_without_tokens(kernel):
    batch = make_batch(np.array([0.5, -0.25]), np.array([0, 2, 0]))
    names = ["absolute_max", "k3_max", "applied_max", "applied_min"]
    found = sum_sequences([batch], names, Weights(), kernel=kernel)
    for name in names:
        assert found[name][[0, 2]].tolist() == [COLUMNS[name].empty] * 2
    assert found["absolute_max"][1] == 0.5
    assert found["applied_min"][1] == pytest.approx(np.exp(-0.25), rel=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "stored",
    [
        lambda values: values.astype(np.float32),
        lambda values: values.astype(">f8"),
        lambda values: np.repeat(values, 2)[::2],
    ],
    ids=["float32", "big-endian", "strided"],
)
def test_sums_are_of_float64_however_a_batch_stores_its_numbers(stored, kernel):
    rng = np.random.default_rng(3)
    numbers = (-rng.exponential(1.0, (2, 3000))).astype(np.float32).astype(np.float64)
    offsets = np.array([0, 2999, 3000])
    rollout, train = numbers
    plain = TraceBatch(offsets=offsets, rollout_logprobs=rollout, train_logprobs=train)
    other = TraceBatch(
        offsets=offsets, rollout_logprobs=stored(rollout), train_logprobs=stored(train)
    )
    expected = sum_sequences([plain], COLUMNS, Weights(), kernel=kernel)
    found = sum_sequences([other], COLUMNS, Weights(), kernel=kernel)
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_whole_numbers_as_limits_compile_nothing_anew():
    from trbounds.metrics import numba_terms

    batch = make_batch(np.array([0.5, -0.25]), np.array([2]))

    def total(cap, floor):
        weights = Weights(cap=cap, floor=floor)
        return sum_sequences([batch], ["applied"], weights, kernel="numba")["applied"][0]

    expected = total(2.0, 1.0)
    compiled = len(numba_terms._pass.signatures)
    assert total(2, 1) == expected
    assert len(numba_terms._pass.signatures) == compiled
