"""Exact divergences against mpmath at 60 digits, and the laws they obey."""

from __future__ import annotations

import math

import array_api_strict as strict
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trbounds.divergences import (
    chi2_divergence,
    divergences,
    kl_divergence,
    total_variation,
    tv_from_chi2,
    tv_from_kl_sharp,
)
from trbounds.errors import InputError

FIELDS = ("kl", "kl_reverse", "tv", "chi2")


def reference(x: np.ndarray, y: np.ndarray) -> dict[str, mp.mpf]:
    """The definitions, at 60 digits, for finite logits."""
    with mp.workdps(60):
        a = [mp.exp(mp.mpf(float(v))) for v in x]
        b = [mp.exp(mp.mpf(float(v))) for v in y]
        za, zb = mp.fsum(a), mp.fsum(b)
        mu, pi = [v / za for v in a], [v / zb for v in b]
        ratio = [mp.log(q / p) for p, q in zip(mu, pi, strict=True)]
        return {
            "kl": -mp.fsum(p * r for p, r in zip(mu, ratio, strict=True)),
            "kl_reverse": mp.fsum(q * r for q, r in zip(pi, ratio, strict=True)),
            "tv": mp.fsum(abs(q - p) for p, q in zip(mu, pi, strict=True)) / 2,
            "chi2": mp.fsum(q * q / p for p, q in zip(mu, pi, strict=True)) - 1,
            "entropy": -mp.fsum(p * mp.log(p) for p in mu),
            "max_abs_log_ratio": max(abs(r) for r in ratio),
        }


def make_row(kind: str, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=300)
    if kind == "peaked":
        x[17] += 30.0
    elif kind == "flat":
        x *= 1e-3
    elif kind == "shifted":
        x += 100.0
    y = x + scale * rng.normal(size=x.size) + (37.0 if kind == "shifted" else 0.0)
    if kind == "two tokens":  # opposite moves: the normalisers differ at second order only
        y = x.copy()
        x[3] = y[3] = x[4] = y[4] = 0.5
        y[3] += scale
        y[4] -= scale
    return x, y


@pytest.mark.parametrize("kind", ["flat", "normal", "peaked", "shifted", "two tokens"])
@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 0.3, 3.0, 30.0])
def test_matches_high_precision(kind: str, scale: float) -> None:
    x, y = make_row(kind, scale, seed=11)
    ours, exact = divergences(x, y), reference(x, y)
    # Differences of logits near 100 are themselves rounded at 1e-14.
    tolerance = 1e-10 if kind != "shifted" else 1e-10 + 1e-13 / scale
    for field in FIELDS:
        assert abs(mp.mpf(float(getattr(ours, field))) / exact[field] - 1) < tolerance, field
    assert float(ours.entropy) == pytest.approx(float(exact["entropy"]), rel=1e-12, abs=1e-14)
    assert float(ours.max_abs_log_ratio) == pytest.approx(
        float(exact["max_abs_log_ratio"]), rel=tolerance
    )
    assert float(ours.unsupported_mass) == 0.0


@pytest.mark.parametrize("size", [1e9, 1e30, 1e300])
def test_logits_of_any_size_are_distributions(size: float) -> None:
    """As filler values make them: what counts is each row less its largest logit."""
    x = np.array([[size, size, -size], [-size, -size, -size], [size, -size, 0.0]])
    y = np.array([[-size, -size, size], [-size, -size, -size], [size, -size, size]])
    found = divergences(x, y)
    np.testing.assert_allclose(found.entropy, [math.log(2), math.log(3), 0.0], rtol=1e-15)
    np.testing.assert_allclose(found.tv, [1.0, 0.0, 0.5], rtol=1e-15)
    np.testing.assert_allclose(found.kl, [2 * size - math.log(2), 0.0, math.log(2)], rtol=1e-15)


def test_huge_ratios_neither_overflow_nor_lose_accuracy() -> None:
    x = np.array([0.0, -800.0, -300.0, -1.0])
    y = np.array([-900.0, 0.0, -2.0, -3.0])
    ours, exact = divergences(x, y), reference(x, y)
    for field in ("kl", "kl_reverse", "tv"):
        assert float(getattr(ours, field)) == pytest.approx(float(exact[field]), rel=1e-12)
    assert float(ours.chi2) == math.inf  # exp(800): beyond float64
    x, y = np.array([0.0, -300.0]), np.array([0.0, 1.0])
    assert float(divergences(x, y).chi2) == pytest.approx(float(reference(x, y)["chi2"]), rel=1e-12)


@pytest.mark.parametrize("masked", [-1e300, float(np.finfo(np.float64).min)])
def test_the_lowest_float_as_a_mask_is_probability_zero(masked: float) -> None:
    x = np.array([1.0, 0.5, -2.0, 0.3])
    without = np.where(np.arange(4) == 2, masked, x)
    for pair, limit in (((without, x), math.inf), ((x, without), None)):
        found = divergences(*pair)
        infinite = divergences(*(np.where(side == masked, -np.inf, side) for side in pair))
        assert float(found.tv) == pytest.approx(float(infinite.tv), rel=1e-14)
        assert float(found.chi2) == pytest.approx(limit or float(infinite.chi2), rel=1e-14)


def test_chi2_is_finite_up_to_the_largest_float() -> None:
    """mu = exp(-r) against 1/2: chi2 = (e^r + 1 + e^-r + ...)/4, which overflows beyond r = 711."""
    r = np.array([650.0, 709.0, 711.0, 712.0])
    rollout = np.stack([np.zeros(4), -r], axis=-1)
    found = chi2_divergence(rollout, np.zeros((4, 2)))
    np.testing.assert_allclose(found[:3], np.exp(r[:3] - math.log(4)), rtol=1e-12)
    assert found[3] == np.inf


