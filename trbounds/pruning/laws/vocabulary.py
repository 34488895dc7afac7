"""One step, at worst: ``1 - Z <= (n-1) tau/(1 + (n-1) tau)`` for a vocabulary of n tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``(n-1) tau/(1 + (n-1) tau)``, approached when all others are just below the threshold."""
    most = (c.vocabulary - 1.0) * c.min_p
    return most / (1.0 + most)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import PRUNING_SYMBOLS, VOCABULARY
    from trbounds.symbolic import Statement

    return Statement(VOCABULARY.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """At most n - 1 tokens, each below tau times the likeliest."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import VOCABULARY, token_bias

    return Chain(LAW.title, token_bias).by(VOCABULARY).end(statement().value)


LAW = PruningLaw(
    key="vocabulary",
    title="Largest pruned mass of a vocabulary",
    source=SOURCE,
    quantity="TV(pruned, full) of one step",
    requires=("vocabulary", "min_p"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=30,
    assumes=(RENORMALISED,),
)
