"""chi2-KL bound: ``sum_t sqrt(x_t min(1, sum_{s>t} k_s/2))``, from means alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.numerics import suffix_sums

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: one pass over the positions, from the last to the first."""
    future = p.tv_from_kl(suffix_sums(p.kl_mean, xp=p.xp))
    return p.xp.sum(p.xp.sqrt(p.chi2_mean) * future, axis=-1)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, s, t

    future = sp.Min(1, sp.Sum(SYMBOLS["kl_mean"][s], (s, t + 1, T)) / 2)
    return Statement(sp.Sum(sp.sqrt(SYMBOLS["chi2_mean"][t] * future), (t, 1, T)))


def derive() -> Derivation:
    """Each token's ratio against the change of its future, both in mean square."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import second_order as lemma
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(lemma.FUTURE_BY_CHI2).by(lemma.FUTURE_SQUARE_BY_POSITION)
    chain.fact(
        "with the sharp conversion, E_mu[h_t^2] <= TV(sum_{s>t} k_s)^2",
        "in the place of Pinsker: the mean square of a TV is at most its square at the mean KL",
        lemma.SHARP_SQUARE.certificate,
        lemma.SHARP_SQUARE,
    )
    return chain.end(statement().value)


BOUND = Bound(
    key="chi2_kl",
    title="chi2-KL",
    source=Source("trbounds", "Cauchy-Schwarz at each position"),
    requires=("chi2_mean", "kl_mean"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=60,
)
