"""Certified enclosures: rigorous, narrow, and never left by the float evaluators."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import flint
import mpmath
import numpy as np
import pytest
import sympy
from flint import arb

from trbounds.bound import Bound
from trbounds.bounds import all_bounds, get_bound
from trbounds.certified import Enclosure, enclose, enclose_values
from trbounds.certified.check import Comparison, certify_pair
from trbounds.certified.derived import BALL_RELATIONS, Situation
from trbounds.certified.expressions import Reader
from trbounds.certified.functions import Monotone
from trbounds.certified.infimum import infimum
from trbounds.certified.intervals import FUNCTIONS, Interval, apply, ends, exponential, power
from trbounds.certified.sharp import sharp_tv
from trbounds.certified.sums import long_sum
from trbounds.divergences import tv_from_kl_sharp
from trbounds.errors import InputError
from trbounds.oracle import KINDS, random_rational_pair, two_valued_ratio
from trbounds.profile import FIELDS, POSITION_FIELDS, Conversion, DivergenceProfile
from trbounds.relations import RELATIONS
from trbounds.symbolic import SYMBOLS

each_bound = pytest.mark.parametrize("bound", all_bounds().values(), ids=lambda b: b.key)
AT_MOST_ONE = ("tv_max", "tv_mean", "tv_seq", "chi2_stop_prob")
SCALARS = [name for name in FIELDS if name not in POSITION_FIELDS]


def assert_close(bound: Bound, profile: DivergenceProfile, tolerance: float = 1e-12) -> None:
    """The float value lies in the enclosure widened by the evaluator's stated accuracy."""
    value = bound.evaluate(profile)
    found = enclose(bound, profile)
    if value == math.inf:
        # Evaluators give up before floats do.
        assert found.upper > 1e200
        return
    slack = tolerance * value
    assert found.lower - slack <= value <= found.upper + slack
    assert found.upper - found.lower <= 1e-15 * found.upper + 5e-324


def random_fields(rng: np.random.Generator, T: int) -> dict[str, object]:
    """Every field at a random size, from tiny to past every cap."""

    def draw(name: str, count: int) -> np.ndarray:
        largest = 1.0 if name in AT_MOST_ONE else 0.25 if name == "reward_var" else 5.0
        return largest * 10.0 ** rng.uniform(-9, 0, count)

    fields: dict[str, object] = {"T": T}
    for name in FIELDS:
        fields[name] = draw(name, T) if name in POSITION_FIELDS else float(draw(name, 1)[0])
    return fields


def extreme_fields(T: int, size: float) -> dict[str, object]:
    """Every field of one size, not all the same, kept within its range."""
    fields: dict[str, object] = {"T": T}
    for number, name in enumerate(FIELDS):
        value = size * (1 + number / 7)
        value = min(value, 1.0) if name in AT_MOST_ONE else value
        value = min(value, 0.25) if name == "reward_var" else value
        if name not in POSITION_FIELDS:
            fields[name] = value
        elif T <= 1000:
            fields[name] = np.full(T, value)
    return fields


@each_bound
@pytest.mark.parametrize("conversion", ["pinsker", "sharp"])
def test_float_evaluation_lies_within_the_enclosure(bound: Bound, conversion: Conversion) -> None:
    rng = np.random.default_rng(31)
    for T in (1, 2, 3, 9):
        assert_close(bound, DivergenceProfile(**random_fields(rng, T), conversion=conversion))


@each_bound
@pytest.mark.parametrize("T", [1, 2, 1000, 10**9])
def test_float_evaluation_lies_within_the_enclosure_at_extremes(bound: Bound, T: int) -> None:
    for size in (0.0, 1e-300, 1e-10, 1.0, 100.0):
        profile = DivergenceProfile(**extreme_fields(T, size))
        if not bound.missing(profile.complete(*bound.requires)):
            # Root finding and minimisation at a bound's largest values cost a digit.
            assert_close(bound, profile, 1e-12)


