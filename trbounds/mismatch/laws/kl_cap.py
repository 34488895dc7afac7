"""Largest KL of one step: ``a^2/2`` (Hoeffding), approached as a goes to 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``a^2/2``."""
    return c.logit_error * c.logit_error / 2.0


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS
    from trbounds.lemmas.softmax_divergences import KL_CAP
    from trbounds.symbolic import Statement

    return Statement(KL_CAP.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """Taylor with the variance of e as second derivative, at most a^2."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.softmax_divergences import KL_CAP, kl_step

    return Chain(LAW.title, kl_step).by(KL_CAP).end(statement().value)


LAW = MismatchLaw(
    key="kl_cap",
    title="Largest KL of one step",
    source=SOURCE,
    quantity="KL(p, q)",
    requires=("logit_error",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=50,
    assumes=(BOUNDED_ERROR,),
)
