"""First order of the envelope: ``2a (1 - p)``. Not a bound: the lower side exceeds it near p = 1.

The mismatch exceeds it by a factor of up to ``(e^(2a) - 1)/(2a)``, reached as p goes to 1. What
bounds ``|Delta|`` in terms of the unperturbed p alone is ``(e^(2a) - 1)(1 - p)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw, Perturbation
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``2a (1 - p)``."""
    return 2.0 * c.logit_error * c.one_minus_p


def relaxed(c: MismatchCase) -> Any:
    """``(e^(2a) - 1)(1 - p)``, which does bound ``|Delta|``; inf beyond a = 354."""
    xp, twice = c.xp, 2.0 * c.logit_error
    beyond = twice > 709.0
    rise = xp.expm1(xp.where(beyond, xp.zeros_like(twice), twice))
    return c.one_minus_p * xp.where(beyond, xp.full_like(rise, float("inf")), rise)


def statement() -> Statement:
    """Both forms in sympy."""
    from trbounds.lemmas.one_minus_p import FIRST_ORDER, WITHOUT_REMAINDER
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(FIRST_ORDER.right, relaxed=WITHOUT_REMAINDER.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """Slope of both envelopes at a = 0; then the form without remainder."""
    from trbounds.derivation import Chain, Derivation
    from trbounds.lemmas import one_minus_p as lemma

    first = Chain(LAW.title, lemma.first_order_part).by(lemma.FIRST_ORDER)
    whole = Chain(LAW.title, lemma.abs_delta).by(lemma.WITHOUT_REMAINDER)
    return Derivation(
        LAW.title,
        first.end(statement().value).steps + whole.end(statement().relaxed).steps,
    )


def counterexample() -> Perturbation:
    """A token with p = 1 - 2^-20 and a = 1: it loses 1, the other gains 1; exceeded 3.19 times."""
    return Perturbation((1.0 - 2.0**-20, 2.0**-20), (-1.0, 1.0))


LAW = MismatchLaw(
    key="first_order",
    title="First order of the envelope",
    source=SOURCE,
    quantity="|log q_i - log p_i|",
    requires=("logit_error", "p"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=30,
    assumes=(BOUNDED_ERROR,),
    remainder="O(a^2)",
    relaxed=relaxed,
    counterexample=counterexample,
)
