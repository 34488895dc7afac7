"""The (1 - p) law: the mismatch of one token against the mass of the others.

Notation as in :mod:`trbounds.lemmas.softmax`.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.lemmas.softmax import (
    ENVELOPE_LOWER,
    ENVELOPE_UPPER,
    MISMATCH_SYMBOLS,
    mean_step,
    simplex,
)

_a, _p, _q = (MISMATCH_SYMBOLS[name] for name in ("logit_error", "p", "q"))

abs_delta = sp.Symbol("|Delta|", nonnegative=True)
first_order_part = sp.Symbol("|Delta| to first order in a", nonnegative=True)

# p and 1 - p as fractions of a non-negative u, so that signs are plain.
_u = sp.Symbol("u", nonnegative=True)
_P, _REST = 1 / (1 + _u), _u / (1 + _u)


def _prove_concavity() -> Iterable[Step]:
    y = sp.Symbol("y", positive=True)
    p, r = _P, _REST
    A = p + r * y
    yield Step(
        "log v <= v - 1 at v = 1/A and v = y/A, A = p + (1-p) y",
        "log v >= 1 - 1/v, read at 1/v",
        LOG_BELOW_LINE.certificate,
        LOG_BELOW_LINE,
    )
    yield Step(
        sp.Eq(p * (1 / A - 1) + r * (y / A - 1), 0, evaluate=False),
        "so p log(1/A) + (1-p) log(y/A) <= p (1/A - 1) + (1-p)(y/A - 1) = 0 (p = 1/(1+u)), which "
        "is (1-p) log y <= log A",
        identity(p * (1 / A - 1) + r * (y / A - 1), sp.Integer(0)),
    )
    yield Step(
        "-log A <= -(1-p) log y; at y = exp(-2a) the right side is 2a(1-p)",
        "the value at y = exp(-2a)",
        identity(-(1 - _p) * sp.log(sp.exp(-2 * _a)), 2 * _a * (1 - _p)),
    )


#: ``-log(p + (1-p) e^(-2a)) <= 2a(1-p)``.
CONCAVITY = Lemma(
    key="log_concavity",
    title="concavity of the logarithm",
    left=-sp.log(_p + (1 - _p) * sp.exp(-2 * _a)),
    relation="<=",
    right=2 * _a * (1 - _p),
    prove=_prove_concavity,
    assumes="0 < p <= 1",
)


def _path_derivative(n: int) -> Check:
    p, e = simplex(n), sp.symbols(f"e0:{n}", real=True)
    x = sp.Symbol("x", real=True)
    total = sum(pk * sp.exp(x * ek) for pk, ek in zip(p, e, strict=True))
    slope = sp.diff(x * e[0] - sp.log(total), x)
    expected = sum(
        pk * sp.exp(x * ek) / total * (e[0] - ek) for pk, ek in zip(p[1:], e[1:], strict=True)
    )
    return identity(sp.cancel(sp.together(slope - expected)), sp.Integer(0))


def _prove_mean_value() -> Iterable[Step]:
    yield Step(
        "d/dx log p_i(x) = sum_{k != i} p_k(x) (e_i - e_k) on the path p(x) = softmax(z + x e)",
        "expanded for 2..4 tokens; each further token adds a term of the same form",
        all_of("enumeration", "n = 2..4 tokens", [_path_derivative(n) for n in range(2, 5)]),
    )
    yield mean_step("hence |d/dx log p_i(x)| <= 2a (1 - p_i(x)), and |Delta| <= 2a (1 - p_i(x~))")
    yield Step(
        "if Delta >= 0 then q >= p and Delta <= -log(p + (1-p) exp(-2a))",
        "upper envelope",
        ENVELOPE_UPPER.certificate,
        ENVELOPE_UPPER,
    )
    yield Step(
        "-log(p + (1-p) exp(-2a)) <= 2a (1-p)",
        "concavity of the logarithm",
        CONCAVITY.certificate,
        CONCAVITY,
    )
    yield Step(
        "if Delta < 0 then q < p and -Delta <= 2a (1-q)",
        "the same with p and q in each other's place: p = softmax((z + e) - e), and |-e_k| <= a",
        ENVELOPE_UPPER.certificate,
        ENVELOPE_UPPER,
    )


#: ``|Delta| <= 2a (1 - min(p, q))``.
MEAN_VALUE = Lemma(
    key="mean_value",
    title="the mismatch against 1 - p",
    left=abs_delta,
    relation="<=",
    right=2 * _a * (1 - sp.Min(_p, _q)),
    prove=_prove_mean_value,
    assumes="|e_k| <= a for every token",
    source="trbounds",
)


def _prove_first_order() -> Iterable[Step]:
    upper, lower = ENVELOPE_UPPER.right, ENVELOPE_LOWER.right
    for side, name in ((upper, "upper"), (lower, "lower")):
        slope = sp.diff(side, _a).subs(_a, 0)
        yield Step(
            sp.Eq(slope, 2 * (1 - _p), evaluate=False),
            f"slope of the {name} envelope at a = 0, where the envelope is 0",
            all_of(
                "identity",
                "value and slope",
                [identity(side.subs(_a, 0), sp.Integer(0)), identity(slope, 2 * (1 - _p))],
            ),
        )
    r = sp.Symbol("r", positive=True)
    ratio = lower.subs(_p, 1 - r) / (2 * _a * r)
    limit = sp.limit(ratio.subs(_a, sp.Symbol("a", positive=True)), r, 0)
    expected = (sp.exp(2 * _a) - 1) / (2 * _a)
    yield Step(
        "-Delta / (2a(1-p)) reaches (exp(2a) - 1)/(2a) as p -> 1: the first-order form is no bound",
        "limit of the lower envelope, with r = 1 - p",
        identity(limit.subs(sp.Symbol("a", positive=True), _a), expected),
    )


#: ``|Delta|`` is at most ``2a(1-p)`` to first order in a; it may exceed this.
FIRST_ORDER = Lemma(
    key="first_order",
    title="first order of the envelope",
    left=first_order_part,
    relation="<=",
    right=2 * _a * (1 - _p),
    prove=_prove_first_order,
    assumes="a -> 0",
    source="trbounds",
)


def _prove_without_remainder() -> Iterable[Step]:
    yield Step(
        "log v <= v - 1: log(p + (1-p) exp(2a)) <= (1-p)(exp(2a) - 1)",
        "lower envelope; log v >= 1 - 1/v, read at 1/v, with v = p + (1-p) exp(2a)",
        ENVELOPE_LOWER.certificate,
        ENVELOPE_LOWER,
    )
    yield Step("log v >= 1 - 1/v", "its own proof", LOG_BELOW_LINE.certificate, LOG_BELOW_LINE)
    p, r = _P, _REST
    y = 1 + sp.Symbol("w", nonnegative=True)
    product = (p + r * y**2) * (p + r / y**2)
    yield Step(
        "the lower side is the larger: (p + (1-p) y^2)(p + (1-p)/y^2) >= 1, y = exp(a) = 1 + w",
        "p (1-p) (y - 1/y)^2, with p = 1/(1+u)",
        nonnegative(product - 1, p * r * (y - 1 / y) ** 2),
    )


#: ``|Delta| <= (e^(2a) - 1)(1 - p)``.
WITHOUT_REMAINDER = Lemma(
    key="without_remainder",
    title="a bound in terms of the unperturbed p",
    left=abs_delta,
    relation="<=",
    right=(sp.exp(2 * _a) - 1) * (1 - _p),
    prove=_prove_without_remainder,
    assumes="|e_k| <= a for every token",
    source="trbounds",
)
