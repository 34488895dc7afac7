"""Largest chi2 of one step: ``sinh(a)^2``, attained by two tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw, Perturbation
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``sinh(a)^2``; inf beyond a = 354."""
    xp = c.xp
    beyond = c.logit_error > 354.0
    rise = xp.sinh(xp.where(beyond, xp.zeros_like(c.logit_error), c.logit_error))
    return xp.where(beyond, xp.full_like(rise, math.inf), rise * rise)


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS
    from trbounds.lemmas.softmax_divergences import CHI2_CAP
    from trbounds.symbolic import Statement

    return Statement(CHI2_CAP.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """Kantorovich's inequality: a square."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.softmax_divergences import CHI2_CAP, chi2_step

    return Chain(LAW.title, chi2_step).by(CHI2_CAP).end(statement().value)


def attained() -> Perturbation:
    """Two tokens of which the one that gains has mass e^(-a)/(e^a + e^(-a))."""
    a = 0.5
    small = math.exp(-a) / (2.0 * math.cosh(a))
    return Perturbation((small, 1.0 - small), (a, -a))


LAW = MismatchLaw(
    key="chi2_cap",
    title="Largest chi2 of one step",
    source=SOURCE,
    quantity="chi2(q, p)",
    requires=("logit_error",),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=60,
    assumes=(BOUNDED_ERROR,),
    attained=attained,
)
