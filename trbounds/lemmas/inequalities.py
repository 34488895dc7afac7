"""Scalar inequalities: sums against integrals, logarithms, Cauchy-Schwarz, Jensen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from trbounds.derivation import Lemma, Step, all_of, identity, nonnegative
from trbounds.printing import text
from trbounds.symbolic import T, t

_u = sp.Symbol("u", positive=True)


def _prove_root_sum() -> Iterable[Step]:
    a, b = sp.symbols("a b", positive=True)
    # a = sqrt(T), b = sqrt(T + 1), so b^2 - a^2 = 1; every term is written with that 1.
    step = sp.Rational(2, 3) * (b**3 - a**3) - a * (b**2 - a**2)
    yield Step(
        "T = 1: 0 <= 2/3",
        "the sum is sqrt(0) = 0",
        nonnegative(ROOT_SUM.right.subs(T, 1) - ROOT_SUM.left.subs(T, 1).doit()),
    )
    yield Step(
        sp.Ge(step, 0, evaluate=False),
        "T to T + 1, with a = sqrt(T) and b = sqrt(T + 1): the right side grows by "
        "(2/3)(b^3 - a^3), the sum by a = a (b^2 - a^2), and b^2 - a^2 = 1",
        nonnegative(step, (b - a) ** 2 * (2 * b + a) / 3),
    )


#: ``sum_{t=1}^T sqrt(t - 1) <= (2/3) T^(3/2)`` for every T.
ROOT_SUM = Lemma(
    key="root_sum",
    title="sum of square roots against the integral",
    left=sp.Sum(sp.sqrt(t - 1), (t, 1, T)),
    relation="<=",
    right=sp.Rational(2, 3) * T ** sp.Rational(3, 2),
    prove=_prove_root_sum,
)


def by_induction(term: Any, closed: Any) -> Iterable[Step]:
    """Prove ``sum_{t=1}^T term = closed`` by induction over T, for terms free of T."""
    yield Step(
        f"T = 1: the term {text(term.subs(t, 1))} is the closed form {text(closed.subs(T, 1))}",
        "start of the induction",
        identity(term.subs(t, 1), closed.subs(T, 1)),
    )
    growth = closed.subs(T, T + 1) - closed
    yield Step(
        f"[{text(closed.subs(T, T + 1))}] - [{text(closed)}] = {text(term.subs(t, T + 1))}",
        "from T to T + 1 the closed form grows by the term of position T + 1",
        identity(sp.expand(sp.powsimp(growth)), sp.expand(sp.powsimp(term.subs(t, T + 1)))),
    )


#: ``sum_{t=1}^T (t - 1) = T (T - 1) / 2``.
SUM_OF_POSITIONS = Lemma(
    key="sum_of_positions",
    title="sum of the first whole numbers",
    left=sp.Sum(t - 1, (t, 1, T)),
    relation="==",
    right=T * (T - 1) / 2,
    prove=lambda: by_induction(t - 1, T * (T - 1) / 2),
)


#: The argument of :data:`UNCAP`.
capped = sp.Symbol("z", nonnegative=True)


def _cap_step(name: str, larger: sp.Expr) -> Step:
    """Step that bounds min(1, z) by `larger`, for z on either side of 1."""
    below, above = sp.Symbol("1-z", nonnegative=True), sp.Symbol("z-1", nonnegative=True)
    z = sp.Symbol("z", nonnegative=True)
    cases = (z, z + below), (1 + above, sp.Integer(1))  # z and the 1 it is compared with
    checks = []
    for value, one in cases:
        bound = larger.subs(capped, value) if larger.has(capped) else one
        checks.append(nonnegative(bound - sp.Min(one, value)))
    return Step(
        f"{name} - min(1, z) >= 0",
        "for z <= 1 the smaller is z, for z >= 1 it is 1",
        all_of("sign", "both sides of 1", checks),
    )


#: ``min(1, z) <= z``.
UNCAP = Lemma(
    key="uncap",
    title="dropping the cap at 1",
    left=sp.Min(1, capped),
    relation="<=",
    right=capped,
    prove=lambda: [_cap_step("z", capped)],
)


#: ``min(1, z) <= 1``.
CAP = Lemma(
    key="cap",
    title="the cap at 1",
    left=sp.Min(1, capped),
    relation="<=",
    right=sp.Integer(1),
    prove=lambda: [_cap_step("1", sp.Integer(1))],
)


_first, _second = sp.symbols("a b", nonnegative=True)
_low = sp.Symbol("x", nonnegative=True)


def _prove_below_both() -> Iterable[Step]:
    more = sp.Symbol("more", nonnegative=True)
    low, slack = sp.symbols("x a-x", nonnegative=True)
    yield Step(
        "min(a, b) - x >= 0",
        "whichever of the two is the smaller: it is x and something that is not negative",
        all_of(
            "sign",
            "both orders",
            [
                nonnegative(sp.Min(low + slack, low + slack + more) - low, slack),
                nonnegative(sp.Min(low + slack + more, low + slack) - low, slack),
            ],
        ),
    )


#: ``x <= min(a, b)`` for x <= a and x <= b.
BELOW_BOTH = Lemma(
    key="below_both",
    title="what is below two numbers is below the smaller",
    left=_low,
    relation="<=",
    right=sp.Min(_first, _second),
    prove=_prove_below_both,
    assumes="x <= a and x <= b",
)


def _prove_log() -> Iterable[Step]:
    f = sp.log(_u) - 1 + 1 / _u
    yield Step("f(1) = 0", "f(u) = log u - 1 + 1/u", identity(f.subs(_u, 1), sp.Integer(0)))
    yield Step(
        sp.Eq(sp.Derivative(f, _u), (_u - 1) / _u**2, evaluate=False),
        "f'(u) = (u - 1)/u^2 has the sign of u - 1: f falls before 1 and rises after it, so f >= 0",
        identity(sp.diff(f, _u), (_u - 1) / _u**2),
    )


#: ``1 - 1/u <= log u`` for u > 0.
LOG_BELOW_LINE = Lemma(
    key="log_below_line",
    title="log u >= 1 - 1/u",
    left=1 - 1 / _u,
    relation="<=",
    right=sp.log(_u),
    prove=_prove_log,
    assumes="u > 0",
)


def _prove_cauchy_schwarz() -> Iterable[Step]:
    def lagrange(n: int) -> tuple[sp.Expr, sp.Expr]:
        a, b = sp.symbols(f"a1:{n + 1}", real=True), sp.symbols(f"b1:{n + 1}", real=True)
        gap = (
            sum(x**2 for x in a) * sum(y**2 for y in b)
            - sum(x * y for x, y in zip(a, b, strict=True)) ** 2
        )
        squares = sum((a[i] * b[j] - a[j] * b[i]) ** 2 for i in range(n) for j in range(i + 1, n))
        return gap, squares

    yield Step(
        "(sum a^2)(sum b^2) - (sum a b)^2 = sum_{i<j} (a_i b_j - a_j b_i)^2",
        "Lagrange's identity, expanded for n = 1..6",
        all_of("enumeration", "n = 1..6", [identity(*lagrange(n)) for n in range(1, 7)]),
    )
    A, B, C, x, y = sp.symbols("A B C x y", real=True)
    # Adding one entry: gap(n+1) = gap(n) + sum_i (a_i y - x b_i)^2, with A, B, C the three sums.
    yield Step(
        "gap(n+1) - gap(n) = sum_i (a_i y - x b_i)^2",
        "induction step, with A = sum a^2, B = sum b^2, C = sum a b and the new entries x, y",
        identity(
            (A + x**2) * (B + y**2) - (C + x * y) ** 2 - (A * B - C**2),
            A * y**2 - 2 * C * x * y + B * x**2,
        ),
    )


#: ``sum a_t b_t <= sqrt(sum a_t^2 sum b_t^2)``; also for expectations, weights split evenly.
_a, _b = sp.IndexedBase("a", nonnegative=True), sp.IndexedBase("b", nonnegative=True)
CAUCHY_SCHWARZ = Lemma(
    key="cauchy_schwarz",
    title="Cauchy-Schwarz",
    left=sp.Sum(_a[t] * _b[t], (t, 1, T)),
    relation="<=",
    right=sp.sqrt(sp.Sum(_a[t] ** 2, (t, 1, T)) * sp.Sum(_b[t] ** 2, (t, 1, T))),
    prove=_prove_cauchy_schwarz,
)
