"""Two policies pruned to one set: ``KL(mu_S, pi_S) <= KL(mu, pi)/Z_mu``. It may rise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws._source import RENORMALISED, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: PruningCase) -> Any:
    """``KL/Z_mu``."""
    return c.kl / (1.0 - c.pruned_mass)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.pruning import COMMON_SET_KL, PRUNING_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(COMMON_SET_KL.right, symbols=PRUNING_SYMBOLS)


def derive() -> Derivation:
    """Chain rule over the set and its complement."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.pruning import COMMON_SET_KL, pruned_kl_common

    return Chain(LAW.title, pruned_kl_common).by(COMMON_SET_KL).end(statement().value)


LAW = PruningLaw(
    key="common_set_kl",
    title="KL of two policies pruned to one set",
    source=SOURCE,
    quantity="KL(rollout, train) after pruning both to one set",
    requires=("kl", "pruned_mass"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=70,
    assumes=(RENORMALISED, "pruned_mass is what the rollout policy loses"),
)
