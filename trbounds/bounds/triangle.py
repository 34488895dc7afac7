"""Triangle bound: ``V + sum_t Dbar_t``, the objective and the surrogate apart.

Neither part needs absolute continuity; without it the surrogate must count rewards from a
baseline within their range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import BASELINE_IN_RANGE, Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return p.tv_seq + p.tv_total


def statement() -> Statement:
    """The bound in sympy."""
    from trbounds.symbolic import SYMBOLS, Statement

    return Statement(SYMBOLS["tv_seq"] + SYMBOLS["tv_total"])


def derive() -> Derivation:
    """The objective changes by at most V, and the surrogate is at most the summed mean TV."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import martingales as lemma
    from trbounds.lemmas.policies import TOTAL_TV
    from trbounds.symbolic import SYMBOLS, T, error, t

    chain = Chain(BOUND.title, error)
    chain.by(lemma.ERROR_PARTS).by(lemma.OBJECTIVE_BY_TV).by(lemma.SURROGATE_BY_TV)
    doubled = sp.Sum(2 * SYMBOLS["tv_mean"][t], (t, 1, T))
    chain.equal(SYMBOLS["tv_seq"] + doubled / 2, "half of twice the sum")
    chain.by(TOTAL_TV)
    return chain.end(statement().value)


BOUND = Bound(
    key="triangle",
    title="Triangle",
    source=Source("trbounds", "objective and surrogate apart"),
    requires=("tv_seq", "tv_total"),
    assumes=(BASELINE_IN_RANGE,),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=54,
)
