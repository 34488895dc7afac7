"""Whole sequences: ``TV = P_full(some token pruned) = 1 - E_pruned[prod_t Z(c_t)]``.

It bounds the bias of the objective, ``|J(pruned) - J(full)| <= TV`` for rewards in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``1 - E_pruned[prod Z]``."""
    return 1.0 - c.kept_product


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import PRUNING_SYMBOLS, SEQUENCE_TV
    from trbounds.symbolic import Statement

    return Statement(SEQUENCE_TV.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Never-pruned sequences gain; each has the ratio 1 over the product of its kept masses."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import SEQUENCE_TV, sequence_bias

    return Chain(LAW.title, sequence_bias).by(SEQUENCE_TV).end(statement().value)


LAW = PruningLaw(
    key="sequence_tv",
    title="TV of pruned sequences",
    source=SOURCE,
    quantity="TV(P_pruned, P_full) of whole sequences",
    requires=("kept_product",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=40,
    assumes=(RENORMALISED,),
    exact=True,
)
