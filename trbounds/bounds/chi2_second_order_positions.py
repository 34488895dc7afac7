"""Second-order chi2 bound by position: ``sqrt(v (prod_t (1+kappa_t) - 1 - sum_t kappa_t))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.numerics import root_product_excess
from trbounds.special import root_times

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.oracle import TabularPair
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: a sum of non-negative terms over the positions."""
    return root_times(p.unit_reward_var, root_product_excess(p.chi2_position_max, xp=p.xp))


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    kappa = SYMBOLS["chi2_position_max"][t]
    excess = sp.Product(1 + kappa, (t, 1, T)) - 1 - sp.Sum(kappa, (t, 1, T))
    return Statement(sp.sqrt(SYMBOLS["reward_var"] * excess))


def derive() -> Derivation:
    """W - 1 - M is a martingale; its increments grow with the second moment of W."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import second_order as lemma
    from trbounds.lemmas.positions import PRODUCT_SUM, factor
    from trbounds.symbolic import SYMBOLS, error, s, t

    kappa = SYMBOLS["chi2_position_max"]
    chain = Chain(BOUND.title, error)
    chain.by(lemma.ERROR_BY_RESIDUAL).by(lemma.RESIDUAL_SQUARE).by(lemma.RESIDUAL_BY_POSITIONS)
    chain.by(PRODUCT_SUM, {factor[t]: kappa[t], factor[s]: kappa[s]})
    return chain.end(statement().value)


def attained() -> TabularPair:
    """Two steps of a coin whose ratio is ``1 + s`` or ``1 - s``: ``|Error| = s^2 / 2``."""
    from trbounds.oracle import two_valued_ratio

    return two_valued_ratio(0.5, 2)


BOUND = Bound(
    key="chi2_second_order_positions",
    title="Second-order chi2, by position",
    source=Source("trbounds", "second moment of W - 1 - M"),
    requires=("chi2_position_max", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=57,
    attained=attained,
)
