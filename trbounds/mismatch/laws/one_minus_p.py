"""The (1 - p) law: ``|Delta| <= 2a (1 - min(p, q))``, from the mean value on the path p to q."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``2a (1 - min(p, q))``."""
    return 2.0 * c.logit_error * c.xp.maximum(c.one_minus_p, c.one_minus_q)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.one_minus_p import MEAN_VALUE
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(MEAN_VALUE.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """On the path, d log p_i moves by at most 2a (1 - p_i); concavity names the end point."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.one_minus_p import MEAN_VALUE, abs_delta

    return Chain(LAW.title, abs_delta).by(MEAN_VALUE).end(statement().value)


LAW = MismatchLaw(
    key="one_minus_p",
    title="The (1 - p) law",
    source=SOURCE,
    quantity="|log q_i - log p_i|",
    requires=("logit_error", "p", "q"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=20,
    assumes=(BOUNDED_ERROR,),
)
