"""Coupling bound: ``4 min(1, eps) sum_t min(1, (t-1) eps)``, in the largest TV alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: the sum splits where (t-1) eps passes 1."""
    xp, eps = p.xp, p.tv_max
    below = xp.minimum(p.T - 1, xp.floor(1 / xp.maximum(eps, xp.full_like(eps, 1e-300))))
    return 4 * eps * (eps * below * (below + 1) / 2 + (p.T - 1 - below))


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    eps = SYMBOLS["tv_max"]
    return Statement(sp.Sum(4 * sp.Min(1, eps) * sp.Min(1, (t - 1) * eps), (t, 1, T)))


def derive() -> Derivation:
    """As the classical bound, with the caps kept."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_TV)
    return chain.end(statement().value)


BOUND = Bound(
    key="coupling",
    title="Coupling",
    source=Source("TRM v3", "TV routes"),
    requires=("tv_max",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=2,
    rank=32,
    halves=True,
)
