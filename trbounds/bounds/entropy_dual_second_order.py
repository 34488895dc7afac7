"""Second-order entropy dual: ``G(D, (1/2) sum_s (s-1) k_s)``, with no maximum over tokens."""

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
    return entropy_dual_gain(p.kl_seq, p.kl_position_moment / 2, xp=p.xp)


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.lemmas.conjugate import dual_gain
    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(dual_gain(SYMBOLS["kl_seq"], SYMBOLS["kl_position_moment"] / 2))


def derive() -> Derivation:
    """Duality between the KL and the change of the future, whose squares the KL bounds too."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import duality as lemma
    from trbounds.symbolic import SYMBOLS, error

    chain = Chain(BOUND.title, error)
    chain.by(lemma.FUTURE_PAIRING)
    chain.fact(
        "|h_t| <= 1",
        "a difference of two means of the reward",
        lemma.BOUNDED_DIFFERENCE.certificate,
        lemma.BOUNDED_DIFFERENCE,
    )
    chain.fact(
        "sum_t E_mu[h_t^2] <= (1/2) sum_s (s - 1) k_s",
        lemma.FUTURE_TOTAL.title,
        lemma.FUTURE_TOTAL.certificate,
        lemma.FUTURE_TOTAL,
    )
    chain.by(lemma.DUALITY, {lemma.second_moment: SYMBOLS["kl_position_moment"] / 2})
    return chain.end(statement().value)


BOUND = Bound(
    key="entropy_dual_second_order",
    title="Second-order entropy dual",
    source=Source("trbounds", "convex duality of KL against the change of the future"),
    requires=("kl_seq", "kl_position_moment"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=59,
)