@each_bound
def test_derived_fields_are_derived_in_ball_arithmetic(bound: Bound) -> None:
    for known in (
        {"kl_max": 1e-3, "log_ratio_max": 0.5, "kl_seq": 0.0023, "residual_square": 1e-4},
        {"chi2_max": 2e-4, "kl_max": 1e-4, "chi2_stop_budget": 0.1, "residual_square": 0.1},
        {"kl_mean": [1e-3, 2e-4, 0.7, 0.0, 0.01], "log_ratio_max": 2.0, "kl_path_max": 0.8},
    ):
        for conversion in ("pinsker", "sharp"):
            profile = DivergenceProfile(
                T=5, chi2_stop_prob=0.01, chi2_stop_tail=0.02, **known, conversion=conversion
            )
            completed = profile.complete()
            if bound.missing(completed):
                with pytest.raises(InputError, match="needs"):
                    enclose(bound, profile)
                continue
            assert_close(bound, profile)
            # What completion derived in floats is not taken for given.
            assert enclose(bound, completed) == enclose(bound, profile)


def test_every_relation_has_a_ball_form() -> None:
    assert set(BALL_RELATIONS) == {(r.target, *r.needs) for r in RELATIONS}


def test_a_ball_around_a_whole_number_of_filled_positions_holds_both_sides() -> None:
    moment = BALL_RELATIONS[("kl_position_moment", "kl_seq", "kl_max")]
    situation = Situation(8, Fraction(1), "pinsker")
    found = moment(situation, {"kl_max": arb(0.5), "kl_seq": arb(1, 2.0**-20)})
    for total in (1 - 2.0**-20, 1.0, 1 + 2.0**-20):
        assert found.contains(moment(situation, {"kl_max": arb(0.5), "kl_seq": arb(total)}))


@pytest.mark.parametrize("radius", [0.0, 1e-12, 1e-4])
def test_a_long_sum_holds_the_terms_around_its_cap(radius: float) -> None:
    """The cap begins to bind at t = 1024 for the midpoint, somewhere near it in the ball."""
    t, c = sympy.Symbol("t", integer=True, positive=True), sympy.Symbol("c", positive=True)
    summand = sympy.Min(1, c * sympy.sqrt(t))
    found = long_sum(summand, t, 1, 10**6, lambda e: arb(1) if e == 1 else arb(1 / 32, radius / 32))
    for factor in (1 - radius, 1.0, 1 + radius):
        terms = np.minimum(1, factor / 32 * np.sqrt(np.arange(1, 10**6 + 1)))
        assert abs(found - arb(math.fsum(terms))) < 1e-9 + 1e4 * radius
        assert (found - arb(math.fsum(terms), 1e-9)).contains(0)


def test_a_derived_tv_of_sequences_is_at_most_one() -> None:
    profile = DivergenceProfile(T=8, tv_total=3.0)
    assert 4.0 in enclose(get_bound("triangle"), profile)


def test_long_products_are_refused() -> None:
    eps, t = SYMBOLS["tv_max"], sympy.Symbol("t", integer=True, positive=True)
    product = sympy.Product(1 + eps / t, (t, 1, SYMBOLS["T"]))
    assert abs(Reader({"T": 3, "tv_max": arb(1)}, 60).value(product) - 4) < 1e-12
    with pytest.raises(InputError, match="a product of more than 100,000 terms"):
        Reader({"T": 10**9, "tv_max": arb(1)}, 60).value(product)


def test_errors_are_compared_without_rounding() -> None:
    enclosure = Enclosure(0.0, 1.0, "0", "1", "1", 53)
    assert Comparison("classical", Fraction(1), enclosure).holds
    assert not Comparison("classical", 1 + Fraction(1, 10**30), enclosure).holds


@each_bound
def test_scales_with_the_reward_range(bound: Bound) -> None:
    fields = random_fields(np.random.default_rng(3), 4)
    profile = DivergenceProfile(**fields, reward_range=(-0.1, 1.3))
    assert_close(bound, profile, 2e-12)


def test_precision_is_reached_and_arithmetic_left_as_it_was() -> None:
    before = flint.ctx.prec
    profile = DivergenceProfile(T=8, kl_path_max=0.013, kl_max=1e-3)
    for key in ("path_sum_kl", "entropy_dual", "pinsker_marginal"):
        found = enclose(get_bound(key), profile, precision=200)
        width = Decimal(found.upper_text) - Decimal(found.lower_text)
        assert 0 < width <= Decimal(found.upper_text) * Decimal(10) ** -39
    assert flint.ctx.prec == before


