"""Entropy dual: ``min(V, G(D, v)) + G(D, v)``, from the sequence KL alone.

``G(D, v) = inf_{lambda > 1} [lambda D + v (-1 - lambda log(1 - 1/lambda))]``, about
``sqrt(2 D v)``: no maximum over tokens, no horizon. G bounds the surrogate as well as the change
of the objective, so this bound never certifies an improvement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import entropy_dual_gain

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1], by the closed form of G."""
    gain = entropy_dual_gain(p.kl_seq, p.unit_reward_var, xp=p.xp)
    return p.xp.minimum(p.tv_seq, gain) + gain


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.lemmas.conjugate import dual_gain
    from trbounds.symbolic import SYMBOLS, Statement

    gain = dual_gain(SYMBOLS["kl_seq"], SYMBOLS["reward_var"])
    return Statement(sp.Min(SYMBOLS["tv_seq"], gain) + gain)


def derive() -> Derivation:
    """Error is J(pi) - J(mu) less L'; convex duality bounds each of them by G."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import duality as lemma
    from trbounds.lemmas.conjugate import CLOSED_FORM
    from trbounds.lemmas.martingales import ERROR_PARTS, TOTAL_VARIANCE
    from trbounds.symbolic import SYMBOLS, error

    chain = Chain(BOUND.title, error)
    chain.by(ERROR_PARTS).by(lemma.OBJECTIVE_BY_DUALITY).by(lemma.SURROGATE_PAIRING)
    chain.fact(
        "|A_t| <= 1",
        "a difference of two means of the reward",
        lemma.BOUNDED_DIFFERENCE.certificate,
        lemma.BOUNDED_DIFFERENCE,
    )
    chain.fact(
        "sum_t E_mu[A_t^2] = v", "total variance", TOTAL_VARIANCE.certificate, TOTAL_VARIANCE
    )
    chain.by(lemma.DUALITY, {lemma.second_moment: SYMBOLS["reward_var"]})
    chain.fact(
        "G(D, v) = v w with w - log(1 + w) = D/v",
        "the infimum in closed form, by which it is evaluated",
        CLOSED_FORM.certificate,
        CLOSED_FORM,
    )
    return chain.end(statement().value)


BOUND = Bound(
    key="entropy_dual",
    title="Entropy dual",
    source=Source("trbounds", "convex duality of KL"),
    requires=("tv_seq", "kl_seq", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=58,
)
