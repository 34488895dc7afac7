"""Bounds of the first group of trbounds' own: numbers, extremes, order among them, exact truth."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from importlib import import_module
from itertools import product
from pkgutil import iter_modules

import mpmath
import numpy as np
import pytest
import sympy as sp

import trbounds.lemmas
from trbounds.bounds import get_bound
from trbounds.derivation import Lemma
from trbounds.lemmas.trees import RatioTree
from trbounds.oracle import (
    KINDS,
    ExactTruth,
    TabularPair,
    exact,
    profile_of,
    random_pair,
    two_step_tight,
    two_valued_ratio,
    variance_worst_reward,
)
from trbounds.profile import DivergenceProfile

KEYS = (
    "coupling_sharp",
    "prefix_profile",
    "adaptive_centred",
    "cauchy_schwarz",
    "triangle",
    "martingale",
    "chi2_second_order",
    "chi2_second_order_positions",
    "chi2_kl",
    "l2",
)


def value(key: str, **fields: object) -> float:
    return get_bound(key).evaluate(DivergenceProfile(**fields))


# -- numbers and extremes ----------------------------------------------------------------------


def test_headline_numbers() -> None:
    assert value("cauchy_schwarz", T=4096, kl_max=1e-4, kl_seq=0.01) == pytest.approx(
        2.89596, abs=5e-6
    )
    assert value("chi2_second_order", T=4096, chi2_max=2e-4) == pytest.approx(0.335149, abs=5e-7)


@pytest.mark.parametrize("T", [1, 2, 4096, 10**9])
@pytest.mark.parametrize("tv_max", [1e-300, 1e-150, 1e-18, 1e-9, 1e-4, 0.3, 0.5, 0.999, 1.0])
def test_coupling_sharp_against_mpmath(T: int, tv_max: float) -> None:
    with mpmath.workdps(700):
        eps = mpmath.mpf(tv_max)
        expected = float(2 * ((1 - eps) ** T - 1 + T * eps))
    assert value("coupling_sharp", T=T, tv_max=tv_max) == pytest.approx(
        expected, rel=1e-12, abs=1e-307
    )


@pytest.mark.parametrize("T", [1, 2, 4096, 10**9])
@pytest.mark.parametrize("chi2_max", [1e-300, 1e-150, 1e-18, 1e-9, 1e-6, 1e-3, 0.5])
def test_chi2_second_order_against_mpmath(T: int, chi2_max: float) -> None:
    with mpmath.workdps(700):
        kappa = mpmath.mpf(chi2_max)
        expected = mpmath.sqrt((1 + kappa) ** T - 1 - T * kappa) / 2
    result = value("chi2_second_order", T=T, chi2_max=chi2_max)
    if expected > mpmath.mpf(10) ** 280:
        assert result == float("inf")
    else:
        assert result == pytest.approx(float(expected), rel=1e-12)


def test_sums_over_positions_against_mpmath() -> None:
    """Entries from 1e-12 to 1e3 of a horizon of 300, all in 60 digits."""
    rng = np.random.default_rng(4)
    T = 300
    tv, kl, chi2 = (10.0 ** rng.uniform(-12, high, T) for high in (-2, -1, 3))
    profile = DivergenceProfile(T=T, tv_max=0.02, tv_mean=tv, kl_mean=kl, chi2_mean=chi2)
    with mpmath.workdps(60):
        D, k, x = ([mpmath.mpf(v) for v in array] for array in (tv, kl, chi2))
        prefix = (
            2
            * mpmath.mpf(0.02)
            * mpmath.fsum(
                min(mpmath.mpf(1), mpmath.fsum(D[:t]), mpmath.sqrt(mpmath.fsum(k[:t]) / 2))
                for t in range(T)
            )
        )
        chi2_kl = mpmath.fsum(
            mpmath.sqrt(x[t] * min(mpmath.mpf(1), mpmath.fsum(k[t + 1 :]) / 2)) for t in range(T)
        )
    assert get_bound("prefix_profile").evaluate(profile) == pytest.approx(float(prefix), rel=1e-13)
    assert get_bound("chi2_kl").evaluate(profile) == pytest.approx(float(chi2_kl), rel=1e-13)


def test_products_of_extreme_fields_stay_in_range() -> None:
    tiny, huge = 1e-300, 1e300
    assert value("cauchy_schwarz", T=3, kl_max=tiny, kl_seq=tiny) == pytest.approx(
        tiny * np.sqrt(3), rel=1e-12
    )
    assert value("cauchy_schwarz", T=3, kl_max=huge, kl_seq=huge) == pytest.approx(
        huge * np.sqrt(3), rel=1e-12
    )
    assert value("l2", T=3, residual_square=tiny, reward_var=tiny) == pytest.approx(tiny)
    assert value("martingale", T=3, tv_seq=0.0, chi2_total=tiny, reward_var=tiny) == pytest.approx(
        tiny
    )
    assert value("chi2_second_order_positions", T=2, chi2_position_max=[huge, huge]) == np.inf
    assert value("chi2_kl", T=2, chi2_mean=[huge, 0], kl_mean=[0, huge]) == pytest.approx(1e150)


def test_prefix_profile_uses_what_is_known() -> None:
    fields = {"T": 5, "tv_max": 0.3, "tv_mean": [0.3] * 5}
    by_tv = value("prefix_profile", **fields)
    assert by_tv == pytest.approx(2 * 0.3 * (0 + 0.3 + 0.6 + 0.9 + 1))
    assert value("prefix_profile", **fields, kl_mean=[2.0] * 5) == pytest.approx(by_tv)
    assert value("prefix_profile", **fields, kl_mean=[0.02] * 5) == pytest.approx(
        2 * 0.3 * sum(np.sqrt(0.01 * s) for s in range(5))
    )


def test_reward_variance_is_used_where_known_and_a_quarter_elsewhere() -> None:
    for key, fields in (
        ("chi2_second_order", {"chi2_max": 1e-3}),
        ("chi2_second_order_positions", {"chi2_position_max": [1e-3] * 9}),
        ("l2", {"residual_square": 1e-3}),
    ):
        unknown = value(key, T=9, **fields)
        assert value(key, T=9, reward_var=0.25, **fields) == unknown
        assert value(key, T=9, reward_var=0.01, **fields) == pytest.approx(unknown / 5)


# -- exact truth -------------------------------------------------------------------------------


@cache
def random_truths() -> tuple[ExactTruth, ...]:
    rng = np.random.default_rng(20_260_101)
    shapes = ((1, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 3), (4, 2), (6, 2))
    return tuple(
        exact(
            random_pair(
                rng,
                *shapes[i % len(shapes)],
                prompts=int(rng.integers(1, 3)),
                eos=bool(rng.integers(2)),
                kind=KINDS[int(rng.integers(len(KINDS)))],
                closeness=float(rng.choice([1e-4, 1e-2, 0.3, 0.9])),
                reward=("worst", "binary", "uniform")[int(rng.integers(3))],
            )
        )
        for i in range(2000)
    )


@cache
def cases(any_reward: bool) -> tuple[tuple[float, DivergenceProfile], ...]:
    """Exact errors with what is known about them: of the pair's reward, or of the worst one."""
    return tuple(
        (
            truth.sup_error if any_reward else abs(truth.error),
            profile_of(
                truth, any_reward=any_reward, conversion=("pinsker", "sharp")[i % 2]
            ).complete(),
        )
        for i, truth in enumerate(random_truths())
    )


