"""Linear bound in data form: ``|Error| <= 4 sum_t Dbar_t``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.tv_total


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(4 * SYMBOLS["tv_total"])


def derive() -> Derivation:
    """Each token's ratio against a future that may differ entirely."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.inequalities import CAP, capped
    from trbounds.symbolic import SYMBOLS, T, error, t

    chain = Chain(BOUND.title, error)
    chain.by(policies.FUTURE_DECOMPOSITION)
    chain.by(shifts.FUTURE_BY_TV).by(CAP, {capped: (T - t) * SYMBOLS["tv_max"]})
    chain.by(policies.TOTAL_TV)
    chain.at_most(statement().value, "the paper's constant, twice as large")
    return chain.end(statement().value)


BOUND = Bound(
    key="linear_data",
    title="Linear, data form",
    source=Source("TRM v2", "remark"),
    requires=("tv_total",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=12,
    halves=True,
)
