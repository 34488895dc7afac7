"""Special functions against mpmath."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from trbounds.profile import DivergenceProfile
from trbounds.special import (
    capped_root_sum,
    entropy_dual_gain,
    phi,
    phi_inverse,
    root_exp_excess,
    root_sum,
    sum_tv_from_kl,
)

mpmath.mp.dps = 50


def exact_root_sum(n: int) -> mpmath.mpf:
    """The first terms one by one, the rest by a 50-digit Euler-Maclaurin sum."""
    first = min(n, 400)
    total = mpmath.fsum(mpmath.sqrt(k) for k in range(1, first + 1))
    return total + (mpmath.sumem(mpmath.sqrt, [first + 1, n], tol=1e-40) if n > first else 0)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 100, 4096, 10**6, 10**9, 10**12, 10**15])
def test_root_sum(n: int) -> None:
    expected = exact_root_sum(n) if n else mpmath.mpf(0)
    assert float(root_sum(np.float64(n))) == pytest.approx(float(expected), rel=2e-15)


def test_root_sum_is_a_sum() -> None:
    n = np.arange(200.0)
    np.testing.assert_allclose(np.diff(root_sum(n)), np.sqrt(n[1:]), rtol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 3, 17, 4096, 10**6, 10**9])
@pytest.mark.parametrize("step", [1e-300, 1e-18, 1e-9, 5e-5, 1e-3, 0.25, 1 / 3, 1.0, 2.0, 50.0])
def test_capped_root_sum(T: int, step: float) -> None:
    below = min(T - 1, int(mpmath.floor(1 / mpmath.mpf(step))))
    expected = mpmath.sqrt(step) * exact_root_sum(below) + (T - 1 - below) if T > 1 else 0
    got = float(capped_root_sum(np.float64(T), np.float64(step)))
    assert got == pytest.approx(float(expected), rel=1e-14, abs=0)


@pytest.mark.parametrize("x", [0.0, 1e-300, 1e-20, 1e-8, 1e-3, 0.3, 0.999, 1.0, 1.5, 1e3, 1e300])
def test_phi(x: float) -> None:
    with mpmath.workdps(700):
        expected = mpmath.mpf(x) - mpmath.log1p(x)
    assert float(phi(np.float64(x))) == pytest.approx(float(expected), rel=1e-14, abs=0)


@pytest.mark.parametrize("y", [1e-300, 1e-100, 1e-12, 1e-4, 0.1, 1.0, 30.0, 1e6, 1e300])
def test_phi_inverse_by_lambert(y: float) -> None:
    with mpmath.workdps(340):
        if y < 1e-100:  # phi(x) = x^2/2 - x^3/3 + ..., so x = sqrt(2y) + 2y/3 + ...
            expected = mpmath.sqrt(2 * mpmath.mpf(y)) + 2 * mpmath.mpf(y) / 3
        elif y > 1e6:
            expected = mpmath.findroot(lambda x: x - mpmath.log1p(x) - mpmath.mpf(y), y)
        else:
            expected = -1 - mpmath.lambertw(-mpmath.exp(-1 - mpmath.mpf(y)), -1).real
    assert float(phi_inverse(np.float64(y))) == pytest.approx(float(expected), rel=1e-14)


def test_phi_inverse_everywhere() -> None:
    """Newton's method starts farthest from the root where y is of order 1."""
    y = 10.0 ** np.linspace(-6, 6, 300)
    exact = [-1 - mpmath.lambertw(-mpmath.exp(-1 - mpmath.mpf(v)), -1).real for v in y]
    np.testing.assert_allclose(phi_inverse(y), [float(x) for x in exact], rtol=1e-15)


@pytest.mark.parametrize(
    "x", [0.0, 1e-300, 1e-20, 1e-8, 1e-3, 0.3, 0.999, 1.0, 1.001, 2.0, 30.0, 709.0, 1399.0]
)
def test_root_exp_excess(x: float) -> None:
    with mpmath.workdps(700):
        expected = mpmath.sqrt(mpmath.expm1(mpmath.mpf(x)) - mpmath.mpf(x))
    assert float(root_exp_excess(np.float64(x))) == pytest.approx(float(expected), rel=1e-14, abs=0)


def test_root_exp_excess_is_infinite_out_of_range() -> None:
    np.testing.assert_array_equal(root_exp_excess(np.array([1400.0, 1e308])), np.inf)


@pytest.mark.parametrize("v", [1e-6, 0.01, 0.1, 0.25])
@pytest.mark.parametrize("D", [1e-300, 1e-12, 1e-4, 0.01, 1.0, 1e3, 1e6])
def test_entropy_dual_gain(D: float, v: float) -> None:
    with mpmath.workdps(340):
        y = mpmath.mpf(D) / mpmath.mpf(v)
        if y < 1e-100:
            root = mpmath.sqrt(2 * y) + 2 * y / 3
        else:
            root = mpmath.findroot(lambda x: x - mpmath.log1p(x) - y, y + mpmath.sqrt(y**2 + 2 * y))
        expected = v * root
    got = float(entropy_dual_gain(np.float64(D), np.float64(v)))
    assert got == pytest.approx(float(expected), rel=1e-13)


def test_entropy_dual_gain_is_an_infimum() -> None:
    """No multiplier gives less, and one gives as much."""
    for D, v in ((1e-4, 0.25), (0.4096, 0.2), (5.0, 0.01)):
        G = float(entropy_dual_gain(np.float64(D), np.float64(v)))
        lambdas = 1 + np.geomspace(1e-6, 1e6, 20_001)
        dual = lambdas * D + v * (-1 - lambdas * np.log1p(-1 / lambdas))
        assert np.min(dual) >= G * (1 - 1e-9)
        assert np.min(dual) == pytest.approx(G, rel=1e-5)


def test_entropy_dual_gain_at_the_edges() -> None:
    zero = np.float64(0.0)
    assert float(entropy_dual_gain(zero, np.float64(0.25))) == 0
    assert float(entropy_dual_gain(np.float64(0.3), zero)) == 0.3


@pytest.mark.parametrize("kl", [1e-12, 1e-6, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 66, 100, 3000])
def test_sharp_sum_against_its_terms(T: int, kl: float) -> None:
    profile = DivergenceProfile(T=T, kl_max=kl, conversion="sharp")
    terms = profile.tv_from_kl(np.arange(T) * kl)
    got = float(sum_tv_from_kl(profile, profile.T, profile.kl_max))
    assert got == pytest.approx(float(np.sum(terms)), rel=1e-12, abs=0)


def test_sharp_sum_is_below_pinskers() -> None:
    T = np.array([10.0, 1e3, 1e6, 1e9])[:, None]
    kl = np.geomspace(1e-12, 1.0, 9)[None, :]
    sharp, pinsker = (
        sum_tv_from_kl(DivergenceProfile(T=T, kl_max=kl, conversion=c), T, kl)
        for c in ("sharp", "pinsker")
    )
    assert np.all(sharp <= pinsker * (1 + 1e-12))
    assert np.all(sharp > 0.8 * pinsker)