@pytest.mark.parametrize("key", KEYS)
def test_no_exact_error_exceeds_the_bound(key: str) -> None:
    bound = get_bound(key)
    checked = 0
    # The worst reward is the harder case, unless the bound knows the reward's variance.
    for any_reward in (True, False) if "reward_var" in bound.requires else (True,):
        for left, profile in cases(any_reward):
            if not bound.missing(profile):
                assert left <= bound.evaluate(profile) * (1 + 1e-9) + 1e-15
                checked += 1
    assert checked >= 1500


def test_order_among_bounds_on_exact_profiles() -> None:
    """What the theory says contains what."""
    contained = (
        ("prefix_profile", "coupling", 2),
        ("prefix_profile", "pinsker_marginal", 2),
        ("prefix_profile", "mixed", 2),
        ("coupling_sharp", "coupling", 2),
        ("coupling_sharp", "classical", 2),
        ("adaptive_centred", "adaptive", 2),
        ("adaptive_centred", "adaptive_tv", 2),
        ("adaptive_centred", "adaptive_hybrid", 2),
        ("adaptive_centred", "cauchy_schwarz", 1),
        ("chi2_second_order_positions", "chi2_second_order", 1),
        ("l2", "chi2_second_order_positions", 1),
    )
    compared = dict.fromkeys(contained, 0)
    for _, profile in cases(False)[::19]:
        for smaller, larger, divisor in contained:
            a, b = get_bound(smaller), get_bound(larger)
            if a.missing(profile) or b.missing(profile):
                continue
            assert a.evaluate(profile) <= b.evaluate(profile) / divisor * (1 + 1e-12) + 1e-300
            compared[smaller, larger, divisor] += 1
    assert min(compared.values()) >= 50


