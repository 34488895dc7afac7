"""Lemmas on sums over positions."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Lemma, Step, identity
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER
from trbounds.lemmas.inequalities import SUM_OF_POSITIONS, by_induction
from trbounds.lemmas.martingales import cauchy_schwarz_in_mean
from trbounds.symbolic import SYMBOLS, T, s, t

_Dbar, _k = SYMBOLS["tv_mean"], SYMBOLS["kl_mean"]

#: The argument of :data:`GEOMETRIC_SUM`, and that of :data:`PRODUCT_SUM`.
excess = sp.Symbol("q", real=True)
factor = sp.IndexedBase("q", nonnegative=True)


# -- sums --------------------------------------------------------------------------------------


_grown = excess * ((1 + excess) ** (t - 1) - 1)
_closed = (1 + excess) ** T - 1 - T * excess

#: ``sum_{t=1}^T q ((1+q)^(t-1) - 1) = (1+q)^T - 1 - T q``.
GEOMETRIC_SUM = Lemma(
    key="geometric_sum",
    title="sum of a geometric growth",
    left=sp.Sum(_grown, (t, 1, T)),
    relation="==",
    right=_closed,
    prove=lambda: by_induction(_grown, _closed),
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
    # The terms depend on T: read backwards they are t - 1.
    yield Step(
        "sum_{t=1..T} (T - t) = sum_{s=1..T} (s - 1), s = T + 1 - t",
        "the terms in the other order",
        identity((T - t).subs(t, T + 1 - s), s - 1),
    )
    yield Step(
        SUM_OF_POSITIONS.title,
        "the sum of s - 1 is T (T - 1)/2",
        SUM_OF_POSITIONS.certificate,
        SUM_OF_POSITIONS,
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


# -- means -------------------------------------------------------------------------------------


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
