"""Cauchy-Schwarz adaptive bound: ``sqrt(D delta T (T-1) / 2)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; the roots apart, so that no product leaves the range."""
    xp = p.xp
    return xp.sqrt(p.kl_seq) * xp.sqrt(p.kl_max) * xp.sqrt(p.T * (p.T - 1) / 2)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T

    return Statement(sp.sqrt(SYMBOLS["kl_seq"] * SYMBOLS["kl_max"] * T * (T - 1) / 2))


def derive() -> Derivation:
    """The adaptive bound through Pinsker, summed by Cauchy-Schwarz."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.inequalities import CAUCHY_SCHWARZ, UNCAP, capped
    from trbounds.lemmas.positions import MEAN_PINSKER, SUM_OF_REMAINING, TOTAL_KL
    from trbounds.symbolic import SYMBOLS, T, error, t

    k, delta = SYMBOLS["kl_mean"], SYMBOLS["kl_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.FUTURE_DECOMPOSITION).by(shifts.FUTURE_BY_KL)
    chain.by(UNCAP, {capped: sp.sqrt((T - t) * delta / 2)}).by(MEAN_PINSKER)
    a, b = sp.IndexedBase("a", nonnegative=True), sp.IndexedBase("b", nonnegative=True)
    terms = {a[t]: sp.sqrt(k[t]), b[t]: sp.sqrt((T - t) * delta)}
    chain.by(CAUCHY_SCHWARZ, terms).by(TOTAL_KL)
    left = sp.Sum(T - t, (t, 1, T))
    chain.equal(sp.sqrt(SYMBOLS["kl_seq"] * delta * left), "a constant leaves the sum")
    chain.by(SUM_OF_REMAINING)
    return chain.end(statement().value)


BOUND = Bound(
    key="cauchy_schwarz",
    title="Cauchy-Schwarz adaptive",
    source=Source("trbounds", "Cauchy-Schwarz over positions"),
    requires=("kl_seq", "kl_max"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=53,
)
