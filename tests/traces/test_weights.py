"""The tail index of sequence weights: how close, and what it makes of odd samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import genpareto

from trbounds.traces.weights import pareto_shape


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.5, 1.0, 2.0])
def test_recovers_the_tail_index(shape):
    values = genpareto.rvs(shape, size=40_000, random_state=np.random.default_rng(1))
    assert pareto_shape(values + 1) == pytest.approx(shape, abs=0.15)


@pytest.mark.parametrize(
    ("size", "shape", "error"), [(200, 0.5, 0.2), (200, 1.0, 0.3), (1000, 0.5, 0.15)]
)
def test_error_is_what_the_docstring_says(size, shape, error):
    rng = np.random.default_rng(2)
    found = [pareto_shape(genpareto.rvs(shape, size=size, random_state=rng)) for _ in range(100)]
    assert math.sqrt(np.mean((np.array(found) - shape) ** 2)) == pytest.approx(error, rel=0.2)


def test_scale_and_place_do_not_matter():
    values = genpareto.rvs(0.6, size=500, random_state=np.random.default_rng(3))
    expected = pareto_shape(values)
    for factor, offset in ((1e-250, 0.0), (1e250, 0.0), (1.0, 7.0)):
        assert pareto_shape(values * factor + offset) == pytest.approx(expected, abs=1e-3)


def test_bounded_tails_end_at_the_least_shape():
    size = 134  # 3 sqrt(2000)
    assert pareto_shape(np.linspace(1, 2, 2000)) == (size * -0.5 + 5) / (size + 10)


def test_tails_without_ten_different_values_have_no_index():
    rng = np.random.default_rng(4)
    assert math.isnan(pareto_shape(rng.random(49)))
    assert math.isfinite(pareto_shape(rng.random(50)))
    assert math.isnan(pareto_shape(np.ones(1000)))
    assert math.isnan(pareto_shape(np.concatenate([np.ones(1000), np.full(9, 2.0)])))


@pytest.mark.parametrize("spread", [20, 80])
def test_weights_of_any_spread_are_heavy_and_warn_of_nothing(spread):
    exponents = spread * np.random.default_rng(5).standard_normal(500)
    assert pareto_shape(np.exp(exponents - exponents.max())) > 2
    assert pareto_shape(np.concatenate([np.zeros(500), np.full(10, 5e-324), [1.0]])) > 0.7
