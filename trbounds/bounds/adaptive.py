"""Adaptive bound: ``4 sum_t Dbar_t min(1, sqrt((T-t) delta/2))``, from data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import remaining

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: one pass over the positions."""
    future = p.tv_from_kl(remaining(p) * p.kl_max[..., None])
    return 4 * p.xp.sum(p.tv_mean * future, axis=-1)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    future = sp.Min(1, sp.sqrt((T - t) * SYMBOLS["kl_max"] / 2))
    return Statement(sp.Sum(4 * SYMBOLS["tv_mean"][t] * future, (t, 1, T)))


def derive() -> Derivation:
    """Each token's own divergence against the change of its future, through Pinsker."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.FUTURE_DECOMPOSITION).by(shifts.FUTURE_BY_KL)
    chain.at_most(statement().value, "the paper's constant, twice as large")
    return chain.end(statement().value)


BOUND = Bound(
    key="adaptive",
    title="Adaptive",
    source=Source("TRM v2", "Adaptive theorem"),
    requires=("tv_mean", "kl_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=22,
    halves=True,
)
