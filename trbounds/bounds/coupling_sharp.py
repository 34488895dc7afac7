"""Sharp coupling bound: ``2 eps sum_t (1 - (1-eps)^(t-1))``, a closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.numerics import power_excess

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.oracle import TabularPair
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: ``2 ((1-eps)^T - 1 + T eps)`` without its cancellation."""
    return 2 * power_excess(-p.tv_max, p.T, xp=p.xp)


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement, T

    eps = SYMBOLS["tv_max"]
    return Statement(2 * ((1 - eps) ** T - 1 + T * eps))


def derive() -> Derivation:
    """Centred reward; contexts overlap in at least ``(1-eps)^(t-1)`` of their mass."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.positions import GEOMETRIC_SUM, excess
    from trbounds.symbolic import SYMBOLS, T, error, t

    eps = SYMBOLS["tv_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION_CENTRED).by(policies.ADVANTAGE_CENTRED)
    chain.by(shifts.SHIFT_SHARP)
    chain.equal(
        2 * sp.Sum(-eps * ((1 - eps) ** (t - 1) - 1), (t, 1, T)), "the sign and the 2 written apart"
    )
    chain.by(GEOMETRIC_SUM, {excess: -eps})
    return chain.end(statement().value)


def attained() -> TabularPair:
    """Two steps of a coin whose ratio is ``1 + 2 eps`` or ``1 - 2 eps``: ``|Error| = 2 eps^2``."""
    from trbounds.oracle import two_step_tight

    return two_step_tight(0.25)


BOUND = Bound(
    key="coupling_sharp",
    title="Coupling, sharp",
    source=Source("trbounds", "sharp context shift"),
    requires=("tv_max",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=2,
    rank=50,
    attained=attained,
)
