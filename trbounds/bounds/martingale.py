"""Martingale bound: ``V + sqrt(v sum_t x_t)``, of order ``sqrt(T)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; the roots apart, so that no product leaves the range."""
    return p.tv_seq + p.xp.sqrt(p.unit_reward_var) * p.xp.sqrt(p.chi2_total)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(SYMBOLS["tv_seq"] + sp.sqrt(SYMBOLS["reward_var"] * SYMBOLS["chi2_total"]))


def derive() -> Derivation:
    """The surrogate pairs the increments of M with those of ``E_mu[R | c_t]``."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import martingales as lemma
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(lemma.ERROR_PARTS).by(lemma.OBJECTIVE_BY_TV).by(lemma.SURROGATE_BY_ADVANTAGES)
    chain.by(lemma.RATIO_SQUARE).by(lemma.TOTAL_VARIANCE)
    return chain.end(statement().value)


BOUND = Bound(
    key="martingale",
    title="Martingale",
    source=Source("trbounds", "orthogonal increments of M"),
    requires=("tv_seq", "chi2_total", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=55,
)
