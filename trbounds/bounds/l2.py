"""L2 bound: ``sqrt(v Q)``, the reward's variance against the residual's mean square."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.oracle import TabularPair
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; the roots apart, so that no product leaves the range."""
    return p.xp.sqrt(p.unit_reward_var) * p.xp.sqrt(p.residual_square)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(sp.sqrt(SYMBOLS["reward_var"] * SYMBOLS["residual_square"]))


def derive() -> Derivation:
    """The error is a covariance of the reward and W - 1 - M."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import second_order as lemma
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(lemma.ERROR_BY_RESIDUAL)
    return chain.end(statement().value)


def attained() -> TabularPair:
    """Two steps of a coin whose ratio is ``1 + s`` or ``1 - s``: ``|Error| = s^2 / 2``."""
    from trbounds.oracle import two_valued_ratio

    return two_valued_ratio(0.5, 2)


BOUND = Bound(
    key="l2",
    title="L2",
    source=Source("trbounds", "covariance of reward and residual"),
    requires=("residual_square", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=61,
    attained=attained,
)