@pytest.mark.parametrize("T", [1, 2, 17, 4096, 10**9])
def test_path_sums_lose_little_against_the_uniform_second_order(T: int) -> None:
    """``(1+k)^T <= e^(T k)``, and the two meet as k falls."""
    for chi2_max in (1e-18, 1e-9, 1e-4, 0.01):
        uniform = value("chi2_second_order", T=T, chi2_max=chi2_max)
        path_sum = value("path_sum_chi2", T=T, chi2_max=chi2_max)
        assert uniform <= path_sum * (1 + 1e-12)
        if T * chi2_max < 1e-3:
            meet = np.sqrt(1 - 1 / T)
            assert uniform == pytest.approx(path_sum * meet, rel=T * chi2_max + 1e-12)


@pytest.mark.parametrize("step", [1e-6, 1e-3, 0.1, 0.5, 1.0])
def test_attained_at_two_steps(step: float) -> None:
    coin = exact(two_step_tight(step / 2))
    assert coin.sup_error == pytest.approx(
        get_bound("coupling_sharp").evaluate(profile_of(coin)), rel=1e-12
    )
    valued = exact(two_valued_ratio(step, 2))
    for key in ("chi2_second_order", "chi2_second_order_positions", "l2"):
        bound = get_bound(key).evaluate(profile_of(valued))
        assert valued.sup_error == pytest.approx(bound, rel=1e-12)
        assert abs(valued.error) == pytest.approx(bound, rel=1e-12)


def test_l2_is_attained_by_the_right_reward_at_any_pair() -> None:
    rng = np.random.default_rng(8)
    for T, A in ((1, 3), (2, 3), (5, 2)):
        pair = random_pair(rng, T, A, kind="near", closeness=0.5)
        truth = exact(pair.with_reward(variance_worst_reward(pair)))
        bound = get_bound("l2").evaluate(profile_of(truth))
        assert abs(truth.error) == pytest.approx(bound, rel=1e-10, abs=1e-30)


# -- derivations -------------------------------------------------------------------------------
def test_lemma_keys_are_unique() -> None:
    """Proofs are remembered by key: two lemmas of one key would share one proof."""
    found: dict[str, Lemma] = {}
    for module in iter_modules(trbounds.lemmas.__path__):
        for item in vars(import_module(f"trbounds.lemmas.{module.name}")).values():
            if isinstance(item, Lemma):
                assert found.setdefault(item.key, item) is item
    assert len(found) > 20


@pytest.mark.parametrize("T", [1, 2, 3])
def test_symbolic_trees_are_what_the_oracle_enumerates(T: int) -> None:
    """The polynomials of the lemmas, at rational points, against exact enumeration."""
    rng = np.random.default_rng(T)
    tree = RatioTree(T)
    point = {}
    rows = {}
    for c in tree.contexts:
        m, share = (Fraction(int(rng.integers(1, 20)), 20) for _ in range(2))
        # pi(1) = m (1 + f (1 - m)) = share
        f = (share / m - 1) / (1 - m) if m < 1 else Fraction(0)
        m, f = (m, f) if m < 1 else (Fraction(1, 2), Fraction(2) * (2 * share - 1))
        point |= {"m_" + "".join(map(str, c)): m, "f_" + "".join(map(str, c)): f}
        rows[c] = ([1 - m, m], [(1 - m) * (1 - f * m), m * (1 + f * (1 - m))])
    rewards = {y: Fraction(int(rng.integers(0, 11)), 10) for y in tree.paths}
    point |= {"R_" + "".join(map(str, y)): r for y, r in rewards.items()}
    pair = TabularPair(
        rollout=tuple(
            np.array([[rows[c][0] for c in product((0, 1), repeat=n)]]) for n in range(T)
        ),
        train=tuple(np.array([[rows[c][1] for c in product((0, 1), repeat=n)]]) for n in range(T)),
        reward=np.array([[rewards[y] for y in tree.paths]]),
    )
    truth = exact(pair)

    def at(expression: sp.Expr) -> Fraction:
        result = expression.subs(
            {symbol: sp.Rational(point[symbol.name]) for symbol in expression.free_symbols}
        )
        return Fraction(int(result.p), int(result.q))

    assert at(tree.value((), train=True)) == truth.J_pi
    assert at(tree.value(())) == truth.J_mu
    assert at(tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y))) == truth.surrogate
    assert at(tree.mean(lambda y: tree.reward[y] * tree.residual(y))) == truth.error
    assert at(tree.mean(lambda y: tree.residual(y) ** 2)) == truth.residual_square
    assert at(tree.mean_over_tokens(lambda c, y: tree.advantage(c, y) ** 2)) == truth.reward_var
    total = at(tree.mean(lambda y: sum(tree.chi2(y[:i]) for i in range(T))))
    assert total == sum(truth.chi2_mean)