# -- against other arithmetic ------------------------------------------------------------------


def holds_exactly(found: object, exact: Fraction) -> None:
    assert Fraction(found.lower) <= exact <= Fraction(found.upper)
    assert Fraction(Decimal(found.lower_text)) <= exact <= Fraction(Decimal(found.upper_text))


def test_rational_values_are_held_exactly() -> None:
    third = 1 / 3
    exact = Fraction(third)
    profile = DivergenceProfile(T=7, tv_max=third)
    found = enclose(get_bound("linear"), profile)
    holds_exactly(found, 28 * exact)
    assert found.upper <= math.nextafter(math.nextafter(float(28 * exact), math.inf), math.inf)
    holds_exactly(enclose(get_bound("classical"), profile), 84 * exact**2)
    holds_exactly(
        enclose(get_bound("coupling_sharp"), profile), 2 * ((1 - exact) ** 7 - 1 + 7 * exact)
    )
    tiny = DivergenceProfile(T=2, tv_max=1e-200)
    holds_exactly(enclose(get_bound("classical"), tiny), 4 * Fraction(1e-200) ** 2)


def assert_holds(found: object, value: mpmath.mpf) -> None:
    low, high = mpmath.mpf(found.lower_text), mpmath.mpf(found.upper_text)
    # Decimal ends are read back with one rounding.
    assert low * (1 - mpmath.eps) <= value <= high * (1 + mpmath.eps)


def sum_of_roots(m: int) -> mpmath.mpf:
    """Sum of the first m square roots: one by one, or by Euler and Maclaurin."""
    if m < 10_000:
        return mpmath.fsum(mpmath.sqrt(k) for k in range(1, m + 1))
    n = mpmath.mpf(m)
    terms = (1 / (24 * n), -1 / (1920 * n**3), 1 / (9216 * n**5), -11 / (163840 * n**7))
    return mpmath.sqrt(n) * (2 * n / 3 + 0.5 + sum(terms)) + mpmath.zeta(-0.5)


def test_values_from_mpmath_are_held() -> None:
    with mpmath.workdps(60):
        for kl in (1e-12, 1e-9, 3e-4):
            delta, T = mpmath.mpf(kl), 10**9
            below = min(T - 1, int(mpmath.floor(2 / delta)))
            total = mpmath.sqrt(delta / 2) * sum_of_roots(below) + (T - 1 - below)
            found = enclose(get_bound("pinsker_marginal"), DivergenceProfile(T=T, kl_max=kl))
            assert_holds(found, 4 * mpmath.sqrt(delta / 2) * total)
        for D in (1e-300, 1e-4, 0.7, 1e3):
            # G = v w with w - log(1 + w) = D/v.
            ratio = 4 * mpmath.mpf(D)
            w = (
                -1 - mpmath.lambertw(-mpmath.exp(-1 - ratio), -1).real
                if D > 1e-100
                else (mpmath.sqrt(2 * ratio) + 2 * ratio / 3)
            )
            profile = DivergenceProfile(T=3, kl_seq=D, tv_seq=0.0)
            assert_holds(enclose(get_bound("entropy_dual"), profile), w / 4)
        x = mpmath.mpf(1e-3)
        value = mpmath.sqrt((mpmath.expm1(x) - x) / 4)
        assert_holds(
            enclose(get_bound("path_sum_chi2"), DivergenceProfile(T=9, chi2_path_max=1e-3)), value
        )


def test_path_sum_kl_at_its_stationary_point() -> None:
    with mpmath.workdps(60):
        K = mpmath.mpf(0.01)

        def value(c: mpmath.mpf) -> mpmath.mpf:
            phi = c - mpmath.log1p(c)
            a, b = c**2 / phi, c / phi
            rest = mpmath.sqrt(mpmath.expm1(a * K)) + mpmath.sqrt(2 * K)
            return mpmath.sqrt((mpmath.expm1(a * K) - a * K) / 4) + b * K * rest

        best = value(mpmath.findroot(lambda c: mpmath.diff(value, c), mpmath.mpf("0.6")))
        found = enclose(get_bound("path_sum_kl"), DivergenceProfile(T=9, kl_path_max=0.01))
        # The stationary point is found by differences, so good to about half of the digits.
        assert abs(best - mpmath.mpf(found.lower_text)) < 1e-28


