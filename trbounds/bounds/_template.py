"""Template: copy to ``KEY.py``, fill in, delete what does not apply. The file is the whole change.

The module's first line states the bound. A test copies this template as it stands and runs the
contract on it, so what is here always works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1], on any array namespace (``p.xp``); fields are float64 arrays."""
    return 4 * p.T * p.tv_max


def statement() -> Statement:
    """The same value in sympy, in the symbols of the profile's fields."""
    from trbounds.symbolic import SYMBOLS, Statement, T

    return Statement(4 * T * SYMBOLS["tv_max"])


def derive() -> Derivation:
    """One line on the idea of the proof; then the chain from |Error| to the statement."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.lemmas.inequalities import CAP, UNCAP, capped
    from trbounds.symbolic import SYMBOLS, error, t

    eps = SYMBOLS["tv_max"]
    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION).by(policies.ADVANTAGE).by(shifts.SHIFT_BY_TV)
    chain.by(UNCAP, {capped: eps}).by(CAP, {capped: (t - 1) * eps})
    chain.equal(statement().value, "a constant summed T times")
    return chain.end(statement().value)


BOUND = Bound(
    key="_template",  # the file's name
    title="Template",
    source=Source("trbounds", ""),  # or Source("TRM v2", "theorem")
    requires=("tv_max",),  # fields of the completed profile
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1,  # power of T with every other quantity fixed and small
    rank=100,  # place in lists
)
