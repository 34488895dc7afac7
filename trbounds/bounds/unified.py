"""Unified bound: the smallest of the papers' bounds that the profile allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.bounds import (
    adaptive,
    adaptive_hybrid,
    adaptive_tv,
    coupling,
    mixed,
    mixed_tv,
    pinsker_marginal,
    pinsker_marginal_tv,
)

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


_ALWAYS = (pinsker_marginal, mixed, pinsker_marginal_tv, mixed_tv, coupling)
_WITH_POSITIONS = (adaptive_hybrid, adaptive, adaptive_tv)


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; the Adaptive bounds take part where ``tv_mean`` is known."""
    parts = _ALWAYS if p.tv_mean is None else (*_ALWAYS, *_WITH_POSITIONS)
    value = parts[0].formula(p)
    for part in parts[1:]:
        value = p.xp.minimum(value, part.formula(p))
    return value


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import Statement

    return Statement(
        sp.Min(*(part.statement().value for part in (*_ALWAYS, *_WITH_POSITIONS)), evaluate=False)
    )


def derive() -> Derivation:
    """Each part bounds the same |Error|, hence so does the smallest."""
    import sympy as sp

    from trbounds.derivation import Certificate, Derivation, Step, all_steps
    from trbounds.lemmas.inequalities import BELOW_BOTH
    from trbounds.symbolic import error

    steps = [
        Step(
            sp.Le(error, part.statement().value, evaluate=False),
            f"the bound '{part.BOUND.key}', with its own derivation",
            all_steps(part.derive()),
        )
        for part in (*_ALWAYS, *_WITH_POSITIONS)
    ]
    smallest = statement().value

    def each_is_proved() -> Certificate:
        proved = {step.claim.rhs for step in steps}
        ok = set(smallest.args) == proved and BELOW_BOTH.certificate().ok
        said = "are" if ok else "are not"
        return Certificate(
            ok, "lemma", f"its {len(smallest.args)} parts {said} the right sides above"
        )

    last = Step(
        sp.Le(error, smallest, evaluate=False), BELOW_BOTH.title, each_is_proved, BELOW_BOTH
    )
    return Derivation(BOUND.title, (*steps, last))


BOUND = Bound(
    key="unified",
    title="Unified",
    source=Source("TRM v3", "the minimum of all (of three in v2)"),
    requires=("kl_max", "kl_seq", "tv_max", "tv_seq"),
    uses=("tv_mean",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,
    rank=40,
    halves=True,
)
