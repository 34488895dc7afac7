"""One step: ``KL(pruned, full) = -log Z``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``-log Z``."""
    return -c.xp.log1p(-c.pruned_mass)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import PRUNING_SYMBOLS, TOKEN_KL
    from trbounds.symbolic import Statement

    return Statement(TOKEN_KL.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Every kept token has the ratio 1/Z."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import TOKEN_KL, token_kl

    return Chain(LAW.title, token_kl).by(TOKEN_KL).end(statement().value)


LAW = PruningLaw(
    key="token_kl",
    title="KL of one pruned step",
    source=SOURCE,
    quantity="KL(pruned, full) of one step",
    requires=("pruned_mass",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=20,
    assumes=(RENORMALISED,),
    exact=True,
)
