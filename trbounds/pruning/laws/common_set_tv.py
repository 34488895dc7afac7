"""Two policies pruned to one set: ``TV(mu_S, pi_S) <= TV(mu, pi)/max(Z_mu, Z_pi)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``TV/max(Z)``."""
    return c.tv / (1.0 - c.pruned_mass)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import COMMON_SET_TV, PRUNING_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(COMMON_SET_TV.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Token by token, with the larger kept mass."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import COMMON_SET_TV, pruned_tv_common

    return Chain(LAW.title, pruned_tv_common).by(COMMON_SET_TV).end(statement().value)


LAW = PruningLaw(
    key="common_set_tv",
    title="TV of two policies pruned to one set",
    source=SOURCE,
    quantity="TV(rollout, train) after pruning both to one set",
    requires=("tv", "pruned_mass"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=80,
    assumes=(RENORMALISED, "pruned_mass is the smaller of what the two policies lose"),
)
