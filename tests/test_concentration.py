"""Empirical-Bernstein limits: the formula, their coverage, and clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trbounds.concentration import empirical_bernstein
from trbounds.errors import InputError


def test_is_the_formula_of_maurer_and_pontil():
    values = np.array([0.1, 0.4, 0.9, 0.3, 0.3, 0.2])
    n, slack = values.size, math.log(2 / 0.1)
    pairs = sum((a - b) ** 2 for a in values for b in values) / (2 * n * (n - 1))
    radius = math.sqrt(2 * pairs * slack / n) + 7 * slack / (3 * (n - 1))
    found = empirical_bernstein(values, confidence=0.9)
    assert found.value == pytest.approx(values.mean())
    assert found.upper == min(values.mean() + radius, 1.0)
    assert found.lower == max(values.mean() - radius, 0.0)
    long = np.tile(values, 500)
    pairs = long.var(ddof=1)
    radius = math.sqrt(2 * pairs * slack / long.size) + 7 * slack / (3 * (long.size - 1))
    found = empirical_bernstein(long, confidence=0.9)
    assert found.upper == pytest.approx(long.mean() + radius, rel=1e-12)
    assert found.lower == pytest.approx(long.mean() - radius, rel=1e-12)


def test_scales_with_the_range():
    values = np.random.default_rng(0).uniform(size=400)
    unit = empirical_bernstein(values)
    scaled = empirical_bernstein(6 * values - 2, low=-2, high=4)
    assert scaled.upper == pytest.approx(6 * unit.upper - 2)
    assert scaled.lower == pytest.approx(6 * unit.lower - 2)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.97])
def test_limits_cover_the_mean_when_prompts_decide_everything(p):
    """All sequences of a prompt agree: only the prompts are a sample. Coverage is at least 95 %."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), rng.integers(1, 9, 150))
    missed = 0
    for _ in range(400):
        values = (rng.random(150) < p).astype(float)[groups]
        found = empirical_bernstein(values, groups=groups)
        missed += not found.lower <= p <= found.upper
        assert found.value == pytest.approx(values.mean())
    # Two limits of 95 % each; 400 draws would miss more than 55 by chance once in a thousand.
    assert missed <= 55


def test_clusters_widen_the_limits_of_copies():
    rng = np.random.default_rng(2)
    values = np.repeat((rng.random(300) < 0.3).astype(float), 10)
    groups = np.repeat(np.arange(300), 10)
    alone, clustered = empirical_bernstein(values), empirical_bernstein(values, groups=groups)
    single = empirical_bernstein(values[::10])
    assert clustered.upper == pytest.approx(single.upper)
    assert clustered.upper > alone.upper
    assert clustered.n_groups == 300


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 6))
def test_limits_lie_around_the_mean_and_within_the_range(values, count):
    groups = np.arange(len(values)) % count
    found = empirical_bernstein(values, groups=groups)
    assert 0 <= found.lower <= found.value + 1e-12
    assert found.value - 1e-12 <= found.upper <= 1


def test_one_group_says_nothing():
    found = empirical_bernstein([0.3, 0.4], groups=np.array([7, 7]))
    assert (found.lower, found.upper, found.n_groups) == (0.0, 1.0, 1)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([0.5, 1.5], {}, "found 1.5, expected within"),
        ([0.5, math.nan], {}, "found nan"),
        ([], {}, "at least one"),
        ([0.5], {"confidence": 1.0}, "between 0 and 1"),
        ([0.5], {"low": 1.0, "high": 1.0}, "low < high"),
        ([0.5, 0.5], {"groups": np.array([0])}, "found 1, expected 2"),
    ],
)
def test_bad_input_is_refused(values, settings, message):
    with pytest.raises(InputError, match=message):
        empirical_bernstein(values, **settings)
