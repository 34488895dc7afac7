"""Path-sum KL: second order in K, the largest sum of KL along a response, and in nothing else.

``inf_{c > 0} [sqrt(v (e^{aK} - 1 - aK)) + b K (sqrt(e^{aK} - 1) + sqrt(2 K))]`` with
``a = c^2/phi(c)``, ``b = c/phi(c)`` and ``phi(c) = c - log(1 + c)``; about ``2 K sqrt(v/2)`` for
small K. No horizon, no maximum over tokens, no chi2: it can certify an improvement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import golden_section, phi, root_exp_excess, root_times

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement

# Infinite in floats beyond these.
_LARGEST, _LARGEST_BUDGET = 1e3, 1350.0


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: minimised over log c; infinite for K beyond about 700."""
    xp, v = p.xp, p.unit_reward_var
    known = p.kl_path_max > 0
    K, v = xp.broadcast_arrays(
        xp.where(known, xp.clip(p.kl_path_max, None, _LARGEST), xp.ones_like(p.kl_path_max)), v
    )

    def value(log_cut: Any) -> Any:
        cut = xp.exp(log_cut)
        divisor = phi(cut, xp=xp)
        budget, tail = cut * cut / divisor * K, cut / divisor * K
        kept = root_times(v, root_exp_excess(budget, xp=xp), xp=xp)
        fits = budget < _LARGEST_BUDGET
        inside = xp.where(fits, budget, xp.ones_like(budget))
        gap = xp.exp(inside / 2) * xp.sqrt(-xp.expm1(-inside))
        gap = xp.where(fits, gap, xp.full_like(gap, float("inf")))
        return kept + tail * (gap + xp.sqrt(2 * K))

    # The minimum lies near (K/v)^(1/4) for small K, near 3/(2K) for large K, and is at most 7.
    about = xp.clip(K, 1e-300, None)  # reciprocals of subnormal numbers overflow
    ratio = about / xp.maximum(v, 1e-3 * about)
    near = xp.minimum(2.5 * xp.sqrt(xp.sqrt(ratio)), xp.minimum(1.5 / about, xp.full_like(K, 4.0)))
    middle = xp.log(near)
    least = golden_section(value, middle - 1.5, middle + 1.5, xp=xp)
    return xp.where(known, least, xp.zeros_like(least))


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.lemmas.conjugate import cut, large_factor, small_factor
    from trbounds.symbolic import SYMBOLS, Infimum, Statement

    K, v = SYMBOLS["kl_path_max"], SYMBOLS["reward_var"]
    budget = small_factor * K
    kept = sp.sqrt(v * (sp.exp(budget) - 1 - budget))
    tail = large_factor * K * (sp.sqrt(sp.exp(budget) - 1) + sp.sqrt(2 * K))
    return Statement(Infimum(kept + tail, cut, 0, sp.oo))


def derive() -> Derivation:
    """The path-sum chi2 bound for the policy with its ratios cut, and what the cut leaves out."""
    import sympy as sp

    from trbounds.derivation import Chain, Derivation, Step
    from trbounds.lemmas import cut as lemma
    from trbounds.lemmas.conjugate import below_infimum
    from trbounds.lemmas.path_sums import PATH_POTENTIAL
    from trbounds.lemmas.second_order import ERROR_BY_RESIDUAL, RESIDUAL_SQUARE, weighted_residual
    from trbounds.symbolic import SYMBOLS, error

    infimum = statement().value
    square, spread = lemma.residual_square_cut, lemma.weighted_residual_cut
    chain = Chain(BOUND.title, error)
    chain.by(lemma.CUT_PARTS)
    chain.by(
        ERROR_BY_RESIDUAL,
        {error: lemma.error_cut, SYMBOLS["residual_square"]: square},
        "for the cut policy: " + ERROR_BY_RESIDUAL.title,
    )
    chain.by(
        RESIDUAL_SQUARE,
        {SYMBOLS["residual_square"]: square, weighted_residual: spread},
        "for the cut policy: " + RESIDUAL_SQUARE.title,
    )
    chain.fact(
        "sum_t chi2_c(c_t) <= a K along every rollout",
        lemma.CUT_CHI2.title,
        lemma.CUT_CHI2.certificate,
        lemma.CUT_CHI2,
    )
    chain.by(
        PATH_POTENTIAL,
        {
            weighted_residual: spread,
            SYMBOLS["chi2_path_max"]: lemma.small * SYMBOLS["kl_path_max"],
        },
        "for the cut policy: " + PATH_POTENTIAL.title,
    )
    chain.by(lemma.SMALL_FACTOR)
    chain.by(lemma.TAIL_BY_WEIGHT).by(lemma.TAIL_BY_FUTURE)
    chain.equal(infimum.args[0], "for every c > 0")
    last = Step(
        sp.Le(error, infimum, evaluate=False),
        "the left side does not depend on c: it lies below the infimum",
        below_infimum(error, infimum),
    )
    return Derivation(BOUND.title, (*chain.end(infimum.args[0]).steps, last))


BOUND = Bound(
    key="path_sum_kl",
    title="Path-sum KL",
    source=Source("trbounds", "ratios cut, and the potential of the sum of chi2"),
    requires=("kl_path_max", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=66,
)
