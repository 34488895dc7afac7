"""Prefix profile: ``2 eps sum_t min(1, sum_{s<t} Dbar_s, sqrt(sum_{s<t} k_s/2))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.numerics import prefix_sums

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]; without ``kl_mean`` the TVs alone bound the shift."""
    xp = p.xp
    by_tv = prefix_sums(p.tv_mean, xp=xp)
    shift = xp.minimum(by_tv, xp.ones_like(by_tv))
    if p.kl_mean is not None:
        shift = xp.minimum(shift, p.tv_from_kl(prefix_sums(p.kl_mean, xp=xp)))
    return 2 * p.tv_max * xp.sum(shift, axis=-1)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.symbolic import SYMBOLS, Statement, T, s, t

    by_tv = sp.Sum(SYMBOLS["tv_mean"][s], (s, 1, t - 1))
    by_kl = sp.sqrt(sp.Sum(SYMBOLS["kl_mean"][s], (s, 1, t - 1)) / 2)
    return Statement(sp.Sum(2 * SYMBOLS["tv_max"] * sp.Min(1, by_tv, by_kl), (t, 1, T)))


def derive() -> Derivation:
    """Centred reward; contexts shift by no more than the divergences before them."""
    from trbounds.derivation import Chain
    from trbounds.lemmas import policies, shifts
    from trbounds.symbolic import error

    chain = Chain(BOUND.title, error)
    chain.by(policies.CONTEXT_DECOMPOSITION_CENTRED).by(policies.ADVANTAGE_CENTRED)
    chain.by(shifts.SHIFT_BY_PREFIX)
    return chain.end(statement().value)


BOUND = Bound(
    key="prefix_profile",
    title="Prefix profile",
    source=Source("trbounds", "context shift from measured prefixes"),
    requires=("tv_max", "tv_mean"),
    uses=("kl_mean",),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=1.5,
    rank=51,
)
