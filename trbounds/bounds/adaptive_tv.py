"""Adaptive bound in TV: ``4 sum_t Dbar_t min(1, (T-t) eps)``, from data."""

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
    xp = p.xp
    drift = remaining(p) * p.tv_max[..., None]
    future = xp.minimum(drift, xp.ones_like(drift))
    return 4 * p.xp.sum(p.tv_mean * future, axis=-1)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    future = sp.Min(1, (T - t) * SYMBOLS["tv_max"])
    return Statement(sp.Sum(4 * SYMBOLS["tv_mean"][t] * future, (t, 1, T)))


def derive() -> Derivation:
    """Each token's own divergence against the change of its future, token by token."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.FUTURE_DECOMPOSITION).by(shifts.FUTURE_BY_TV)
    chain.at_most(statement().value, "the paper's constant, twice as large")
    return chain.end(statement().value)


BOUND = Bound(
    key="adaptive_tv",
    title="Adaptive, TV",
    source=Source("TRM v3", "TV routes"),
    requires=("tv_mean", "tv_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=2,
    rank=33,
    halves=True,
)
