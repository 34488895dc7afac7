"""Largest TV of one step: ``tanh(a/2)``, attained by two tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw, Perturbation
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``tanh(a/2)``."""
    return c.xp.tanh(c.logit_error / 2.0)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS
    from trbounds.lemmas.softmax_divergences import TV_CAP
    from trbounds.symbolic import Statement

    return Statement(TV_CAP.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """Merge the tokens that gain; the rest is a square."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.softmax_divergences import TV_CAP, tv_step

    return Chain(LAW.title, tv_step).by(TV_CAP).end(statement().value)


def attained() -> Perturbation:
    """Two tokens of which the one that gains has mass 1/(1 + e^a)."""
    a = 0.5
    small = 1.0 / (1.0 + math.exp(a))
    return Perturbation((small, 1.0 - small), (a, -a))


LAW = MismatchLaw(
    key="tv_cap",
    title="Largest TV of one step",
    source=SOURCE,
    quantity="TV(p, q)",
    requires=("logit_error",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=40,
    assumes=(BOUNDED_ERROR,),
    attained=attained,
)
