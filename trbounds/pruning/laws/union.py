"""Whole sequences: ``TV <= E_full[sum_t (1 - Z(c_t))]``, a mean over full rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``E_full[sum (1-Z)]``, which may exceed 1."""
    return c.pruned_mass_total


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import PRUNING_SYMBOLS, UNION
    from trbounds.symbolic import Statement

    return Statement(UNION.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """The probability that some token is pruned is at most the sum over tokens."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import UNION, sequence_bias

    return Chain(LAW.title, sequence_bias).by(UNION).end(statement().value)


LAW = PruningLaw(
    key="union",
    title="Union over the tokens",
    source=SOURCE,
    quantity="TV(P_pruned, P_full) of whole sequences",
    requires=("pruned_mass_total",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=50,
    assumes=(RENORMALISED,),
)
