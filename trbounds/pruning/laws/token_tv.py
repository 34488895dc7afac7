"""One step: ``TV(pruned, full) = 1 - Z``, the pruned mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``1 - Z``."""
    return c.pruned_mass


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import PRUNING_SYMBOLS, TOKEN_TV
    from trbounds.symbolic import Statement

    return Statement(TOKEN_TV.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Kept tokens gain what pruned ones lose."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import TOKEN_TV, token_tv

    return Chain(LAW.title, token_tv).by(TOKEN_TV).end(statement().value)


LAW = PruningLaw(
    key="token_tv",
    title="TV of one pruned step",
    source=SOURCE,
    quantity="TV(pruned, full) of one step",
    requires=("pruned_mass",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=10,
    assumes=(RENORMALISED,),
    exact=True,
)
