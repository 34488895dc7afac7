"""Classical bound: ``|Error| <= 2 T (T - 1) eps^2``, in the largest TV alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: two factors, as the square of a small TV would underflow."""
    return 2 * (p.T * p.tv_max) * ((p.T - 1) * p.tv_max)


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement, T

    return Statement(2 * T * (T - 1) * SYMBOLS["tv_max"] ** 2)


def derive() -> Derivation:
    """Performance difference, advantage, and contexts that drift by eps a token."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.inequalities import SUM_OF_POSITIONS, UNCAP, capped
    from trbounds.symbolic import SYMBOLS, T, error, t

    eps = SYMBOLS["tv_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_TV)
    chain.by(UNCAP, {capped: eps}).by(UNCAP, {capped: (t - 1) * eps})
    chain.equal(4 * eps**2 * sp.Sum(t - 1, (t, 1, T)), "constants leave the sum")
    chain.by(SUM_OF_POSITIONS)
    return chain.end(statement().value)


BOUND = Bound(
    key="classical",
    title="Classical",
    source=Source("TRM v2", "section 3.1"),
    requires=("tv_max",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=2,
    rank=10,
    halves=True,
)
