"""Convex duality of KL: what a change of policy of given KL can do to bounded functions.

With ``phi(x) = x - log(1 + x)`` the mean of ``phi(rho - 1)`` is the KL, and its conjugate
``phi*(s) = -s - log(1 - s)`` bounds scalar products with ``rho - 1``.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.conjugate import (
    CONJUGATE_SQUARE,
    FENCHEL_YOUNG,
    MEAN_PHI,
    below_infimum,
    conjugate,
    dual_gain,
    multiplier,
)
from trbounds.lemmas.divergences import CHAIN_RULE
from trbounds.lemmas.inequalities import BELOW_BOTH, LOG_BELOW_LINE
from trbounds.lemmas.martingales import (
    OBJECTIVE_BY_TV,
    error_by_futures,
    objective_gap,
    surrogate,
)
from trbounds.lemmas.ratios import MARTINGALE
from trbounds.lemmas.second_order import FUTURE_SQUARE_BY_POSITION
from trbounds.lemmas.trees import on_trees
from trbounds.symbolic import SYMBOLS, error

_D, _V, _v = SYMBOLS["kl_seq"], SYMBOLS["tv_seq"], SYMBOLS["reward_var"]

#: ``|sum_t E_mu[(rho_t - 1) B_t]|``, and a bound S on ``sum_t E_mu[B_t^2]``.
paired = sp.Symbol("|sum_t E_mu[(rho_t - 1) B_t]|", nonnegative=True)
second_moment = sp.Symbol("S", nonnegative=True)


_spread = sp.Symbol("|E[R | c] - E'[R | c']|", nonnegative=True)


def _prove_bounded_difference() -> Iterable[Step]:
    a, b, rest_a, rest_b = sp.symbols("a b 1-a 1-b", nonnegative=True)
    yield Step(
        "1 - (a - b) = (1 - a) + b >= 0 and 1 + (a - b) = a + (1 - b) >= 0 for a, b in [0, 1]",
        "means of a reward in [0, 1] lie in [0, 1]",
        all_of(
            "sign",
            "both signs",
            [nonnegative((a + rest_a) - a + b), nonnegative((b + rest_b) - b + a)],
        ),
    )


#: Two means of a reward in [0, 1] differ by at most 1.
BOUNDED_DIFFERENCE = Lemma(
    key="bounded_difference",
    title="two means of the reward differ by at most 1",
    left=_spread,
    relation="<=",
    right=sp.Integer(1),
    prove=_prove_bounded_difference,
    assumes="R in [0, 1]",
)

# -- whole sequences ---------------------------------------------------------------------------


def _prove_duality() -> Iterable[Step]:
    x, B = sp.symbols("x B", real=True)
    yield Step(
        "(rho_t - 1) s <= phi(rho_t - 1) + phi*(s), with s = +-B_t/lambda in (-1, 1)",
        "Fenchel-Young at x = rho_t - 1 > -1, for every lambda > 1; rho_t = 0 has phi = infinity",
        FENCHEL_YOUNG.certificate,
        FENCHEL_YOUNG,
    )
    yield Step(
        "+-(rho_t - 1) B_t = lambda (rho_t - 1) s <= lambda phi(rho_t - 1) + lambda phi*(s)",
        "times lambda, both signs",
        all_of(
            "enumeration",
            "both signs",
            [
                identity(sign * x * B, multiplier * (x * (sign * B / multiplier)))
                for sign in (1, -1)
            ],
        ),
    )
    yield Step(
        "E_mu[phi(rho_t - 1) | c_t] = kl(c_t)", "one context", MEAN_PHI.certificate, MEAN_PHI
    )
    yield Step(
        "sum_t E_mu phi(rho_t - 1) = sum_t k_t = D", "added up", CHAIN_RULE.certificate, CHAIN_RULE
    )
    yield Step(
        "lambda phi*(+-B_t/lambda) <= B_t^2 lambda phi*(1/lambda)",
        "|B_t| <= 1 < lambda",
        CONJUGATE_SQUARE.certificate,
        CONJUGATE_SQUARE,
    )
    weight = -1 - multiplier * sp.log(1 - 1 / multiplier)
    yield Step(
        "lambda phi*(1/lambda) = -1 - lambda log(1 - 1/lambda) = lambda (log(1/z) - (1 - z)), "
        "z = 1 - 1/lambda",
        "not negative, because log u >= 1 - 1/u at u = 1/z",
        all_of(
            "sign",
            "both forms, and the lemma",
            [
                identity(multiplier * conjugate(1 / multiplier), weight),
                identity(
                    multiplier * (-sp.log(1 - 1 / multiplier) - (1 - (1 - 1 / multiplier))), weight
                ),
                LOG_BELOW_LINE.certificate,
            ],
        ),
        LOG_BELOW_LINE,
    )
    moment, slack, factor = sp.symbols("sum_t_E[B_t^2] slack psi", nonnegative=True)
    yield Step(
        "|sum_t E_mu[(rho_t - 1) B_t]| <= lambda D + S (-1 - lambda log(1 - 1/lambda)) for every "
        "lambda > 1",
        "sum_t E_mu[B_t^2] <= S = sum_t E_mu[B_t^2] + slack, and its factor is not negative",
        nonnegative(
            (multiplier * _D + (moment + slack) * factor) - (multiplier * _D + moment * factor),
            slack * factor,
        ),
    )
    yield Step(
        sp.Le(paired, dual_gain(_D, second_moment), evaluate=False),
        "the left side does not depend on lambda: it lies below the infimum",
        below_infimum(paired, dual_gain(_D, second_moment)),
    )


#: ``|sum_t E_mu[(rho_t - 1) B_t]| <= G(D, S)``.
DUALITY = Lemma(
    key="duality",
    title="duality between the KL and bounded functions",
    left=paired,
    relation="<=",
    right=dual_gain(_D, second_moment),
    prove=_prove_duality,
    assumes="B_t a function of c_t and y_t, |B_t| <= 1, sum_t E_mu[B_t^2] <= S; pi << mu",
    source="trbounds",
)


def _prove_surrogate_pairing() -> Iterable[Step]:
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0",
        "so E_mu[R | c_t] may be subtracted",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    yield Step(
        "L' = E_mu[R sum_t (rho_t - 1)] = sum_t E_mu[(rho_t - 1) A_t]",
        "given c_t, y_t the ratio is fixed and the mean of R is E_mu[R | c_t, y_t]; over the tree",
        on_trees(
            lambda tree: (
                tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y)),
                tree.mean_over_tokens(lambda c, y: tree.step(c, y) * tree.advantage(c, y)),
            )
        ),
    )


#: ``|L'| = |sum_t E_mu[(rho_t - 1) A_t]|`` with ``A_t = E_mu[R | c_{t+1}] - E_mu[R | c_t]``.
SURROGATE_PAIRING = Lemma(
    key="surrogate_pairing",
    title="the surrogate pairs rho - 1 with the martingale differences A of the reward",
    left=surrogate,
    relation="==",
    right=paired,
    prove=_prove_surrogate_pairing,
    assumes="B_t = A_t; pi << mu",
)


def _prove_objective_by_duality() -> Iterable[Step]:
    yield Step("|J(pi) - J(mu)| <= V", "R in [0, 1]", OBJECTIVE_BY_TV.certificate, OBJECTIVE_BY_TV)
    yield Step(
        "J(pi) - J(mu) = E_mu[(W - 1)(R - E_mu[R | x])]",
        "E_mu[W | x] = 1; over the tree of one prompt",
        on_trees(
            lambda tree: (
                tree.value((), train=True) - tree.value(()),
                tree.mean(lambda y: (tree.weight(y) - 1) * (tree.reward[y] - tree.value(()))),
            )
        ),
    )
    yield Step(
        "|R - E_mu[R | x]| <= 1, and its mean square is v",
        "by the definition of v",
        BOUNDED_DIFFERENCE.certificate,
        BOUNDED_DIFFERENCE,
    )
    yield Step(
        sp.Le(objective_gap, dual_gain(_D, _v), evaluate=False),
        "duality with the whole response as one token: its ratio is W, its KL is D",
        DUALITY.certificate,
        DUALITY,
    )
    yield Step(
        sp.Le(objective_gap, sp.Min(_V, dual_gain(_D, _v)), evaluate=False),
        BELOW_BOTH.title,
        BELOW_BOTH.certificate,
        BELOW_BOTH,
    )


#: ``|J(pi) - J(mu)| <= min(V, G(D, v))``.
OBJECTIVE_BY_DUALITY = Lemma(
    key="objective_by_duality",
    title="the change of the objective, by the sequence TV and by duality",
    left=objective_gap,
    relation="<=",
    right=sp.Min(_V, dual_gain(_D, _v)),
    prove=_prove_objective_by_duality,
    assumes="R in [0, 1]; pi << mu",
    source="trbounds",
)


#: ``|Error| = |sum_t E_mu[(rho_t - 1) h_t]|`` with the change h of what follows.
FUTURE_PAIRING = Lemma(
    key="future_pairing",
    title="the error pairs rho - 1 with the change h of the future's mean reward",
    left=error,
    relation="==",
    right=paired,
    prove=error_by_futures,
    assumes="B_t = h_t; pi << mu",
    source="trbounds",
)

_future_total = sp.Symbol("sum_t E_mu[h_t^2]", nonnegative=True)


def _prove_future_total() -> Iterable[Step]:
    yield Step(
        "E_mu[h_t^2] <= (1/2) sum_{s>t} k_s",
        "the cap at 1 left out",
        FUTURE_SQUARE_BY_POSITION.certificate,
        FUTURE_SQUARE_BY_POSITION,
    )

    def swap(length: int) -> Check:
        k = sp.symbols(f"k1:{length + 1}", nonnegative=True)
        nested = sum(sum(k[i] for i in range(j + 1, length)) for j in range(length))
        return identity(nested, sum(i * k[i] for i in range(length)))

    yield Step(
        "sum_t sum_{s>t} k_s = sum_s (s - 1) k_s",
        "s - 1 positions come before s; expanded for T = 1..6, and one more position T adds k_T "
        "to the inner sum of the T - 1 positions before it",
        all_of("enumeration", "T = 1..6", [swap(n) for n in range(1, 7)]),
    )


#: ``sum_t E_mu[h_t^2] <= (1/2) sum_s (s - 1) k_s``.
FUTURE_TOTAL = Lemma(
    key="future_total",
    title="the squared changes of the future, added up",
    left=_future_total,
    relation="<=",
    right=SYMBOLS["kl_position_moment"] / 2,
    prove=_prove_future_total,
    assumes="R in [0, 1]; pi << mu",
    source="trbounds",
)
