"""Linear bound: ``|Error| <= 4 T eps``, with no use of how contexts drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.T * p.tv_max


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement, T

    return Statement(4 * T * SYMBOLS["tv_max"])


def derive() -> Derivation:
    """Performance difference and advantage; the contexts may differ entirely."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.inequalities import CAP, UNCAP, capped
    from trbounds.symbolic import SYMBOLS, error, t

    eps = SYMBOLS["tv_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_TV)
    chain.by(UNCAP, {capped: eps}).by(CAP, {capped: (t - 1) * eps})
    chain.equal(statement().value, "a constant summed T times")
    return chain.end(statement().value)


BOUND = Bound(
    key="linear",
    title="Linear",
    source=Source("TRM v2", "remark"),
    requires=("tv_max",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=11,
    halves=True,
)
