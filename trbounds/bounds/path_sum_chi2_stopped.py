"""Path-sum chi2, stopped at a budget x that a few responses exceed.

``sqrt(v (e^x - 1 - x)) + P_pi(tau <= T) + sqrt(v E_mu sum_{t>=tau} chi2(c_t))``, tau the first
step at which the running sum of chi2 would exceed x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import root_exp_excess, root_times

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; infinite for a budget beyond 1400."""
    v = p.unit_reward_var
    kept = root_times(v, root_exp_excess(p.chi2_stop_budget, xp=p.xp))
    return kept + p.chi2_stop_prob + p.xp.sqrt(v) * p.xp.sqrt(p.chi2_stop_tail)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement

    x, v = SYMBOLS["chi2_stop_budget"], SYMBOLS["reward_var"]
    return Statement(
        sp.sqrt(v * (sp.exp(x) - 1 - x))
        + SYMBOLS["chi2_stop_prob"]
        + sp.sqrt(v * SYMBOLS["chi2_stop_tail"])
    )


def derive() -> Derivation:
    """The path-sum bound for the stopped policy, and what stopping leaves out."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import path_sums as lemma
    from trbounds.lemmas.martingales import (
        RATIO_SQUARE,
        SURROGATE_BY_ADVANTAGES,
        TOTAL_VARIANCE,
        ratio_square,
        surrogate,
    )
    from trbounds.lemmas.second_order import ERROR_BY_RESIDUAL, RESIDUAL_SQUARE, weighted_residual
    from trbounds.symbolic import SYMBOLS, error

    square, spread = lemma.residual_square_stopped, lemma.weighted_residual_stopped
    chain = Chain(BOUND.title, error)
    chain.by(lemma.STOPPING)
    chain.by(
        ERROR_BY_RESIDUAL,
        {error: lemma.error_stopped, SYMBOLS["residual_square"]: square},
        "for the stopped policy: " + ERROR_BY_RESIDUAL.title,
    )
    chain.by(
        RESIDUAL_SQUARE,
        {SYMBOLS["residual_square"]: square, weighted_residual: spread},
        "for the stopped policy: " + RESIDUAL_SQUARE.title,
    )
    chain.by(
        lemma.PATH_POTENTIAL,
        {weighted_residual: spread, SYMBOLS["chi2_path_max"]: SYMBOLS["chi2_stop_budget"]},
        "for the stopped policy, whose sums stay within the budget: " + lemma.PATH_POTENTIAL.title,
    )
    chain.by(lemma.OBJECTIVE_AFTER_STOP)
    chain.by(
        SURROGATE_BY_ADVANTAGES,
        {surrogate: lemma.surrogate_after_stop, ratio_square: lemma.ratio_square_after_stop},
        "for the policy that is mu before tau and pi from there on: "
        + SURROGATE_BY_ADVANTAGES.title,
    )
    chain.by(
        RATIO_SQUARE,
        {
            ratio_square: lemma.ratio_square_after_stop,
            SYMBOLS["chi2_total"]: SYMBOLS["chi2_stop_tail"],
        },
        "for the same policy: " + RATIO_SQUARE.title,
    )
    chain.by(TOTAL_VARIANCE)
    return chain.end(statement().value)


BOUND = Bound(
    key="path_sum_chi2_stopped",
    title="Path-sum chi2, stopped",
    source=Source("trbounds", "potential of the sum of chi2, stopped at a budget"),
    requires=("chi2_stop_budget", "chi2_stop_prob", "chi2_stop_tail", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=65,
)
