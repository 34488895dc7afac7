"""Exact envelope: ``-log(p + (1-p) e^(2a)) <= Delta <= -log(p + (1-p) e^(-2a))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw, Perturbation
from trbounds.mismatch.laws._source import BOUNDED_ERROR, SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def upper(c: MismatchCase) -> Any:
    """Largest mismatch: the token gains a, every other token loses a."""
    xp, twice = c.xp, 2.0 * c.logit_error
    # log1p(u) while u stays away from -1, the sum of exponentials where it does not.
    u = c.one_minus_p * xp.expm1(-twice)
    near = u > -0.5
    direct = -xp.log1p(xp.where(near, u, xp.zeros_like(u)))
    logp, log_rest = xp.broadcast_arrays(c.logp, c.log1mp - twice)
    harmless = xp.zeros_like(logp)
    summed = xp.logaddexp(xp.where(near, harmless, logp), xp.where(near, harmless, log_rest))
    return xp.where(near, direct, -summed)


def lower(c: MismatchCase) -> Any:
    """Smallest mismatch: the token loses a, every other token gains a."""
    xp, twice = c.xp, 2.0 * c.logit_error
    # x = log((1-p) e^(2a)); where it is positive, log(p + e^x) = x + log(1 + p e^(-x)).
    x = c.log1mp + twice
    far = x > 0.0
    rise = c.one_minus_p * xp.expm1(xp.clip(twice, max=709.0))
    direct = xp.log1p(xp.where(far, xp.zeros_like(rise), rise))
    positive = xp.where(far, x, xp.ones_like(x))
    return -xp.where(far, positive + xp.log1p(c.p * xp.exp(-positive)), direct)


def statement() -> Statement:
    """Both sides in sympy."""
    from trbounds.lemmas.softmax import ENVELOPE_LOWER, ENVELOPE_UPPER, MISMATCH_SYMBOLS
    from trbounds.symbolic import Statement

    return Statement(ENVELOPE_UPPER.right, lower=-ENVELOPE_LOWER.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """The other tokens' weighted mean of exp(e_k - e_i) lies between exp(-2a) and exp(2a)."""
    from trbounds.derivation import Chain, Derivation
    from trbounds.lemmas import softmax as lemma

    above = Chain(LAW.title, lemma.delta).by(lemma.ENVELOPE_UPPER).end(statement().value)
    below = Chain(LAW.title, lemma.minus_delta).by(lemma.ENVELOPE_LOWER).end(-statement().lower)
    return Derivation(LAW.title, above.steps + below.steps)


def attained() -> Perturbation:
    """Two tokens, the first with a quarter of the mass: it gains a, the other loses a."""
    return Perturbation((0.25, 0.75), (0.5, -0.5))


LAW = MismatchLaw(
    key="envelope",
    title="Exact envelope of the mismatch",
    source=SOURCE,
    quantity="log q_i - log p_i",
    requires=("logit_error", "p"),
    formula=upper,
    lower=lower,
    statement=statement,
    derive=derive,
    rank=10,
    assumes=(BOUNDED_ERROR,),
    attained=attained,
)
