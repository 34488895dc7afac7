"""Whole sequences, from the largest pruned mass: ``TV <= 1 - (1-b)^T <= T b``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``1 - (1-b)^T``."""
    return -c.xp.expm1(c.T * c.xp.log1p(-c.pruned_mass_max))


def relaxed(c: PruningCase) -> Any:
    """``T b``."""
    return c.T * c.pruned_mass_max


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import HORIZON, HORIZON_LINEAR, PRUNING_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(HORIZON.right, relaxed=HORIZON_LINEAR.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Every kept mass is at least 1 - b; then Bernoulli's inequality."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import HORIZON, HORIZON_LINEAR, sequence_bias

    chain = Chain(LAW.title, sequence_bias).by(HORIZON)
    chain.end(statement().value)
    return chain.by(HORIZON_LINEAR).end(statement().relaxed)


LAW = PruningLaw(
    key="horizon",
    title="The largest pruned mass at every step",
    source=SOURCE,
    quantity="TV(P_pruned, P_full) of whole sequences",
    requires=("T", "pruned_mass_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=60,
    assumes=(RENORMALISED,),
    relaxed=relaxed,
)
