"""The numerical kernels of the token pass, against mpmath and exact rationals."""

from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trbounds.errors import InputError
from trbounds.traces.compensated import CompensatedSum
from trbounds.traces.histogram import Histogram
from trbounds.traces.token_terms import k3_of, prefix_sum, shift_prefix_sum


def test_k3_against_mpmath():
    sizes = np.concatenate([np.geomspace(1e-150, 0.2499, 300), np.linspace(0.2499, 0.2501, 41)])
    sizes = np.concatenate([sizes, np.geomspace(0.26, 99.0, 100)])
    x = np.concatenate([sizes, -sizes])
    found = k3_of(x, np.expm1(x))
    with mpmath.workdps(400):
        exact = [mpmath.expm1(mpmath.mpf(v)) - mpmath.mpf(v) for v in x.tolist()]
        worst = max(abs(f / e - 1) for f, e in zip(found.tolist(), exact, strict=True))
    assert worst < 3e-15
    assert k3_of(np.array([0.0, -1e4]), np.array([0.0, -1.0])).tolist() == [0.0, 9999.0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(-10, 10), max_size=5), max_size=8),
)
def test_prefix_sums_against_exact_rationals(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.array([x for row in rows for x in row])
    inclusive = prefix_sum(values, offsets)
    exact, before = [], []
    for row in rows:
        total = Fraction(0)
        for x in row:
            before.append(float(total))
            total += Fraction(x)
            exact.append(float(total))
    np.testing.assert_allclose(inclusive, exact, rtol=0, atol=3e-14)
    np.testing.assert_allclose(shift_prefix_sum(inclusive, offsets), before, rtol=0, atol=3e-14)


def test_prefix_sums_do_not_drift_over_many_segments():
    # A running sum over the whole block reaches 6e5 here: its rounding alone would be 1e-10.
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 40, 3000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.uniform(0, 20, offsets[-1])
    values[offsets[1000] : offsets[1001]] = 1e-9
    inclusive = prefix_sum(values, offsets)
    last = inclusive[offsets[1:] - 1]
    exact = [float(sum(map(Fraction, values[a:b].tolist()))) for a, b in pairwise(offsets.tolist())]
    np.testing.assert_allclose(last, exact, rtol=0, atol=1e-12)
    assert np.all(np.diff(inclusive)[~np.isin(np.arange(1, values.size), offsets)] >= 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.randoms())
def test_compensated_sums_do_not_depend_on_order(values, random):
    exact = float(sum(map(Fraction, values)))
    for _ in range(3):
        random.shuffle(values)
        parts = [CompensatedSum.zeros(), CompensatedSum.zeros(3)]
        for value in values:
            parts[random.randrange(2)].add(np.array([value]))
        parts[0].absorb(parts[1])
        assert parts[0].value[0] == pytest.approx(exact, rel=1e-15, abs=1e-24)
        assert parts[0].value.size == 3


def test_compensated_sums_keep_what_cancels():
    one, two = CompensatedSum.zeros(1), CompensatedSum.zeros(1)
    for value in (1e16, 1.0, -1e16, 1e16):
        one.add(np.array([value]))
    for value in (-1e16, 2.0**-20):
        two.add(np.array([value]))
    two.absorb(one)
    assert two.value.tolist() == [1.0 + 2.0**-20]
    two.add(np.ones(2))
    assert two.value.tolist() == [2.0 + 2.0**-20, 1.0]


def test_histogram_counts_by_its_edges():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.lognormal(-8, 5, 5000), [0.0, -0.0, 1e-300, 2.0**-60, 1.0, 1e30]])
    histogram = Histogram.of(values)
    edges = histogram.edges.copy()
    edges[-1] = np.inf
    expected = [np.count_nonzero((values >= a) & (values < b)) for a, b in pairwise(edges.tolist())]
    assert histogram.counts.tolist() == expected
    assert histogram.total == values.size


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.999, 1.0])
def test_histogram_quantile(q):
    values = np.random.default_rng(0).lognormal(-8, 3, 20_000)
    found = Histogram.of(values).quantile(q)
    assert found == pytest.approx(np.quantile(values, q), rel=1 / 16)


def test_histogram_quantile_refuses():
    with pytest.raises(InputError, match="expected a number in"):
        Histogram.of(np.ones(3)).quantile(1.5)
    with pytest.raises(InputError, match="holds no value"):
        Histogram().quantile(0.5)
