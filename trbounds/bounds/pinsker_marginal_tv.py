"""Pinsker-Marginal bound with a TV prefactor: ``4 eps sum_t min(1, sqrt((t-1) delta/2))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import sum_tv_from_kl

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.tv_max * sum_tv_from_kl(p, p.T, p.kl_max)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    eps, delta = SYMBOLS["tv_max"], SYMBOLS["kl_max"]
    return Statement(
        sp.Sum(4 * sp.Min(1, eps) * sp.Min(1, sp.sqrt((t - 1) * delta / 2)), (t, 1, T))
    )


def derive() -> Derivation:
    """Performance difference and advantage in TV; the context shift through Pinsker."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_KL)
    return chain.end(statement().value)


BOUND = Bound(
    key="pinsker_marginal_tv",
    title="Pinsker-Marginal, TV",
    source=Source("TRM v3", "TV routes"),
    requires=("tv_max", "kl_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=30,
    halves=True,
)
