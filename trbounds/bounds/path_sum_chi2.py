"""Path-sum chi2: ``sqrt(v (e^X - 1 - X))``, X the largest sum of chi2 along a response.

Second order, with no horizon and no maximum over tokens: it can certify an improvement. Capping
the sum of chi2 of every response at x caps the error at about ``x sqrt(v/2)``, at any length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import root_exp_excess, root_times

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; infinite for X beyond 1400."""
    return root_times(p.unit_reward_var, root_exp_excess(p.chi2_path_max, xp=p.xp))


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement

    X = SYMBOLS["chi2_path_max"]
    return Statement(sp.sqrt(SYMBOLS["reward_var"] * (sp.exp(X) - 1 - X)))


def derive() -> Derivation:
    """Error as a covariance with W - 1 - M, whose square a potential along the response bounds."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.path_sums import PATH_POTENTIAL
    from trbounds.lemmas.second_order import ERROR_BY_RESIDUAL, RESIDUAL_SQUARE
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(ERROR_BY_RESIDUAL).by(RESIDUAL_SQUARE).by(PATH_POTENTIAL)
    return chain.end(statement().value)


BOUND = Bound(
    key="path_sum_chi2",
    title="Path-sum chi2",
    source=Source("trbounds", "potential of the sum of chi2 along a response"),
    requires=("chi2_path_max", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=64,
)
