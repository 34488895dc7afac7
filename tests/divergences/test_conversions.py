"""Conversions and estimators against mpmath and against the laws they state."""

from __future__ import annotations

import math

import array_api_strict as strict
import mpmath as mp
import numpy as np
import pytest

from trbounds.divergences import (
    chi2_from_kl,
    expm1_minus,
    k1,
    k2,
    k3,
    tv_from_chi2,
    tv_from_kl_pinsker,
    tv_from_kl_sharp,
)
from trbounds.errors import InputError

CONVERSIONS = [
    tv_from_kl_pinsker,
    tv_from_kl_sharp,
    tv_from_chi2,
    expm1_minus,
    k1,
    k2,
    k3,
]


def sharp_reference(kl: float) -> mp.mpf:
    """TV of the parametric optimum, solved at high precision."""
    with mp.workdps(700):
        target = mp.mpf(kl)

        def excess(u: mp.mpf) -> mp.mpf:
            # log(u/sinh u) written without overflow.
            rest = mp.log(2 * u) - u - mp.log1p(-mp.exp(-2 * u))
            return (rest + u * mp.coth(u) - (u / mp.sinh(u)) ** 2) / target - 1

        if kl > 8:
            return 1 - mp.exp(-target)  # what is left out is below exp(-2980)
        guess = mp.sqrt((mp.expm1(2 * target) + 6 * target) / 4)
        # Solved relative to the guess: the solver's tolerances are absolute.
        u = guess * mp.findroot(lambda t: excess(guess * t), (0.98, 1.02), tol=1e-60)
        return u * (1 - (mp.coth(u) - 1 / u) ** 2) / 2


@pytest.mark.parametrize(
    "kl",
    [
        *(1e-300, 3e-200, 1e-100, 1e-30, 1e-16, 1e-9, 1e-4, 0.01, 0.1, 0.3, 0.42, 0.43, 0.5, 1.0),
        *(1.5, 2.0, 2.9957, 3.5, 3.999999, 4.0, 4.000001, 5.0, 7.9, 20.0, 37.0, 100.0, 700.0),
    ],
)
def test_sharp_conversion_matches_high_precision(kl: float) -> None:
    assert abs(mp.mpf(tv_from_kl_sharp(kl)) / sharp_reference(kl) - 1) < 1e-13


def test_sharp_conversion_reproduces_stated_values() -> None:
    assert round(tv_from_kl_sharp(1.0), 5) == 0.66444
    assert round(tv_from_kl_sharp(2.9957), 4) == 0.9500
    assert tv_from_kl_sharp(0.0) == 0.0
    assert tv_from_kl_sharp(math.inf) == 1.0


def test_sharp_conversion_is_monotone_concave_and_below_pinsker() -> None:
    kl = np.concatenate([np.geomspace(1e-300, 1e-3, 400), np.linspace(1e-3, 10.0, 5000)])
    tv = tv_from_kl_sharp(kl)
    assert np.all(np.diff(tv) >= 0.0)
    assert np.all(tv <= tv_from_kl_pinsker(kl))
    assert np.all(tv <= 1.0)
    grid = np.linspace(0.01, 10.0, 1000)
    assert np.all(np.diff(tv_from_kl_sharp(grid), 2) < 1e-14)


def test_sharp_conversion_bounds_every_pair_and_two_point_pairs_attain_it() -> None:
    # Over two-point pairs with a fixed TV the smallest KL is the optimum itself.
    for tv in (0.05, 0.3, 0.7, 0.95):
        p = np.linspace(0.0, 1.0 - tv, 200_001)[1:-1]
        q = p + tv
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        bound = tv_from_kl_sharp(kl)
        assert np.all(bound >= tv * (1 - 1e-12))
        assert bound.min() == pytest.approx(tv, rel=1e-7)


@pytest.mark.parametrize("r", [0.0, 5e-324, 1e-200, 1e-12, 1e-6, 0.1, 0.5, 1.0, 5.0, 50.0, 700.0])
def test_chi2_from_kl_matches_high_precision(r: float) -> None:
    with mp.workdps(700):
        rise = mp.expm1(r)
        factor = mp.mpf(2) if r == 0 else rise**2 / (rise - mp.mpf(r))
        assert abs(chi2_from_kl(0.25, r) / (factor / 4) - 1) < 1e-14