def test_sharp_conversion_in_balls() -> None:
    with mpmath.workdps(50):
        for kl in (0.0, 1e-300, 1e-12, 0.3, 1.0, 2.9957, 40.0, 499.0, 501.0, 700.0):
            with flint.ctx.workprec(120):
                low, high = (float(end) for end in ends(sharp_tv(arb(kl))))
            assert 0 <= low <= high <= 1 + 1e-15
            assert high - low <= 1e-15 * high
            assert tv_from_kl_sharp(kl) == pytest.approx(low, rel=2e-13)
    # The curve itself, at a parameter.
    with mpmath.workdps(50):
        u = mpmath.mpf(3) / 2
        kl = mpmath.log(u / mpmath.sinh(u)) + u * mpmath.coth(u) - (u / mpmath.sinh(u)) ** 2
        tv = u * (1 - (mpmath.coth(u) - 1 / u) ** 2) / 2
        with flint.ctx.workprec(120):
            found = sharp_tv(arb(kl))
            assert abs(found - arb(tv)) < 1e-33
    # A ball of KLs gives all their TVs.
    wide = sharp_tv(arb(0.5, 0.1))
    assert wide.contains(sharp_tv(arb(0.42)))
    assert wide.contains(sharp_tv(arb(0.58)))


# -- intervals and infima ----------------------------------------------------------------------


MPMATH: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "phi": lambda x: x - mpmath.log1p(x),
    "exp_excess": lambda x: mpmath.exp(x) - 1 - x,
    "exp_minus_one": lambda x: mpmath.exp(x) - 1,
    "square_over_phi": lambda x: x**2 / (x - mpmath.log1p(x)),
    "over_phi": lambda x: x / (x - mpmath.log1p(x)),
    "square_over_phi_rise": lambda x: 2 - x**2 / ((1 + x) * (x - mpmath.log1p(x))),
    "over_phi_fall": lambda x: x**2 / ((1 + x) * (x - mpmath.log1p(x))) - 1,
    "dual_excess": lambda x: (1 + x) * mpmath.log1p(1 / x) - 1,
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_monotone_functions_keep_their_digits(name: str) -> None:
    points = [mpmath.mpf(2) ** n for n in (-300, -40, -3, 0, 4)] + [mpmath.mpf(3) / 7]
    points += [mpmath.mpf(2) ** 300] if not name.startswith("exp") else []
    values = []
    with mpmath.workdps(600):
        for point in sorted(points):
            expected = MPMATH[name](point)
            found = apply(name, arb(point))
            assert found.rel_accuracy_bits() > 40
            assert abs(mpmath.mpf(found.mid().str(40, radius=False)) / expected - 1) < 1e-14
            values.append(expected)
    rising = all(a <= b for a, b in pairwise(values))
    falling = all(a >= b for a, b in pairwise(values))
    assert rising != falling
    # Over an interval: the values between, and no more than the ends allow.
    whole = apply(name, Interval(arb(0.25), arb(4)))
    for point in (0.25, 1.0, 3.0, 4.0):
        assert whole.low <= apply(name, arb(point)) or ends(apply(name, arb(point)))[1] >= whole.low
        assert ends(apply(name, arb(point)))[0] <= whole.high
    everything = apply(name, Interval(arb(0), arb.pos_inf()))
    assert ends(everything)[0] <= whole.low
    assert ends(everything)[1] >= whole.high


def test_derivatives_of_monotone_functions() -> None:
    x = sympy.Symbol("x", positive=True)
    checked = set()
    for kind in Monotone.__subclasses__():
        if kind.fdiff is Monotone.fdiff:
            continue  # occurs in derivatives only
        for point in (sympy.Rational(1, 50), sympy.Rational(3, 7), sympy.Integer(9)):
            slope = Reader({}, 60).value(sympy.diff(kind(x), x).subs(x, point))
            with mpmath.workdps(40):
                expected = mpmath.diff(MPMATH[kind.key], mpmath.mpf(point.p) / point.q)
                assert float(slope) == pytest.approx(float(expected), rel=1e-14)
        checked.add(kind.key)
    assert checked == set(FUNCTIONS) - {"square_over_phi_rise", "over_phi_fall"}


