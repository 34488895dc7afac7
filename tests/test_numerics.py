"""Powers and products near 1 against mpmath, from the smallest floats to the largest."""

from __future__ import annotations

from types import ModuleType

import mpmath
import numpy as np
import pytest

from trbounds.numerics import (
    power_excess,
    prefix_sums,
    root_power_excess,
    root_product_excess,
    suffix_sums,
)

LENGTHS = (1, 2, 3, 5, 17, 18, 4096, 10**9, 2**53)
POSITIVE = (
    5e-324,
    1e-300,
    1e-160,
    1e-18,
    1e-12,
    1e-9,
    2e-4,
    0.06,
    1 / 3,
    0.5,
    1.0,
    3.0,
    1e5,
    1e300,
)
NEGATIVE = (-1.0, -1 + 2**-53, -0.9, -0.5, -1 / 3, -0.06, -1e-3, -1e-9, -1e-18, -1e-160, -1e-300)


def exact_excess(x: float, n: int) -> mpmath.mpf:
    with mpmath.workdps(900):
        if x == -1:
            return mpmath.mpf(n - 1)
        return mpmath.exp(n * mpmath.log1p(mpmath.mpf(x))) - 1 - n * mpmath.mpf(x)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("x", [*NEGATIVE, 0.0, *POSITIVE])
def test_power_excess(x: float, n: int) -> None:
    value = float(power_excess(x, n))
    expected = exact_excess(x, n) if n > 1 and x else mpmath.mpf(0)
    if expected > 1e307:
        assert value == float("inf") or abs(value / expected - 1) < 1e-12
    else:
        # What underflows does so gradually.
        assert value == pytest.approx(float(expected), rel=1e-12, abs=1e-307)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("x", [0.0, *POSITIVE])
def test_root_power_excess(x: float, n: int) -> None:
    value = float(root_power_excess(x, n))
    expected = mpmath.sqrt(exact_excess(x, n)) if n > 1 and x else mpmath.mpf(0)
    if expected > mpmath.exp(649):
        assert value == float("inf")
    else:
        assert value == pytest.approx(float(expected), rel=1e-12, abs=1e-307)


def test_values_close_to_the_largest_float_are_finite() -> None:
    for power, n in ((700.0, 5), (705.0, 4096)):
        x = float(np.expm1(power / n))
        assert float(power_excess(x, n)) == pytest.approx(float(exact_excess(x, n)), rel=1e-12)
    x = np.expm1(np.array([300.0, 200.0, 140.0, 1e-3]))
    with mpmath.workdps(900):
        product = mpmath.fprod(1 + mpmath.mpf(v) for v in x)
        expected = mpmath.sqrt(product - 1 - mpmath.fsum(map(mpmath.mpf, x)))
    assert float(root_product_excess(x)) == pytest.approx(float(expected), rel=1e-10)


def test_powers_of_two_and_less_are_exact() -> None:
    x = np.array([0.25, 2**-30, 0.125])
    np.testing.assert_array_equal(power_excess(x, 2.0), x**2)
    np.testing.assert_array_equal(root_power_excess(x, 2.0), x)
    np.testing.assert_array_equal(power_excess(x, 1.0), 0)


def test_both_branches_agree_where_they_meet() -> None:
    for n in (2.0, 3.0, 1e3, 1e9):
        for sign in (1, -1):
            edge = sign / n
            sides = np.array([edge * (1 - 1e-15), edge, edge * (1 + 1e-15)])
            value = power_excess(sides, n)
            assert np.ptp(value) <= 1e-13 * value[1]


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-18, 1e-3, 1.0, 50.0, 1e10, 1e300])
@pytest.mark.parametrize("T", [1, 2, 5, 100])
def test_root_product_excess(scale: float, T: int) -> None:
    # Entries over many orders of magnitude, so that what is small beside 1 must survive.
    x = scale * 10.0 ** -np.random.default_rng(T).uniform(0, 8, T)
    with mpmath.workdps(900):
        entries = [mpmath.mpf(v) for v in x]
        square = mpmath.fprod(1 + v for v in entries) - 1 - mpmath.fsum(entries)
        expected = mpmath.sqrt(square) if T > 1 else mpmath.mpf(0)
        overflows = mpmath.fprod(1 + v for v in entries) > mpmath.exp(650)
    value = float(root_product_excess(x))
    if overflows:
        assert value == float("inf")
    else:
        assert value == pytest.approx(float(expected), rel=1e-12, abs=1e-307)


@pytest.mark.parametrize("total", [1e-12, 1e-6, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("T", [2, 1000, 1_000_000])
def test_product_of_equal_factors_is_a_power(T: int, total: float) -> None:
    """Adding the same number again and again rounds the same way again and again."""
    value = float(root_product_excess(np.full(T, total / T)))
    assert value == pytest.approx(float(root_power_excess(total / T, T)), rel=1e-12)


def test_trailing_zeros_change_nothing_even_at_infinity() -> None:
    x = np.array([[0.1, 2.0, 0.3], [1e300, 1e300, 1e300]])
    padded = np.concatenate([x, np.zeros((2, 4))], axis=1)
    np.testing.assert_array_equal(root_product_excess(padded), root_product_excess(x))


def test_running_sums(xp: ModuleType) -> None:
    x = xp.asarray([[1.0, 2.0, 4.0], [1e300, 1.0, 1e-300]], dtype=xp.float64)
    before, after = prefix_sums(x), suffix_sums(x)
    assert [float(before[0, i]) for i in range(3)] == [0.0, 1.0, 3.0]
    # The last entry is not a difference of two huge totals.
    assert [float(after[1, i]) for i in range(3)] == [1.0, 1e-300, 0.0]


@pytest.mark.parametrize("T", [1, 2, 3, 8, 9, 10, 1000])
def test_running_sums_are_those_of_exact_arithmetic(T: int) -> None:
    x = np.random.default_rng(T).integers(0, 2**20, (2, 3, T)).astype(np.float64)
    before = np.cumsum(x, axis=-1) - x
    np.testing.assert_array_equal(prefix_sums(x), before)
    np.testing.assert_array_equal(suffix_sums(x), x.sum(axis=-1, keepdims=True) - before - x)
