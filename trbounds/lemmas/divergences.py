"""Lemmas on divergences: data processing, Pinsker, and the chain rule of KL."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.symbolic import SYMBOLS, T, t

#: TV and KL of any two distributions P and Q.
tv = sp.Symbol("TV(P,Q)", nonnegative=True)
kl = sp.Symbol("KL(P,Q)", nonnegative=True)

_kl_coarse = sp.Symbol("KL(coarse)", nonnegative=True)
_tv_coarse = sp.Symbol("TV(coarse)", nonnegative=True)


def _prove_log_sum() -> Iterable[Step]:
    yield Step(
        "log u >= 1 - 1/u at u = a_i B / (b_i A)",
        "termwise: sum a_i log(a_i/b_i) - A log(A/B) >= sum a_i (1 - b_i A/(a_i B))",
        LOG_BELOW_LINE.certificate,
        LOG_BELOW_LINE,
    )

    def lower_is_zero(n: int) -> Check:
        a = sp.symbols(f"a1:{n + 1}", positive=True)
        b = sp.symbols(f"b1:{n + 1}", positive=True)
        total_a, total_b = sum(a), sum(b)
        lower = sum(x * (1 - y * total_a / (x * total_b)) for x, y in zip(a, b, strict=True))
        return identity(sp.cancel(lower), sp.Integer(0))

    yield Step(
        "sum_i a_i (1 - b_i A/(a_i B)) = A - B A/B = 0",
        "A = sum a_i and B = sum b_i; expanded for n = 1..4, and the sum is linear in its terms",
        all_of("enumeration", "n = 1..4", [lower_is_zero(n) for n in range(1, 5)]),
    )


#: Merging outcomes never raises KL: ``sum a_i log(a_i/b_i) >= A log(A/B)``.
LOG_SUM = Lemma(
    key="log_sum",
    title="log-sum inequality (data processing for KL)",
    left=_kl_coarse,
    relation="<=",
    right=kl,
    prove=_prove_log_sum,
    assumes="the coarse distributions are those of a function of the outcome",
)


def _prove_tv_processing() -> Iterable[Step]:
    def triangle(signs: tuple[int, ...]) -> Check:
        # |sum x_i| <= sum |x_i|: with x_i = s_i m_i, m_i >= 0, both signs of the sum.
        m = sp.symbols(f"m1:{len(signs) + 1}", nonnegative=True)
        total = sum(s * x for s, x in zip(signs, m, strict=True))
        return all_of(
            "sign",
            "both signs",
            [nonnegative(sum(m) - total), nonnegative(sum(m) + total)],
        )

    cases = [signs for n in (1, 2, 3, 4) for signs in product((1, -1), repeat=n)]
    yield Step(
        "|sum_i (P_i - Q_i)| <= sum_i |P_i - Q_i| over the outcomes that are merged",
        "the triangle inequality, every sign pattern of up to four outcomes; merging more "
        "is merging repeatedly",
        all_of("enumeration", "sign patterns", [triangle(s) for s in cases]),
    )


#: Merging outcomes never raises TV.
TV_PROCESSING = Lemma(
    key="tv_processing",
    title="data processing for TV",
    left=_tv_coarse,
    relation="<=",
    right=tv,
    prove=_prove_tv_processing,
    assumes="the coarse distributions are those of a function of the outcome",
)


def _prove_pinsker() -> Iterable[Step]:
    p, q = sp.symbols("p q", positive=True)
    yield Step(
        "KL(P,Q) >= p log(p/q) + (1-p) log((1-p)/(1-q)), p = P(A), q = Q(A), A = {P > Q}",
        "reduction to two points: merge the outcomes inside A and those outside; TV = p - q",
        LOG_SUM.certificate,
        LOG_SUM,
    )
    f = p * sp.log(p / q) + (1 - p) * sp.log((1 - p) / (1 - q)) - 2 * (p - q) ** 2
    yield Step(
        "f(p, p) = 0",
        "f(p, q) = p log(p/q) + (1-p) log((1-p)/(1-q)) - 2 (p - q)^2",
        identity(f.subs(q, p), sp.Integer(0)),
    )
    slope = (q - p) * (1 - 2 * q) ** 2 / (q * (1 - q))
    yield Step(
        sp.Eq(sp.Derivative(f, q), slope, evaluate=False),
        "df/dq has the sign of q - p on 0 < q < 1, so f is least at q = p, where it is 0: "
        "KL >= 2 (p - q)^2",
        identity(sp.diff(f, q), slope),
    )
    u = sp.Symbol("u", positive=True)
    factor = slope / (q - p)
    yield Step(
        sp.Ge(factor, 0, evaluate=False),
        "the factor beside q - p is not negative: put q = u/(1 + u), u > 0",
        nonnegative(factor.subs(q, u / (1 + u)), (u - 1) ** 2 / u),
    )


#: ``TV <= min(1, sqrt(KL/2))``.
PINSKER = Lemma(
    key="pinsker",
    title="Pinsker's inequality",
    left=tv,
    relation="<=",
    right=sp.Min(1, sp.sqrt(kl / 2)),
    prove=_prove_pinsker,
    source="Pinsker; Csiszar; Kullback",
)


def _prove_chain_rule() -> Iterable[Step]:
    def two_level(rows: int, columns: int) -> Check:
        # Outcome (i, j) has probability p_i m_ij under mu and q_i n_ij under pi.
        p = sp.symbols(f"p1:{rows + 1}", positive=True)
        q = sp.symbols(f"q1:{rows + 1}", positive=True)
        m = [_simplex(f"m{i}", columns) for i in range(rows)]
        # Any positive numbers: pi may put mass where mu puts none.
        n = [sp.symbols(f"n{i}_1:{columns + 1}", positive=True) for i in range(rows)]
        cells = list(product(range(rows), range(columns)))
        joint = sum(
            p[i] * m[i][j] * (sp.log(p[i]) + sp.log(m[i][j]) - sp.log(q[i]) - sp.log(n[i][j]))
            for i, j in cells
        )
        first = sum(p[i] * (sp.log(p[i]) - sp.log(q[i])) for i in range(rows))
        second = sum(p[i] * m[i][j] * (sp.log(m[i][j]) - sp.log(n[i][j])) for i, j in cells)
        return identity(joint, first + second)

    shapes = [(2, 2), (3, 2), (2, 3), (4, 2)]
    yield Step(
        "KL(P_{t+1}) = KL(P_t) + E_mu kl(c_{t+1})",
        "one more token: log of a product is a sum, and mu's conditional probabilities sum to 1",
        all_of("enumeration", "contexts x tokens", [two_level(*shape) for shape in shapes]),
    )
    yield Step(
        "KL(P_0) = sum_x p(x) log(p(x)/p(x)) = 0",
        "start of the induction: before the first token there is the prompt, drawn alike by both",
        identity(sum(p * sp.log(p / p) for p in sp.symbols("p1:4", positive=True)), sp.Integer(0)),
    )


def _simplex(name: str, size: int) -> list[sp.Expr]:
    free = list(sp.symbols(f"{name}_1:{size}", positive=True))
    return [*free, 1 - sum(free)]


#: ``D = sum_t k_t``.
CHAIN_RULE = Lemma(
    key="chain_rule",
    title="chain rule of KL",
    left=SYMBOLS["kl_seq"],
    relation="==",
    right=sp.Sum(SYMBOLS["kl_mean"][t], (t, 1, T)),
    prove=_prove_chain_rule,
    source="TRM v2, section 2",
)
