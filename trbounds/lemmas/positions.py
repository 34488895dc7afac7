"""Lemmas on sums over positions, and on how contexts shift by what came before them."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER
from trbounds.lemmas.martingales import cauchy_schwarz_in_mean
from trbounds.symbolic import SYMBOLS, T, s, shift, t

__all__ = [
    "GEOMETRIC_SUM",
    "MEAN_PINSKER",
    "PRODUCT_SUM",
    "SHIFT_BY_PREFIX",
    "SUM_OF_REMAINING",
    "TOTAL_KL",
    "excess",
    "factor",
]

_Dbar, _k = SYMBOLS["tv_mean"], SYMBOLS["kl_mean"]

#: The argument of :data:`GEOMETRIC_SUM`, and that of :data:`PRODUCT_SUM`.
excess = sp.Symbol("q", real=True)
factor = sp.IndexedBase("q", nonnegative=True)


# -- sums --------------------------------------------------------------------------------------


def _prove_geometric_sum() -> Iterable[Step]:
    closed = (1 + excess) ** T - 1 - T * excess
    term = excess * ((1 + excess) ** (t - 1) - 1)
    yield Step(
        sp.Eq(term.subs(t, 1), closed.subs(T, 1), evaluate=False),
        "T = 1: both sides are 0",
        identity(term.subs(t, 1), closed.subs(T, 1)),
    )
    P = sp.Symbol("P", real=True)  # (1 + q)^T
    yield Step(
        "((1+q)^(T+1) - 1 - (T+1) q) - ((1+q)^T - 1 - T q) = q ((1+q)^T - 1)",
        "T to T + 1 adds the term of position T + 1; P = (1+q)^T",
        identity(
            (P * (1 + excess) - 1 - (T + 1) * excess) - (P - 1 - T * excess), excess * (P - 1)
        ),
    )


#: ``sum_{t=1}^T q ((1+q)^(t-1) - 1) = (1+q)^T - 1 - T q``.
GEOMETRIC_SUM = Lemma(
    key="geometric_sum",
    title="sum of a geometric growth",
    left=sp.Sum(excess * ((1 + excess) ** (t - 1) - 1), (t, 1, T)),
    relation="==",
    right=(1 + excess) ** T - 1 - T * excess,
    prove=_prove_geometric_sum,
)


def _prove_product_sum() -> Iterable[Step]:
    P, S, q = sp.symbols("P S q", real=True)
    yield Step(
        "T = 1: q_1 (1 - 1) = (1 + q_1) - 1 - q_1",
        "the empty product is 1; both sides are 0",
        identity(q * (1 - 1), (1 + q) - 1 - q),
    )
    yield Step(
        "(P (1+q) - 1 - (S + q)) - (P - 1 - S) = q (P - 1)",
        "T to T + 1 adds the term of position T + 1; P and S the product and the sum up to T",
        identity((P * (1 + q) - 1 - (S + q)) - (P - 1 - S), q * (P - 1)),
    )


#: ``sum_t q_t (prod_{s<t} (1+q_s) - 1) = prod_t (1+q_t) - 1 - sum_t q_t``.
PRODUCT_SUM = Lemma(
    key="product_sum",
    title="sum of the growth of a product",
    left=sp.Sum(factor[t] * (sp.Product(1 + factor[s], (s, 1, t - 1)) - 1), (t, 1, T)),
    relation="==",
    right=sp.Product(1 + factor[t], (t, 1, T)) - 1 - sp.Sum(factor[t], (t, 1, T)),
    prove=_prove_product_sum,
)


def _prove_sum_of_remaining() -> Iterable[Step]:
    closed = T * (T - 1) / 2
    yield Step(sp.Eq(closed.subs(T, 1), 0, evaluate=False), "T = 1", identity(closed.subs(T, 1), 0))
    yield Step(
        sp.Eq(closed.subs(T, T + 1) - closed, T, evaluate=False),
        "T to T + 1 adds 1 to each of the T terms, and a term 0",
        identity(closed.subs(T, T + 1) - closed, T),
    )


#: ``sum_{t=1}^T (T - t) = T (T - 1) / 2``.
SUM_OF_REMAINING = Lemma(
    key="sum_of_remaining",
    title="sum of the numbers of tokens left",
    left=sp.Sum(T - t, (t, 1, T)),
    relation="==",
    right=T * (T - 1) / 2,
    prove=_prove_sum_of_remaining,
)


# -- means and prefixes ------------------------------------------------------------------------


def _prove_mean_pinsker() -> Iterable[Step]:
    yield Step("tv(c_t) <= sqrt(kl(c_t)/2)", "Pinsker", PINSKER.certificate, PINSKER)
    yield cauchy_schwarz_in_mean("E_mu[1 sqrt(kl(c_t)/2)] <= sqrt(E_mu[1] E_mu[kl(c_t)/2])")


#: ``sum_t k_t = D``: the chain rule, read from the right.
TOTAL_KL = Lemma(
    key="total_kl",
    title="the mean KLs add up to the KL of whole sequences",
    left=CHAIN_RULE.right,
    relation="==",
    right=CHAIN_RULE.left,
    prove=lambda: CHAIN_RULE.derive().steps,
    source=CHAIN_RULE.source,
)

#: ``Dbar_t <= sqrt(k_t/2)``.
MEAN_PINSKER = Lemma(
    key="mean_pinsker",
    title="Pinsker's inequality for means",
    left=_Dbar[t],
    relation="<=",
    right=sp.sqrt(_k[t] / 2),
    prove=_prove_mean_pinsker,
)


def _one_more(position: int) -> Check:
    before = sp.Sum(_Dbar[s], (s, 1, position - 1)).doit()
    return identity(before + _Dbar[position], sp.Sum(_Dbar[s], (s, 1, position)).doit())


def _prove_shift_by_prefix() -> Iterable[Step]:
    P, Q, p, m = sp.symbols("P Q pi mu", nonnegative=True)
    yield Step(
        "P pi - Q mu = (P - Q) pi + Q (pi - mu), hence TV(d_{t+1}) <= TV(d_t) + Dbar_t",
        "half of the absolute values summed over contexts and tokens: pi sums to 1, so the first "
        "term gives TV(d_t); Q = d_t^mu, so the second gives E_mu tv(c_t)",
        identity(P * p - Q * m, (P - Q) * p + Q * (p - m)),
    )
    yield Step(
        "TV(d_1) = 0, hence TV(d_t) <= sum_{s<t} Dbar_s",
        "induction from the prompts, which both policies are given alike: the sum over s < t and "
        "Dbar_t make the sum over s < t + 1; for t = 1..5",
        all_of("enumeration", "t = 1..5", [_one_more(n) for n in range(1, 6)]),
    )
    yield Step(
        "TV(d_t) <= 1",
        "|P - Q| <= P + Q, for both signs, and the masses are 1",
        all_of("sign", "both signs", [nonnegative(P + Q - (P - Q)), nonnegative(P + Q + (P - Q))]),
    )
    yield Step("KL(d_t) = sum_{s<t} k_s", "chain rule", CHAIN_RULE.certificate, CHAIN_RULE)
    yield Step("TV(d_t) <= min(1, sqrt(KL(d_t)/2))", "Pinsker", PINSKER.certificate, PINSKER)


#: ``TV(d_t) <= min(1, sum_{s<t} Dbar_s, sqrt(sum_{s<t} k_s/2))``.
SHIFT_BY_PREFIX = Lemma(
    key="shift_by_prefix",
    title="context shift by what came before",
    left=shift[t],
    relation="<=",
    right=sp.Min(1, sp.Sum(_Dbar[s], (s, 1, t - 1)), sp.sqrt(sp.Sum(_k[s], (s, 1, t - 1)) / 2)),
    prove=_prove_shift_by_prefix,
    source="trbounds",
)
