"""Centred adaptive bound: ``2 sum_t Dbar_t min(1, (T-t) eps, sqrt((T-t) delta/2))``."""

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
    left = remaining(p)
    future = p.xp.minimum(left * p.tv_max[..., None], p.tv_from_kl(left * p.kl_max[..., None]))
    return 2 * p.xp.sum(p.tv_mean * future, axis=-1)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    by_tv = (T - t) * SYMBOLS["tv_max"]
    future = sp.Min(1, by_tv, sp.sqrt((T - t) * SYMBOLS["kl_max"] / 2))
    return Statement(sp.Sum(2 * SYMBOLS["tv_mean"][t] * future, (t, 1, T)))


def derive() -> Derivation:
    """Each token's own divergence against the smaller of both bounds on its future."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.FUTURE_DECOMPOSITION).by(shifts.FUTURE_BY_BOTH)
    return chain.end(statement().value)


BOUND = Bound(
    key="adaptive_centred",
    title="Adaptive, centred",
    source=Source("trbounds", "centred reward"),
    requires=("tv_mean", "tv_max", "kl_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=52,
)
