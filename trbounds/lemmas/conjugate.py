"""The function phi(x) = x - log(1 + x), its conjugate, and the infimum G made of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from trbounds.derivation import Certificate, Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.printing import text
from trbounds.symbolic import SYMBOLS, Infimum

_D, _v = SYMBOLS["kl_seq"], SYMBOLS["reward_var"]

#: The variable lambda of the infimum G.
multiplier = sp.Symbol("lambda", positive=True)


def phi(x: Any) -> Any:
    """``x - log(1 + x)``: its mean at ``rho - 1`` is the KL."""
    return x - sp.log(1 + x)


def conjugate(s: Any) -> Any:
    """``sup_x [x s - phi(x)] = -s - log(1 - s)`` for s < 1."""
    return -s - sp.log(1 - s)


def dual_gain(kl: Any, square: Any) -> Infimum:
    """``G(kl, square) = inf_{lambda > 1} [lambda kl + square (-1 - lambda log(1 - 1/lambda))]``."""
    return Infimum(
        multiplier * kl + square * (-1 - multiplier * sp.log(1 - 1 / multiplier)),
        multiplier,
        1,
        sp.oo,
    )


def below_infimum(left: Any, infimum: Infimum) -> Check:
    """Check that what lies below an expression for every value of a variable has no part in it.

    Then it lies below the greatest lower bound. The claim for every value is a step before.
    """

    def check() -> Certificate:
        free = infimum.args[1] not in left.free_symbols
        return Certificate(
            free,
            "lemma",
            f"greatest lower bound: {text(left)} {'does not contain' if free else 'contains'} "
            f"{text(infimum.args[1])}",
        )

    return check


# -- scalars -----------------------------------------------------------------------------------

_u, _r = sp.symbols("u r", positive=True)


def _prove_fenchel_young() -> Iterable[Step]:
    gap = phi(_u - 1) + conjugate(1 - _r) - (_u - 1) * (1 - _r)
    z = sp.Symbol("z", positive=True)
    yield Step(
        sp.Eq(gap, _u * _r - 1 - sp.log(_u * _r), evaluate=False),
        "phi(x) + phi*(s) - x s with u = 1 + x and r = 1 - s",
        identity(gap, _u * _r - 1 - sp.log(_u * _r)),
    )
    yield Step("log(1/z) >= 1 - z", "at u = 1/z", LOG_BELOW_LINE.certificate, LOG_BELOW_LINE)
    yield Step(
        sp.Ge(z - 1 - sp.log(z), 0, evaluate=False),
        "the same, at z = u r: the gap is not negative",
        identity(sp.log(1 / z) - (1 - z), z - 1 - sp.log(z)),
    )
    yield Step(
        "equality at x = s/(1 - s)",
        "there u r = 1: phi* is the conjugate of phi, not just a bound",
        identity(gap.subs(_u, 1 / _r), sp.Integer(0)),
    )


#: ``x s <= phi(x) + phi*(s)`` for x > -1 and s < 1, written with u = 1 + x and r = 1 - s.
FENCHEL_YOUNG = Lemma(
    key="fenchel_young",
    title="Fenchel-Young for phi(x) = x - log(1 + x)",
    left=(_u - 1) * (1 - _r),
    relation="<=",
    right=phi(_u - 1) + conjugate(1 - _r),
    prove=_prove_fenchel_young,
    assumes="u = 1 + x > 0, r = 1 - s > 0",
)

_A = sp.Symbol("A", real=True)


def _prove_conjugate_square() -> Iterable[Step]:
    s = sp.Symbol("s", real=True)
    y = sp.Symbol("y", positive=True)  # s = y/(1 + y) runs through (0, 1)
    slope = s**2 / (1 - s) + 2 * s + 2 * sp.log(1 - s)
    yield Step(
        sp.Eq(sp.Derivative(conjugate(s) / s**2, s), slope / s**3, evaluate=False),
        "the derivative of phi*(s)/s^2 is n(s)/s^3",
        identity(sp.diff(conjugate(s) / s**2, s), slope / s**3),
    )
    yield Step(
        "n(0) = 0 and n'(s) = s^2/(1 - s)^2 >= 0: n >= 0, so phi*(s)/s^2 increases on (0, 1)",
        "n(s) = s^2/(1 - s) + 2 s + 2 log(1 - s)",
        all_of(
            "sign",
            "value at 0, derivative, its sign",
            [
                identity(slope.subs(s, 0), sp.Integer(0)),
                identity(sp.diff(slope, s), s**2 / (1 - s) ** 2),
                nonnegative((s**2 / (1 - s) ** 2).subs(s, y / (1 + y)), y**2),
            ],
        ),
    )
    odd = conjugate(s) - conjugate(-s)
    rise = 2 * s**2 / (1 - s**2)
    yield Step(
        "phi*(-s) <= phi*(s) for 0 <= s < 1",
        "the difference is 0 at s = 0 and its derivative 2 s^2/(1 - s^2) is not negative",
        all_of(
            "sign",
            "value at 0, derivative, its sign",
            [
                identity(odd.subs(s, 0), sp.Integer(0)),
                identity(sp.diff(odd, s), rise),
                nonnegative(rise.subs(s, y / (1 + y)), 2 * y**2 / (1 + 2 * y)),
            ],
        ),
    )
    ratio = sp.Symbol("phi*(1/lambda)", nonnegative=True)
    yield Step(
        "lambda phi*(|A|/lambda) <= lambda (A/lambda)^2 phi*(1/lambda)/(1/lambda)^2",
        "|A|/lambda <= 1/lambda < 1, and phi*(s)/s^2 does not decrease; the right side is "
        "A^2 lambda phi*(1/lambda). At A = 0 both sides are 0",
        identity(
            multiplier * (_A / multiplier) ** 2 * ratio / (1 / multiplier) ** 2,
            _A**2 * multiplier * ratio,
        ),
    )


#: ``lambda phi*(A/lambda) <= A^2 lambda phi*(1/lambda)`` for |A| <= 1 < lambda.
CONJUGATE_SQUARE = Lemma(
    key="conjugate_square",
    title="the conjugate of a bounded number is at most its square's share",
    left=multiplier * conjugate(_A / multiplier),
    relation="<=",
    right=_A**2 * multiplier * conjugate(1 / multiplier),
    prove=_prove_conjugate_square,
    assumes="|A| <= 1 < lambda",
    source="trbounds",
)

_w = sp.Symbol("w", positive=True)


def _prove_closed_form() -> Iterable[Step]:
    excess = sp.Symbol("e", positive=True)  # lambda = 1 + e
    f = dual_gain(_D, _v).args[0]
    slope = _D - _v * (1 / (multiplier - 1) + sp.log(1 - 1 / multiplier))
    curve = _v / (multiplier * (multiplier - 1) ** 2)
    yield Step(
        sp.Eq(sp.Derivative(f, multiplier), slope, evaluate=False),
        "first derivative in lambda",
        identity(sp.diff(f, multiplier), slope),
    )
    yield Step(
        sp.Ge(curve, 0, evaluate=False),
        "second derivative v/(lambda (lambda - 1)^2) >= 0 for lambda = 1 + e: f is convex, so a "
        "zero of the first derivative is the minimum",
        all_of(
            "sign",
            "second derivative and its sign",
            [
                identity(sp.diff(slope, multiplier), curve),
                nonnegative(curve.subs(multiplier, 1 + excess), _v / ((1 + excess) * excess**2)),
            ],
        ),
    )
    at = {multiplier: 1 + 1 / _w, _D: _v * phi(_w)}
    yield Step(
        "f'(1 + 1/w) = D - v phi(w) = 0 at D = v phi(w)",
        "1/(lambda - 1) = w and log(1 - 1/lambda) = -log(1 + w)",
        identity(sp.simplify(slope.subs(at)), sp.Integer(0)),
    )
    yield Step(
        "f(1 + 1/w) = v w",
        "the value there",
        identity(sp.simplify(f.subs(at)), _v * _w),
    )


#: ``G(v phi(w), v) = v w``: the infimum in closed form.
CLOSED_FORM = Lemma(
    key="dual_gain_closed_form",
    title="G(D, v) = v w where phi(w) = D/v",
    left=dual_gain(_v * phi(_w), _v),
    relation="==",
    right=_v * _w,
    prove=_prove_closed_form,
    assumes="w > 0",
    source="trbounds",
)


def _prove_conjugate_below() -> Iterable[Step]:
    u = sp.Symbol("u", positive=True)
    rise = u**2 / 2 + u - (1 + u) * sp.log(1 + u)
    factor = -1 - multiplier * sp.log(1 - 1 / multiplier)

    def rewritten() -> Certificate:
        gap = (1 / (2 * (multiplier - 1)) - factor).subs(multiplier, 1 + 1 / u)
        return identity(sp.simplify(gap), rise / u)()

    yield Step(
        "1/(2 (lambda - 1)) - (-1 - lambda log(1 - 1/lambda)) = j(u)/u, u = 1/(lambda - 1)",
        "j(u) = u^2/2 + u - (1 + u) log(1 + u)",
        rewritten,
    )
    yield Step(
        "j(0) = 0 and j'(u) = u - log(1 + u) >= 0",
        "log u >= 1 - 1/u at u -> 1/(1 + u)",
        all_of(
            "sign",
            "value at 0, derivative, the lemma",
            [
                identity(rise.subs(u, 0), sp.Integer(0)),
                identity(sp.diff(rise, u), phi(u)),
                LOG_BELOW_LINE.certificate,
            ],
        ),
        LOG_BELOW_LINE,
    )


#: ``-1 - lambda log(1 - 1/lambda) <= 1/(2 (lambda - 1))``.
CONJUGATE_BELOW = Lemma(
    key="conjugate_below",
    title="the variance's factor in G is at most 1/(2 (lambda - 1))",
    left=-1 - multiplier * sp.log(1 - 1 / multiplier),
    relation="<=",
    right=1 / (2 * (multiplier - 1)),
    prove=_prove_conjugate_below,
    assumes="lambda > 1",
    source="trbounds",
)


# -- one context -------------------------------------------------------------------------------

_mean_phi = sp.Symbol("E_mu[phi(rho_t - 1) | c_t]", nonnegative=True)
_kl_token = sp.Symbol("kl(c_t)", nonnegative=True)


def _prove_mean_phi() -> Iterable[Step]:
    def mean(tokens: int) -> Check:
        mu = [*sp.symbols(f"mu1:{tokens}", positive=True)]
        pi = [*sp.symbols(f"pi1:{tokens}", positive=True)]
        mu, pi = [*mu, 1 - sum(mu)], [*pi, 1 - sum(pi)]
        pairs = list(zip(mu, pi, strict=True))
        left = sum(m * (p / m - 1) - m * (sp.log(p) - sp.log(m)) for m, p in pairs)
        return identity(left, sum(m * (sp.log(m) - sp.log(p)) for m, p in pairs))

    yield Step(
        "sum_y mu (rho - 1 - log rho) = sum_y (pi - mu) + sum_y mu log(mu/pi) = kl",
        "both policies sum to 1; expanded for 2..5 tokens, and linear in its terms",
        all_of("enumeration", "2..5 tokens", [mean(n) for n in range(2, 6)]),
    )


#: ``E_mu[phi(rho_t - 1) | c_t] = kl(c_t)``.
MEAN_PHI = Lemma(
    key="mean_phi",
    title="the mean of phi(rho - 1) is the KL",
    left=_mean_phi,
    relation="==",
    right=_kl_token,
    prove=_prove_mean_phi,
    assumes="pi << mu",
)


# -- below and above a cut ----------------------------------------------------------------------

#: The cut c > 0, and the factors a = c^2/phi(c) and b = c/phi(c).
cut = sp.Symbol("c", positive=True)
small_factor = cut**2 / phi(cut)
large_factor = cut / phi(cut)

_x = sp.Symbol("x", real=True)


def _prove_small_part() -> Iterable[Step]:
    u = sp.Symbol("u", positive=True)
    m = 2 * _x - 2 * sp.log(1 + _x) - _x**2 / (1 + _x)
    ratio = _x**2 / phi(_x)
    yield Step(
        sp.Eq(sp.Derivative(ratio, _x), _x * m / phi(_x) ** 2, evaluate=False),
        "m(x) = 2 phi(x) - x^2/(1 + x)",
        identity(sp.diff(ratio, _x), _x * m / phi(_x) ** 2),
    )
    slope = _x**2 / (1 + _x) ** 2
    yield Step(
        "m(0) = 0 and m'(x) = x^2/(1 + x)^2 >= 0: m has the sign of x, and x m(x) >= 0",
        "x = u - 1 with u > 0; so x^2/phi(x) increases on (-1, infinity), its value at 0 being "
        "the limit 2",
        all_of(
            "sign",
            "value at 0, derivative, its sign",
            [
                identity(m.subs(_x, 0), sp.Integer(0)),
                identity(sp.diff(m, _x), slope),
                nonnegative(slope.subs(_x, u - 1), (u - 1) ** 2 / u**2),
            ],
        ),
    )


#: ``x^2 <= a phi(x)`` for -1 < x <= c.
SMALL_PART = Lemma(
    key="small_part",
    title="x^2/phi(x) increases, so below the cut it is at most its value there",
    left=_x**2,
    relation="<=",
    right=small_factor * phi(_x),
    prove=_prove_small_part,
    assumes="-1 < x <= c",
    source="trbounds",
)


def _prove_large_part() -> Iterable[Step]:
    ratio = _x / phi(_x)
    numerator = _x / (1 + _x) - sp.log(1 + _x)
    yield Step(
        sp.Eq(sp.Derivative(ratio, _x), numerator / phi(_x) ** 2, evaluate=False),
        "the derivative of x/phi(x)",
        identity(sp.diff(ratio, _x), numerator / phi(_x) ** 2),
    )
    yield Step(
        "x/(1 + x) <= log(1 + x)",
        "1 - 1/u <= log u at u = 1 + x: the derivative is not positive",
        LOG_BELOW_LINE.certificate,
        LOG_BELOW_LINE,
    )
    yield Step(
        "1 - 1/(1 + x) = x/(1 + x)",
        "the left side of the lemma",
        identity(1 - 1 / (1 + _x), _x / (1 + _x)),
    )


#: ``x <= b phi(x)`` for x >= c.
LARGE_PART = Lemma(
    key="large_part",
    title="x/phi(x) decreases, so above the cut it is at most its value there",
    left=_x,
    relation="<=",
    right=large_factor * phi(_x),
    prove=_prove_large_part,
    assumes="x >= c > 0",
    source="trbounds",
)
