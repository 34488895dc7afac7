"""Lemmas on the divergences of one step when logits are perturbed: caps on TV, KL and chi2.

Throughout, ``p = softmax(z)`` and ``q = softmax(z + e)`` with ``|e_k| <= a`` for every token k.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.softmax import MISMATCH_SYMBOLS, mean_step, simplex

_a = MISMATCH_SYMBOLS["logit_error"]

tv_step = sp.Symbol("TV(p,q)", nonnegative=True)
kl_step = sp.Symbol("KL(p,q)", nonnegative=True)
chi2_step = sp.Symbol("chi2(q,p)", nonnegative=True)

_u, _w = sp.symbols("u w", nonnegative=True)
_P_OF_U = 1 / (1 + _u)
_y = 1 + _w  # exp(a) >= 1


def _prove_tv_cap() -> Iterable[Step]:
    yield mean_step(
        "with A = {q > p}, P = p(A), Q = q(A): Q = P m_A/(P m_A + (1-P) m_B), and the means m_A, "
        "m_B of exp(e) inside and outside A have m_A/m_B <= exp(2a)"
    )
    g, d = sp.Symbol("g", positive=True), sp.Symbol("d", nonnegative=True)
    p, r = _P_OF_U, _u * _P_OF_U
    yield Step(
        "Q <= P y^2/(P y^2 + 1 - P), y = exp(a)",
        "the fraction P g/(P g + 1 - P) increases with g = m_A/m_B; P = 1/(1+u)",
        nonnegative(
            p * (g + d) / (p * (g + d) + r) - p * g / (p * g + r),
            _u * d / ((g + _u) * (g + d + _u)),
        ),
    )
    gap = (_y - 1) / (_y + 1) - (p * _y**2 / (p * _y**2 + r) - p)
    square = _w * (_y + 1 - (1 + _u)) ** 2 / ((_y + 1) * (1 + _u) * (_y**2 + _u))
    yield Step(
        "(y-1)/(y+1) - (Q - P) >= 0, and 0 at P = 1/(1+y)",
        "a square, with P = 1/(1+u) and y = 1 + w",
        nonnegative(gap, square),
    )
    half = sp.exp(_a / 2)
    tanh = sp.tanh(_a / 2).rewrite(sp.exp)
    yield Step(
        "(exp(a) - 1)/(exp(a) + 1) = tanh(a/2)",
        "both with exp(a/2)",
        identity(sp.cancel(sp.together((half**2 - 1) / (half**2 + 1) - tanh)), sp.Integer(0)),
    )


#: ``TV(p, q) <= tanh(a/2)``.
TV_CAP = Lemma(
    key="tv_cap",
    title="largest TV of one step",
    left=tv_step,
    relation="<=",
    right=sp.tanh(_a / 2),
    prove=_prove_tv_cap,
    assumes="|e_k| <= a for every token",
    source="trbounds",
)


def _prove_kl_cap() -> Iterable[Step]:
    def relative_entropy(n: int) -> Check:
        p, e = simplex(n), sp.symbols(f"e0:{n}", real=True)
        log_total = sp.Symbol("log_sum", real=True)  # log sum_k p_k exp(e_k)
        pairs = list(zip(p, e, strict=True))
        direct = sum(pk * -(ek - log_total) for pk, ek in pairs)
        return identity(direct, log_total - sum(pk * ek for pk, ek in pairs))

    yield Step(
        "KL(p,q) = psi(1) - psi(0) - psi'(0), psi(x) = log sum_k p_k exp(x e_k)",
        "log(p_k/q_k) = psi(1) - e_k, psi(0) = 0 and psi'(0) = sum_k p_k e_k",
        all_of("enumeration", "n = 2..5 tokens", [relative_entropy(n) for n in range(2, 6)]),
    )
    x = sp.Symbol("x", real=True)
    psi = sp.Function("psi")(x)
    primitive = (1 - x) * sp.diff(psi, x) + psi
    yield Step(
        "psi(1) - psi(0) - psi'(0) = integral_0^1 (1-x) psi''(x) dx",
        "(1-x) psi'(x) + psi(x) is a primitive of the integrand",
        identity(sp.diff(primitive, x), (1 - x) * sp.diff(psi, x, 2)),
    )

    def second_derivative(n: int) -> Check:
        p, e = simplex(n), sp.symbols(f"e0:{n}", real=True)
        terms = [pk * sp.exp(x * ek) for pk, ek in zip(p, e, strict=True)]
        total = sum(terms)
        mean = sum(term * ek for term, ek in zip(terms, e, strict=True)) / total
        square = sum(term * ek**2 for term, ek in zip(terms, e, strict=True)) / total
        gap = sp.diff(sp.log(total), x, 2) - (square - mean**2)
        return identity(sp.cancel(sp.together(gap)), sp.Integer(0))

    yield Step(
        "psi''(x) is the variance of e under p(x)",
        "expanded for 2 and 3 tokens; each further token adds terms of the same form",
        all_of("enumeration", "n = 2, 3 tokens", [second_derivative(n) for n in (2, 3)]),
    )
    below, above = sp.symbols("a-e a+e", nonnegative=True)
    a, e = (below + above) / 2, (above - below) / 2
    yield Step(
        "a^2 - e^2 = (a - e)(a + e) >= 0, so the variance is at most E e^2 <= a^2",
        "the errors lie in [-a, a]",
        nonnegative(a**2 - e**2, below * above),
    )
    yield Step(
        "integral_0^1 (1-x) a^2 dx = a^2/2",
        "the integral",
        identity(sp.integrate((1 - x) * _a**2, (x, 0, 1)), _a**2 / 2),
    )


#: ``KL(p, q) <= a^2/2``.
KL_CAP = Lemma(
    key="kl_cap",
    title="largest KL of one step",
    left=kl_step,
    relation="<=",
    right=_a**2 / 2,
    prove=_prove_kl_cap,
    assumes="|e_k| <= a for every token",
    source="Hoeffding 1963, lemma 1",
)


def _prove_chi2_cap() -> Iterable[Step]:
    def ratio(n: int) -> Check:
        p = simplex(n)
        y = sp.symbols(f"y0:{n}", positive=True)
        pairs = list(zip(p, y, strict=True))
        mean = sum(pk * yk for pk, yk in pairs)
        direct = sum((pk * yk / mean) ** 2 / pk for pk, yk in pairs)
        gap = direct - sum(pk * yk**2 for pk, yk in pairs) / mean**2
        return identity(sp.cancel(gap), sp.Integer(0))

    yield Step(
        "1 + chi2(q,p) = E Y^2 / (E Y)^2, Y = exp(e), the mean under p",
        "q_k = p_k Y_k / E Y",
        all_of("enumeration", "n = 2..4 tokens", [ratio(n) for n in range(2, 5)]),
    )
    low, high = sp.symbols("Y-m M-Y", nonnegative=True)
    m = sp.Symbol("m", positive=True)
    Y, M = m + low, m + low + high
    yield Step(
        "(M - Y)(Y - m) >= 0: E Y^2 <= (M + m) E Y - M m",
        "Y lies between m = exp(-a) and M = exp(a)",
        nonnegative((M + m) * Y - M * m - Y**2, low * high),
    )
    x, M = sp.Symbol("E_Y", positive=True), sp.Symbol("M", positive=True)
    gap = (M + m) ** 2 / (4 * M * m) - ((M + m) / x - M * m / x**2)
    yield Step(
        "E Y^2/(E Y)^2 <= (M + m)^2/(4 M m), with equality at E Y = 2 M m/(M + m)",
        "a square",
        nonnegative(gap, ((M + m) * x - 2 * M * m) ** 2 / (4 * M * m * x**2)),
    )
    half = (sp.exp(_a) + sp.exp(-_a)) ** 2 / 4 - 1
    yield Step(
        "(M + m)^2/(4 M m) - 1 = cosh(a)^2 - 1 = sinh(a)^2",
        "M m = 1",
        identity(sp.expand(half - sp.sinh(_a).rewrite(sp.exp) ** 2), sp.Integer(0)),
    )


#: ``chi2(q, p) <= sinh(a)^2``.
CHI2_CAP = Lemma(
    key="chi2_cap",
    title="largest chi2 of one step",
    left=chi2_step,
    relation="<=",
    right=sp.sinh(_a) ** 2,
    prove=_prove_chi2_cap,
    assumes="|e_k| <= a for every token",
    source="trbounds (Kantorovich's inequality)",
)
