"""Lemmas on a softmax whose logits are perturbed: the mismatch of one token.

Throughout, ``p = softmax(z)`` and ``q = softmax(z + e)`` with ``|e_k| <= a`` for every token k, and
``Delta = log q_i - log p_i`` for one token i, with ``p = p_i`` and ``q = q_i``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.inequalities import LOG_BELOW_LINE

_a = sp.Symbol("a", nonnegative=True)
_p = sp.Symbol("p", positive=True)
_q = sp.Symbol("q", positive=True)
_s = sp.Symbol("s", nonnegative=True)
_R = sp.Symbol("R", nonnegative=True)

#: The symbols of the laws: logit error, probabilities, noise, and ``sum_{k != i} p_k^2``.
MISMATCH_SYMBOLS: Mapping[str, Any] = {
    "logit_error": _a,
    "p": _p,
    "q": _q,
    "noise_sd": _s,
    "rest_square": _R,
}

delta = sp.Symbol("Delta", real=True)
minus_delta = sp.Symbol("-Delta", real=True)
sampled_mismatch = sp.Symbol("E[Delta | i sampled from q] to order s^2", real=True)

# 1 - p and p as fractions of a non-negative u, so that signs are plain: p = 1/(1 + u).
_u = sp.Symbol("u", nonnegative=True)
_P_OF_U = 1 / (1 + _u)


def simplex(n: int) -> list[Any]:
    """Probabilities of n tokens; token 0 has what the others leave."""
    others = list(sp.symbols(f"p1:{n}", positive=True))
    return [1 - sum(others), *others]


# -- exponentials and means --------------------------------------------------------------------

_x, _w = sp.Symbol("x", real=True), sp.Symbol("w", nonnegative=True)


def _prove_exp_monotone() -> Iterable[Step]:
    gap = sp.exp(_x + _w) - sp.exp(_x)
    yield Step(sp.Eq(gap.subs(_w, 0), 0, evaluate=False), "w = 0", identity(gap.subs(_w, 0), 0))
    yield Step(
        sp.Ge(sp.diff(gap, _w), 0, evaluate=False),
        "the difference e^(x+w) - e^x grows with w",
        nonnegative(sp.diff(gap, _w)),
    )


#: ``e^x <= e^(x + w)`` for w >= 0.
EXP_MONOTONE = Lemma(
    key="exp_monotone",
    title="the exponential increases",
    left=sp.exp(_x),
    relation="<=",
    right=sp.exp(_x + _w),
    prove=_prove_exp_monotone,
)


def mean_step(text: str) -> Step:
    """A weighted mean is not below a lower bound of its terms."""

    def case(n: int) -> Check:
        w = sp.symbols(f"w1:{n + 1}", nonnegative=True)
        d = sp.symbols(f"d1:{n + 1}", nonnegative=True)
        low = sp.Symbol("low", real=True)
        above = sum(wk * (low + dk) for wk, dk in zip(w, d, strict=True)) - low * sum(w)
        return nonnegative(sp.expand(above))

    return Step(
        text,
        "a weighted mean lies between the extremes of its terms: sum_k w_k (low + d_k) - low "
        "sum_k w_k = sum_k w_k d_k >= 0, and likewise above",
        all_of("enumeration", "n = 1..5 terms", [case(n) for n in range(1, 6)]),
    )


# -- the envelope ------------------------------------------------------------------------------

_m = sp.Symbol("m", positive=True)


def _prove_softmax_ratio() -> Iterable[Step]:
    def case(n: int) -> Check:
        p = simplex(n)
        y = sp.symbols(f"y0:{n}", positive=True)
        inverse = sum(pk * yk for pk, yk in zip(p, y, strict=True)) / y[0]
        m = sum(pk * yk / y[0] for pk, yk in zip(p[1:], y[1:], strict=True)) / sum(p[1:])
        return identity(sp.cancel(inverse - (p[0] + (1 - p[0]) * m)), sp.Integer(0))

    yield Step(
        "p_i/q_i = sum_k p_k y_k / y_i = p_i + (1-p_i) m, y_k = exp(e_k)",
        "m is the mean of exp(e_k - e_i) over the tokens k other than i, weighted by p_k; "
        "expanded for 2..5 tokens, and both sides are linear in each further p_k y_k",
        all_of("enumeration", "n = 2..5 tokens", [case(n) for n in range(2, 6)]),
    )


#: ``Delta = -log(p + (1-p) m)``, m the mean of exp(e_k - e_i) over the other tokens.
SOFTMAX_RATIO = Lemma(
    key="softmax_ratio",
    title="a token's mismatch through the other tokens",
    left=delta,
    relation="==",
    right=-sp.log(_p + (1 - _p) * _m),
    prove=_prove_softmax_ratio,
    source="trbounds",
)


def _prove_envelope(sign: int) -> Iterable[Step]:
    yield Step(
        "Delta = -log(p + (1-p) m)", SOFTMAX_RATIO.title, SOFTMAX_RATIO.certificate, SOFTMAX_RATIO
    )
    edge = sp.exp(2 * sign * _a)
    relation = "<=" if sign > 0 else ">="
    yield Step(
        f"exp(e_k - e_i) {relation} exp({'' if sign > 0 else '-'}2a)",
        "both errors lie in [-a, a], and the exponential increases",
        EXP_MONOTONE.certificate,
        EXP_MONOTONE,
    )
    yield mean_step(f"m {relation} exp({'' if sign > 0 else '-'}2a)")
    # m = edge -/+ d: the smaller of the two arguments of the logarithm, and their difference.
    d, small = sp.Symbol("d", nonnegative=True), sp.Symbol("m_small", positive=True)
    p, r = _P_OF_U, _u * _P_OF_U
    low, high = p + r * small, p + r * (small + d)
    yield Step(
        "p + (1-p) m moves with m: log(high) - log(low) >= 1 - low/high >= 0",
        "log v >= 1 - 1/v at v = high/low, with p = 1/(1+u)",
        LOG_BELOW_LINE.certificate,
        LOG_BELOW_LINE,
    )
    yield Step(
        sp.Ge(1 - low / high, 0, evaluate=False),
        "the right side is not negative",
        nonnegative(1 - low / high, _u * d / (1 + _u * (small + d))),
    )
    y_i, y_k = sp.exp(-sign * _a), sp.exp(sign * _a)
    yield Step(
        sp.Eq((_p * y_i + (1 - _p) * y_k) / y_i, _p + (1 - _p) * edge, evaluate=False),
        f"attained by e_i = {'-' if sign > 0 else ''}a and e_k = {'' if sign > 0 else '-'}a for "
        "every other token",
        identity((_p * y_i + (1 - _p) * y_k) / y_i, _p + (1 - _p) * edge),
    )


#: ``Delta <= -log(p + (1-p) e^(-2a))``.
ENVELOPE_UPPER = Lemma(
    key="envelope_upper",
    title="upper envelope of the mismatch",
    left=delta,
    relation="<=",
    right=-sp.log(_p + (1 - _p) * sp.exp(-2 * _a)),
    prove=lambda: _prove_envelope(-1),
    assumes="|e_k| <= a for every token",
    source="trbounds",
)

#: ``-Delta <= log(p + (1-p) e^(2a))``.
ENVELOPE_LOWER = Lemma(
    key="envelope_lower",
    title="lower envelope of the mismatch",
    left=minus_delta,
    relation="<=",
    right=sp.log(_p + (1 - _p) * sp.exp(2 * _a)),
    prove=lambda: _prove_envelope(1),
    assumes="|e_k| <= a for every token",
    source="trbounds",
)


# -- sampled tokens ----------------------------------------------------------------------------


def _prove_selection_bias() -> Iterable[Step]:
    def half_laplacian(n: int) -> Check:
        p, e = simplex(n), sp.symbols(f"e0:{n}", real=True)
        total = sum(pk * sp.exp(ek) for pk, ek in zip(p, e, strict=True))
        mismatch = e[0] - sp.log(total)
        weighted = sp.exp(mismatch) * mismatch  # q_i Delta_i / p_i
        at_zero = dict.fromkeys(e, sp.Integer(0))
        curvature = sum(sp.diff(weighted, ek, 2).subs(at_zero) for ek in e) / 2
        rest = sum(pk**2 for pk in p[1:])
        expected = SELECTION_BIAS.right.subs({_s: 1, _p: p[0], _R: rest})
        return identity(sp.simplify(curvature), sp.expand(expected))

    def at_rest(n: int) -> Check:
        p, e = simplex(n), sp.symbols(f"e0:{n}", real=True)
        total = sum(pk * sp.exp(ek) for pk, ek in zip(p, e, strict=True))
        ratio = (sp.exp(e[0]) / total).subs(dict.fromkeys(e, sp.Integer(0)))
        return identity(sp.simplify(ratio), sp.Integer(1))

    yield Step(
        "E[Delta | i sampled from q] = E[q_i Delta]/E[q_i] = E[(q_i/p_i) Delta] (1 + O(s^2))",
        "Bayes. At e = 0, q_i/p_i is 1 (2..4 tokens) and Delta is 0: the mean of the first is "
        "1 + O(s^2), and that of their product is itself O(s^2)",
        all_of("enumeration", "n = 2..4 tokens", [at_rest(n) for n in range(2, 5)]),
    )
    yield Step(
        "E F(e) = F(0) + (s^2/2) sum_k d^2F/de_k^2(0) + O(s^4), at F = (q_i/p_i) Delta, F(0) = 0",
        "independent N(0, s^2) errors have E e_k e_l = s^2 [k = l] and no odd moments; half the "
        "Laplacian at 0 expanded for 2..4 tokens",
        all_of("enumeration", "n = 2..4 tokens", [half_laplacian(n) for n in range(2, 5)]),
    )


#: Mean mismatch of a token drawn from the perturbed policy, to order s^2.
SELECTION_BIAS = Lemma(
    key="selection_bias",
    title="selection bias of sampled tokens",
    left=sampled_mismatch,
    relation="==",
    right=_s**2 * ((1 - _p) ** 2 + _R - (1 - _p**2 - _R) / 2),
    prove=_prove_selection_bias,
    assumes="independent N(0, s^2) errors, s -> 0; R = sum of p_k^2 over the other tokens",
    source="trbounds",
)
