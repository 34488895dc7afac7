"""Pinsker-Marginal bound: Pinsker on the marginal of each context, ``O(T^1.5)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Relaxation, Source
from trbounds.special import sum_tv_from_kl

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.tv_from_kl(p.kl_max) * sum_tv_from_kl(p, p.T, p.kl_max)


def relaxed(p: DivergenceProfile) -> Any:
    """``(4/3) T^(3/2) delta``: the caps dropped and the sum replaced by the integral."""
    return p.T * p.xp.sqrt(p.T) * p.kl_max * (4 / 3)


def statement() -> Statement:
    """The bound in sympy, with its relaxed form."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, t

    delta = SYMBOLS["kl_max"]
    token = sp.Min(1, sp.sqrt(delta / 2))
    return Statement(
        sp.Sum(4 * token * sp.Min(1, sp.sqrt((t - 1) * delta / 2)), (t, 1, T)),
        relaxed=sp.Rational(4, 3) * T ** sp.Rational(3, 2) * delta,
    )


def derive() -> Derivation:
    """Performance difference, advantage and context shift, each through Pinsker."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.divergences import PINSKER, kl, tv
    from trbounds.lemmas.inequalities import ROOT_SUM, UNCAP, capped
    from trbounds.symbolic import SYMBOLS, T, error, t

    eps, delta = SYMBOLS["tv_max"], SYMBOLS["kl_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE)
    chain.by(PINSKER, {tv: eps, kl: delta}).by(shifts.SHIFT_BY_KL)
    chain.end(statement().value)
    chain.by(UNCAP, {capped: sp.sqrt(delta / 2)})
    chain.by(UNCAP, {capped: sp.sqrt((t - 1) * delta / 2)})
    chain.equal(2 * delta * sp.Sum(sp.sqrt(t - 1), (t, 1, T)), "constants leave the sum")
    chain.by(ROOT_SUM)
    return chain.end(statement().relaxed)


BOUND = Bound(
    key="pinsker_marginal",
    title="Pinsker-Marginal",
    source=Source("TRM v2", "Pinsker-Marginal theorem"),
    requires=("kl_max",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=20,
    halves=True,
    relaxed=Relaxation(
        text="(4/3) T^(3/2) kl_max; no cap binds when kl_max <= 2/T",
        formula=relaxed,
    ),
)
