"""Mixed bound: a token KL for the advantage, the sequence KL for the contexts, ``O(T)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Relaxation, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]."""
    return 4 * p.T * p.tv_from_kl(p.kl_max) * p.tv_from_kl(p.kl_seq)


def relaxed(p: DivergenceProfile) -> Any:
    """``2 T sqrt(delta D)``: the caps dropped."""
    return 2 * p.T * p.xp.sqrt(p.kl_max) * p.xp.sqrt(p.kl_seq)


def statement() -> Statement:
    """The bound in sympy, with its relaxed form."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T

    delta, D = SYMBOLS["kl_max"], SYMBOLS["kl_seq"]
    return Statement(
        4 * T * sp.Min(1, sp.sqrt(delta / 2)) * sp.Min(1, sp.sqrt(D / 2)),
        relaxed=2 * T * sp.sqrt(delta) * sp.sqrt(D),
    )


def derive() -> Derivation:
    """Every context shift is at most that of the whole sequence."""
    import sympy as sp

    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.divergences import PINSKER, kl, tv
    from trbounds.lemmas.inequalities import UNCAP, capped
    from trbounds.symbolic import SYMBOLS, error

    eps, delta, D = SYMBOLS["tv_max"], SYMBOLS["kl_max"], SYMBOLS["kl_seq"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE)
    chain.by(PINSKER, {tv: eps, kl: delta}).by(shifts.SHIFT_BY_SEQUENCE_KL)
    chain.equal(statement().value, "a constant summed T times")
    chain.end(statement().value)
    chain.by(UNCAP, {capped: sp.sqrt(delta / 2)}).by(UNCAP, {capped: sp.sqrt(D / 2)})
    return chain.end(statement().relaxed)


BOUND = Bound(
    key="mixed",
    title="Mixed",
    source=Source("TRM v2", "Mixed theorem"),
    requires=("kl_max", "kl_seq"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=21,
    halves=True,
    relaxed=Relaxation(
        text="2 T sqrt(kl_max kl_seq); no cap binds when both are at most 2",
        formula=relaxed,
    ),
)