def test_interval_arithmetic_encloses() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        low, high = sorted(rng.normal(size=2))
        other_low, other_high = sorted(rng.normal(size=2))
        x, y = Interval(arb(low), arb(high)), Interval(arb(other_low), arb(other_high))
        a, b = rng.uniform(low, high), rng.uniform(other_low, other_high)
        for found, value in ((x + y, a + b), (x * y, a * b), (exponential(x), math.exp(a))):
            assert found.low <= value + 1e-12
            assert found.high >= value - 1e-12
        for exponent in (2, 3):
            found = power(x, exponent)
            assert found.low <= a**exponent + 1e-12
            assert found.high >= a**exponent - 1e-12
        inverse = power(x, -1)
        assert inverse.low <= 1 / a + 1e-9 * abs(1 / a)
        assert inverse.high >= 1 / a - 1e-9 * abs(1 / a)


def test_infimum_encloses_known_infima() -> None:
    with flint.ctx.workprec(200):
        # x + 1/x has its minimum 2 at 1.
        found = infimum(
            lambda x: x + power(x, -1),
            lambda x: power(x, -2) * arb(-1) + arb(1),
            100,
        )
        assert found.contains(2)
        assert found.rel_accuracy_bits() > 95
        # 1 + 1/x has its infimum 1 at infinity, x + 3 has 3 at 0.
        found = infimum(lambda x: power(x, -1) + arb(1), lambda x: power(x, -2) * arb(-1), 100)
        assert found.contains(1)
        assert found.rel_accuracy_bits() > 95
        found = infimum(lambda x: x + arb(3), lambda x: Interval(arb(1), arb(1)), 100)
        assert found.contains(3)
        # Two local minima: the lower one counts. f = (x-1)^2 (x-3)^2 + x/10.

        def wave(x: object) -> object:
            return power(x + arb(-1), 2) * power(x + arb(-3), 2) + x * arb(0.1)

        def slope(x: object) -> object:
            return (x + arb(-1)) * (x + arb(-3)) * (x + arb(-2)) * arb(4) + arb(0.1)

        found = infimum(wave, slope, 60)
        with mpmath.workdps(30):
            at = mpmath.findroot(
                lambda x: 4 * (x - 1) * (x - 3) * (x - 2) + mpmath.mpf(0.1), mpmath.mpf(1)
            )
            least = (at - 1) ** 2 * (at - 3) ** 2 + at * mpmath.mpf(0.1)
        assert abs(found - arb(least)) < 1e-15
        # No lower bound at all.
        with pytest.raises(InputError, match="no lower bound"):
            infimum(lambda x: x * arb(-1), lambda x: Interval(arb(-1), arb(-1)), 60)


# -- bad input ---------------------------------------------------------------------------------


def test_bad_input_is_one_clear_error() -> None:
    linear, adaptive = get_bound("linear"), get_bound("adaptive")
    batch = DivergenceProfile(T=4, tv_max=np.array([0.1, 0.2]))
    with pytest.raises(InputError, match="not of a batch"):
        enclose(linear, batch)
    with pytest.raises(InputError, match="not of a batch"):
        enclose(linear, DivergenceProfile(T=np.array([4, 5]), tv_max=0.1))
    with pytest.raises(InputError, match="needs tv_mean"):
        enclose(adaptive, DivergenceProfile(T=4, kl_max=0.1))
    with pytest.raises(InputError, match=r"found 4, expected 8 to"):
        enclose(linear, DivergenceProfile(T=4, tv_max=0.1), precision=4)
    with pytest.raises(InputError, match="closed form"):
        enclose(
            get_bound("pinsker_marginal"),
            DivergenceProfile(T=10**6, kl_max=1e-3, conversion="sharp"),
        )
    with pytest.raises(InputError, match="at most 100,000"):
        enclose_values(adaptive, 200_000, {"kl_mean": [0.1] * 200_000, "kl_max": 0.1})


# -- exact truth -------------------------------------------------------------------------------