def test_chi2_from_kl_holds_and_is_attained_in_the_limit() -> None:
    r = 1.3
    share = np.array([1e-9, 1e-3, 0.1])  # mu-mass of the token at the cap
    low = np.log1p(-share * math.expm1(r) / (1 - share))
    kl = -(share * r + (1 - share) * low)
    chi2 = share * math.expm1(r) ** 2 + (1 - share) * np.expm1(low) ** 2
    bound = chi2_from_kl(kl, r)
    assert np.all(chi2 <= bound * (1 + 1e-6))
    assert chi2[0] == pytest.approx(bound[0], rel=1e-6)


def test_chi2_from_kl_without_a_cap_is_infinite_unless_the_policies_agree() -> None:
    assert chi2_from_kl(1e-300, math.inf) == math.inf
    assert chi2_from_kl(0.0, math.inf) == 0.0
    assert chi2_from_kl(math.inf, 1.0) == math.inf
    assert chi2_from_kl(np.array([0.5]), np.array([[0.0], [0.0]])).shape == (2, 1)


@pytest.mark.parametrize(
    "x",
    [0.0, 1e-150, 1e-20, 1e-9, -1e-9, 1e-3, -1e-3, 0.4999, 0.5001, -0.5, -0.51, 3.0, -40.0, 700.0],
)
def test_expm1_minus_matches_high_precision(x: float) -> None:
    with mp.workdps(700):
        exact = mp.expm1(x) - mp.mpf(x)
    assert abs(mp.mpf(expm1_minus(x)) - exact) <= 2e-15 * exact


def test_expm1_minus_limits() -> None:
    assert expm1_minus(-math.inf) == math.inf
    assert expm1_minus(math.inf) == math.inf
    assert expm1_minus(800.0) == math.inf


def test_estimators_have_the_means_they_state() -> None:
    rng = np.random.default_rng(5)
    mu, pi = rng.dirichlet(np.ones(20), size=2)
    log_ratio = np.log(pi / mu)
    kl = float(np.sum(mu * np.log(mu / pi)))
    assert float(mu @ k1(log_ratio)) == pytest.approx(kl, rel=1e-12)
    assert float(mu @ k3(log_ratio)) == pytest.approx(kl, rel=1e-12)
    assert np.all(k3(log_ratio) >= 0.0)
    close = np.log1p(1e-4 * (log_ratio - mu @ log_ratio))
    assert float(mu @ k2(close)) == pytest.approx(float(mu @ k3(close)), rel=1e-3)


def test_estimators_at_stated_values() -> None:
    assert round(k3(math.log(0.01)), 3) == 3.615
    assert round(k2(math.log(100.0)), 2) == 10.60


@pytest.mark.parametrize("function", CONVERSIONS)
def test_kind_dtype_and_namespace_are_kept(function) -> None:
    values = [0.0, 0.3, 2.5]
    reference = function(np.asarray(values))
    assert isinstance(function(0.3), float)
    assert isinstance(function(np.float64(0.3)), float)
    assert reference.dtype == np.float64
    assert function(np.asarray(values, dtype=np.float32)).dtype == np.float32
    assert function(np.asarray([0, 1])).dtype == np.float64
    assert chi2_from_kl(np.asarray([1]), np.float32([1])).dtype == np.float64
    result = function(strict.asarray(values, dtype=strict.float64))
    assert result.__array_namespace__() is strict
    np.testing.assert_array_equal(np.from_dlpack(result), reference)
    read_only = np.asarray(values)
    read_only.setflags(write=False)
    np.testing.assert_array_equal(function(read_only), reference)
    assert function(np.ones((2, 0))).shape == (2, 0)


@pytest.mark.parametrize("function", CONVERSIONS)
def test_nan_is_refused(function) -> None:
    with pytest.raises(InputError, match="NaN"):
        function(np.array([0.1, math.nan]))


@pytest.mark.parametrize("function", CONVERSIONS[:3])
def test_negative_divergence_is_refused(function) -> None:
    with pytest.raises(InputError, match=r"field 'kl'|field 'chi2'"):
        function(-1e-3)
