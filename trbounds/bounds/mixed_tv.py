"""Mixed bound in TV: ``4 T min(1, eps) min(1, V)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.T * p.tv_max * p.tv_seq


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T

    return Statement(4 * T * sp.Min(1, SYMBOLS["tv_max"]) * sp.Min(1, SYMBOLS["tv_seq"]))


def derive() -> Derivation:
    """Every context shift is at most that of the whole sequence, in TV throughout."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_SEQUENCE_TV)
    chain.equal(statement().value, "a constant summed T times")
    return chain.end(statement().value)


BOUND = Bound(
    key="mixed_tv",
    title="Mixed, TV",
    source=Source("TRM v3", "TV routes"),
    requires=("tv_max", "tv_seq"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=31,
    halves=True,
)