def test_exact_errors_never_exceed_certified_values() -> None:
    """A sample of the long run recorded in ``benchmarks/results/certification.json``."""
    rng = np.random.default_rng(20_260_301)
    bounds = all_bounds().values()
    checked = dict.fromkeys(all_bounds(), 0)
    for number in range(60):
        T, A = ((2, 2), (3, 2), (2, 3), (1, 3))[number % 4]
        pair = random_rational_pair(
            rng,
            T,
            A,
            eos=bool(number % 3 == 0),
            kind=KINDS[number % len(KINDS)],
            closeness=float(rng.choice([0.01, 0.1, 0.9])),
            reward=("worst", "binary", "uniform")[number % 3],
        )
        for comparison in certify_pair(
            pair,
            bounds,
            any_reward=bool(number % 2),
            conversion=("pinsker", "sharp")[number // 2 % 2],
            budget=Fraction(int(rng.integers(1, 100)), 1000),
        ):
            assert comparison.holds, comparison
            checked[comparison.key] += 1
    assert min(checked.values()) >= 30


def test_attained_bounds_are_attained_in_exact_arithmetic() -> None:
    pair = two_valued_ratio(Fraction(1, 8), 2)
    comparisons = {c.key: c for c in certify_pair(pair, all_bounds().values())}
    for key in ("coupling_sharp", "chi2_second_order", "l2"):
        found = comparisons[key]
        assert found.holds
        assert found.ratio == pytest.approx(1, abs=1e-14)
        assert Fraction(found.enclosure.lower) <= found.error
    with pytest.raises(InputError, match="fractions"):
        certify_pair(pair.to_float(), [])
    truncated = random_rational_pair(np.random.default_rng(0), 2, 3, kind="truncated")
    with pytest.raises(InputError, match="absolutely continuous"):
        certify_pair(truncated, [])


@pytest.mark.parametrize(
    ("T", "values", "message"),
    [
        (4096, {"kl_max": -1e-4, "kl_seq": 0.01}, "field 'kl_max': found -0.0001"),
        (4096, {"kl_max": math.nan, "kl_seq": 0.01}, "field 'kl_max': found nan"),
        (4096, {"kl_max": Fraction(-1, 2), "kl_seq": arb("0.1")}, "field 'kl_max': found -0.5"),
        (4096, {"kl_max": Fraction(-(10**400)), "kl_seq": 0.1}, "field 'kl_max': found -1.79"),
        (4096, {"kl_max": 1e-4, "kl_sq": 0.01}, "no field 'kl_sq'.*did you mean 'kl_seq'"),
        (4096, {"kl_max": 1e-4, "kl_seq": arb(-1)}, "field 'kl_seq': found -1"),
        (4, {"tv_max": 0.5, "tv_mean": [0.1, 0.2, 0.3]}, "found 3 positions"),
        (2.5, {"kl_max": 1e-4, "kl_seq": 0.01}, "field 'T'"),
    ],
)
def test_values_that_no_profile_takes_have_no_certificate(
    T: Any, values: dict[str, Any], message: str
) -> None:
    # The root of a negative number came out as 0, a certificate of what is not there.
    with pytest.raises(InputError, match=message):
        enclose_values(get_bound("mixed"), T, values)


@pytest.mark.parametrize(
    "changes", [{"conversion": "bh"}, {"precision": 10**9}, {"precision": 99.5}, {"precision": "x"}]
)
def test_bad_settings_are_refused(changes: dict[str, Any]) -> None:
    values = {"kl_max": 1e-4, "kl_seq": 0.01}
    with pytest.raises(InputError, match=next(iter(changes))):
        enclose_values(get_bound("mixed"), 4096, values, **changes)


def test_arrays_of_numpy_are_taken() -> None:
    bound, numbers = get_bound("adaptive"), [0.25, 0.5, 0.125]
    plain = enclose_values(bound, 3, {"kl_max": 0.5, "tv_mean": numbers})
    arrays = {"kl_max": np.float32(0.5), "tv_mean": np.array(numbers)}
    assert enclose_values(bound, 3, arrays) == plain
    whole: Any = np.int64(3)
    assert enclose_values(bound, whole, arrays) == plain