def test_zero_probabilities_on_either_side() -> None:
    inf = math.inf
    mu, pi = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.25, 0.5, 0.25, 0.0])
    with np.errstate(divide="ignore"):
        result = divergences(np.log(mu), np.log(pi))
        mirrored = divergences(np.log(pi), np.log(mu))
    assert float(result.unsupported_mass) == pytest.approx(0.25, rel=1e-15)
    assert float(result.kl) == pytest.approx(0.5 * math.log(2.0), rel=1e-15)
    assert float(result.tv) == pytest.approx(0.25, rel=1e-15)
    assert float(result.chi2) == inf
    assert float(result.kl_reverse) == inf
    assert float(result.max_abs_log_ratio) == inf
    assert float(mirrored.kl) == inf
    assert float(mirrored.unsupported_mass) == 0.0
    assert float(mirrored.kl_reverse) == pytest.approx(0.5 * math.log(2.0), rel=1e-15)
    assert float(mirrored.tv) == pytest.approx(0.25, rel=1e-15)
    assert float(mirrored.chi2) == pytest.approx(0.5**2 / 0.25 + 0.5**2 / 0.5 - 1, rel=1e-15)


def test_disjoint_supports_are_at_distance_one() -> None:
    result = divergences(np.array([0.0, -math.inf]), np.array([-math.inf, 3.0]))
    assert float(result.tv) == 1.0
    assert float(result.kl) == math.inf
    assert float(result.unsupported_mass) == 1.0


logits = arrays(np.float64, (3, 7), elements=st.floats(-20, 20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logits, logits, st.permutations(range(7)), st.floats(-50, 50))
def test_laws(x: np.ndarray, y: np.ndarray, order: list[int], shift: float) -> None:
    result = divergences(x, y)
    swapped = divergences(y, x)
    moved = divergences(x[:, order] + shift, y[:, order])
    for field in FIELDS:
        value = getattr(result, field)
        assert np.all(value >= 0.0)
        np.testing.assert_allclose(getattr(moved, field), value, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(swapped.kl, result.kl_reverse, rtol=1e-9, atol=1e-25)
    np.testing.assert_allclose(swapped.tv, result.tv, rtol=1e-9, atol=1e-25)
    slack = 1 + 1e-12
    assert np.all(result.tv <= tv_from_kl_sharp(result.kl) * slack + 1e-16)
    assert np.all(result.tv <= tv_from_chi2(result.chi2) * slack + 1e-150)  # squares underflow
    assert np.all(result.kl_reverse <= np.log1p(result.chi2) * slack)
    assert np.all(result.entropy <= math.log(7) * slack)
    # Data processing: merging tokens cannot increase a divergence.
    merge = np.logaddexp(x[:, :3], 0.0 * x[:, :3] + x[:, 3:6]), np.logaddexp(y[:, :3], y[:, 3:6])
    merged = divergences(np.c_[merge[0], x[:, 6]], np.c_[merge[1], y[:, 6]])
    for field in FIELDS:
        assert np.all(getattr(merged, field) <= getattr(result, field) * (1 + 1e-9) + 1e-13)


def test_equal_policies_are_at_distance_zero() -> None:
    x = np.random.default_rng(0).normal(size=(4, 50))
    result = divergences(x, x)
    for field in (*FIELDS, "max_abs_log_ratio"):
        assert np.all(getattr(result, field) == 0.0)


def test_namespaces_agree_and_single_functions_match() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 5, 30))
    x[0, 0] = y[1, 2] = -math.inf
    expected = divergences(x, y)
    result = divergences(strict.asarray(x), strict.asarray(y))
    for field in (*FIELDS, "entropy", "max_abs_log_ratio", "unsupported_mass"):
        value = getattr(result, field)
        assert value.__array_namespace__() is strict
        np.testing.assert_allclose(np.from_dlpack(value), getattr(expected, field), rtol=1e-12)
    np.testing.assert_array_equal(kl_divergence(x, y), expected.kl)
    np.testing.assert_array_equal(total_variation(x, y), expected.tv)
    np.testing.assert_array_equal(chi2_divergence(x, y), expected.chi2)


def test_leading_axes_broadcast_and_float32_is_summed_in_float64() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=9).astype(np.float32), rng.normal(size=(2, 3, 9)).astype(np.float32)
    result = divergences(x, y)
    assert result.kl.shape == (2, 3)
    assert result.kl.dtype == np.float64
    assert float(result.kl[1, 2]) == pytest.approx(float(reference(x, y[1, 2])["kl"]), rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[0.0, 1.0], [math.nan, 0.0]], [0.0, 0.0], "record 1, field 'rollout_logits': found NaN"),
        ([0.0, math.inf], [0.0, 0.0], "found \\+inf"),
        (
            [0.0, 1.0],
            [[0.0, 0.0], [-math.inf, -math.inf]],
            "record 1, field 'train_logits': all logits",
        ),
        ([0.0, 1.0], [0.0, 0.0, 0.0], "found vocabulary 3, expected 2"),
        (1.0, [0.0, 0.0], "expected \\(..., vocabulary\\)"),
        (
            np.zeros((2, 3)),
            np.zeros((4, 3)),
            r"'train_logits': found shape \(4, 3\), expected leading axes .* \(2, 3\)",
        ),
    ],
)
def test_bad_logits_are_refused(x, y, message: str) -> None:
    with pytest.raises(InputError, match=message):
        divergences(x, y)
