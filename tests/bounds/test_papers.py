"""The papers' bounds against mpmath over their whole range, and what is proved of their order."""

from __future__ import annotations

from functools import cache

import mpmath as mp
import numpy as np
import pytest

from trbounds.bounds import all_bounds, get_bound
from trbounds.oracle import exact, profile_of, random_pair, two_step_tight
from trbounds.profile import DivergenceProfile

HORIZONS = [1, 2, 3, 10, 100, 4096, 10**6, 10**9]
TOKEN_KL = [1e-300, 1e-200, 1e-100, 1e-30, 1e-16, 1e-9, 1e-6, 1e-4, 0.01, 0.3, 1.0, 2.0, 7.0, 100.0]


@cache
def root_sum(n: int) -> mp.mpf:
    with mp.workdps(60):
        first = min(n, 400)
        total = mp.fsum(mp.sqrt(k) for k in range(1, first + 1))
        rest = mp.sumem(mp.sqrt, [first + 1, n], tol=mp.mpf(10) ** -45) if n > first else 0
        return total + rest


def references(T: int, kl_max: float) -> dict[str, mp.mpf]:
    delta = mp.mpf(kl_max)
    eps = min(mp.mpf(1), mp.sqrt(delta / 2))
    last = min(T - 1, int(mp.floor(2 / delta)))
    shifts = mp.sqrt(delta / 2) * root_sum(last) + (T - 1 - last)
    linear = min(T - 1, int(mp.floor(1 / eps)))
    drifts = eps * linear * (linear + 1) / 2 + (T - 1 - linear)
    sequence = min(mp.mpf(1), mp.sqrt(T * delta / 2))
    overlap = mp.mpf(1) if eps == 1 else -mp.expm1(T * mp.log1p(-eps))
    V = min(sequence, overlap, T * eps)
    return {
        "classical": 2 * T * (T - 1) * eps**2,
        "linear": 4 * T * eps,
        "pinsker_marginal": 4 * eps * shifts,
        "pinsker_marginal_tv": 4 * eps * shifts,
        "mixed": 4 * T * eps * sequence,
        "mixed_tv": 4 * T * eps * V,
        "coupling": 4 * eps * drifts,
        "unified": min(4 * eps * shifts, 4 * T * eps * sequence, 4 * T * eps * V, 4 * eps * drifts),
    }


@pytest.mark.parametrize("T", HORIZONS)
def test_worst_case_bounds_over_the_whole_range(T: int) -> None:
    with mp.workdps(60):
        for kl_max in TOKEN_KL:
            profile = DivergenceProfile(T=T, kl_max=kl_max)
            for key, value in references(T, kl_max).items():
                got = get_bound(key).evaluate(profile)
                assert got == pytest.approx(float(value), rel=1e-12, abs=0), (key, kl_max)


@pytest.mark.parametrize("T", [1, 2, 37, 300])
def test_adaptive_bounds_against_their_sums(T: int) -> None:
    rng = np.random.default_rng(T)
    with mp.workdps(40):
        for kl_max in (1e-300, 1e-12, 1e-3, 0.4, 100.0):
            tv_max = float(rng.uniform(0.2, 1)) * min(1.0, float(np.sqrt(kl_max / 2)))
            tv_mean = tv_max * rng.uniform(size=T)
            profile = DivergenceProfile(T=T, kl_max=kl_max, tv_max=tv_max, tv_mean=tv_mean)
            by_kl = [min(mp.mpf(1), mp.sqrt((T - t) * mp.mpf(kl_max) / 2)) for t in range(1, T + 1)]
            by_tv = [min(mp.mpf(1), (T - t) * mp.mpf(tv_max)) for t in range(1, T + 1)]
            both = [min(a, b) for a, b in zip(by_kl, by_tv, strict=True)]
            for key, future in (
                ("adaptive", by_kl),
                ("adaptive_tv", by_tv),
                ("adaptive_hybrid", both),
            ):
                value = 4 * mp.fsum(mp.mpf(x) * f for x, f in zip(tv_mean, future, strict=True))
                got = get_bound(key).evaluate(profile)
                assert got == pytest.approx(float(value), rel=1e-12, abs=0)


def test_relaxed_forms_lie_above_and_close_where_no_cap_binds() -> None:
    for T, kl_max in ((4096, 1e-4), (100, 1e-3), (64, 0.5), (10**6, 1e-12)):
        found = get_bound("pinsker_marginal").assess(DivergenceProfile(T=T, kl_max=kl_max))
        assert found.relaxed_value == pytest.approx(4 / 3 * T**1.5 * kl_max, rel=1e-13)
        assert found.value <= found.relaxed_value
        if kl_max <= 2 / T:
            assert found.value > found.relaxed_value * (1 - 2 / T)
    found = get_bound("mixed").assess(DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01))
    assert found.relaxed_value == pytest.approx(2 * 4096 * np.sqrt(1e-4 * 0.01), rel=1e-13)


def test_the_proved_order_of_the_papers_bounds() -> None:
    rng = np.random.default_rng(1)
    for kind in ("near", "far", "heavy", "sparse"):
        for _ in range(20):
            pair = random_pair(rng, 4, 3, prompts=2, eos=True, kind=kind)
            profile = profile_of(exact(pair)).complete()
            value = {
                key: bound.evaluate(profile)
                for key, bound in all_bounds().items()
                if not bound.missing(profile)
            }
            below = 1 + 1e-12
            assert value["adaptive_hybrid"] <= min(value["adaptive"], value["adaptive_tv"]) * below
            assert value["adaptive"] <= value["pinsker_marginal"] * below
            assert value["adaptive"] <= value["pinsker_marginal_tv"] * below
            assert value["adaptive_tv"] <= value["coupling"] * below
            assert value["coupling"] <= value["classical"] * below
            assert value["coupling"] <= value["linear"] * below
            assert value["linear_data"] <= value["linear"] * below
            for key in ("adaptive", "pinsker_marginal", "mixed", "mixed_tv", "coupling"):
                assert value["unified"] <= value[key] * below


def test_half_constants() -> None:
    """Centring the reward halves the papers' constants; enumeration respects the halves too."""
    rng = np.random.default_rng(2)
    papers = [bound for bound in all_bounds().values() if bound.source.is_paper]
    for kind in ("near", "far", "heavy", "sparse", "two_valued"):
        for _ in range(20):
            truth = exact(random_pair(rng, 3, 2, kind=kind, reward="worst"))
            profile = profile_of(truth)
            for bound in papers:
                found = bound.assess(profile)
                assert found.centred_value == found.value / 2
                assert truth.sup_error <= found.centred_value * (1 + 1e-9) + 1e-15
    tight = exact(two_step_tight(0.25))
    half = get_bound("classical").assess(profile_of(tight)).centred_value
    assert tight.sup_error == pytest.approx(half, rel=1e-12)
