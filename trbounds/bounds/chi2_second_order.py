"""Second-order chi2 bound: ``sqrt(v ((1+kappa)^T - 1 - T kappa))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.numerics import root_power_excess
from trbounds.special import root_times

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.oracle import TabularPair
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1], without the cancellation and underflow of the square."""
    return root_times(p.unit_reward_var, root_power_excess(p.chi2_max, p.T, xp=p.xp))


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T

    kappa = SYMBOLS["chi2_max"]
    return Statement(sp.sqrt(SYMBOLS["reward_var"] * ((1 + kappa) ** T - 1 - T * kappa)))


def derive() -> Derivation:
    """W - 1 - M is a martingale; its increments grow with the second moment of W."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import second_order as lemma
    from trbounds.lemmas.positions import GEOMETRIC_SUM, excess
    from trbounds.symbolic import SYMBOLS, T, error, s, t

    kappa, by_position = SYMBOLS["chi2_max"], SYMBOLS["chi2_position_max"]
    chain = Chain(BOUND.title, error)
    chain.by(lemma.ERROR_BY_RESIDUAL).by(lemma.RESIDUAL_SQUARE)
    chain.by(
        lemma.RESIDUAL_BY_POSITIONS,
        {by_position[t]: kappa, by_position[s]: kappa},
        "chi2 is at most kappa at every position",
    )
    growth = sp.Sum(kappa * ((1 + kappa) ** (t - 1) - 1), (t, 1, T))
    chain.equal(sp.sqrt(SYMBOLS["reward_var"] * growth), "a product of t - 1 equal factors")
    chain.by(GEOMETRIC_SUM, {excess: kappa})
    return chain.end(statement().value)


def attained() -> TabularPair:
    """Two steps of a coin whose ratio is ``1 + s`` or ``1 - s``: ``|Error| = s^2 / 2``."""
    from trbounds.oracle import two_valued_ratio

    return two_valued_ratio(0.5, 2)


BOUND = Bound(
    key="chi2_second_order",
    title="Second-order chi2",
    source=Source("trbounds", "second moment of W - 1 - M"),
    requires=("chi2_max", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=56,
    attained=attained,
)
