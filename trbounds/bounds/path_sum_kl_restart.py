"""Path-sum KL with restarted weights: the sharper bound from sums of KL along a response.

``inf_{c > 0} sqrt(D (2K - D) (a q^2 + b^2 D/4))``, ``q = sqrt(v) + sqrt(D/2)``, with K the largest
and D the mean sum of KL along a response, ``a = c^2/phi(c)``, ``b = c/phi(c)`` and ``phi(c) = c -
log(1 + c)``. About ``sqrt(2 v D (2K - D))`` for small K, hence ``K sqrt(2v)`` at most: never above
``path_sum_kl``, without its exponential, and far below it where large sums are rare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.bound import Bound, Source
from trbounds.special import golden_section, phi

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.profile import DivergenceProfile
    from trbounds.symbolic import Statement


def formula(p: DivergenceProfile) -> Any:
    """Value for rewards in [0, 1]: minimised over log c."""
    xp = p.xp
    K = p.kl_path_max
    D = xp.minimum(p.kl_seq, K)
    q = xp.sqrt(p.unit_reward_var) + xp.sqrt(D / 2)
    # a q^2 + b^2 D/4 = q^2 (a + r b^2) with r from 0 to 1/2.
    share = xp.sqrt(D) / (2 * xp.where(q > 0, q, xp.ones_like(q)))
    r = xp.maximum(share * share, xp.full_like(share, 1e-200))

    def value(log_cut: Any) -> Any:
        cut = xp.exp(log_cut)
        b = cut / phi(cut, xp=xp)
        return b * (cut + r * b)

    # The minimum is near (6 r)^(1/3) for small r, and within a factor 2 of it for all.
    middle = xp.log(6 * r) / 3
    least = golden_section(value, middle - 0.8, middle + 0.8, xp=xp)
    return xp.sqrt(2 * D) * xp.sqrt(K - D / 2) * q * xp.sqrt(least)


def statement() -> Statement:
    """The bound in sympy."""
    import sympy as sp

    from trbounds.lemmas.conjugate import cut
    from trbounds.symbolic import SYMBOLS, Infimum, Statement

    spent = sp.Min(SYMBOLS["kl_seq"], SYMBOLS["kl_path_max"])
    return Statement(Infimum(_at_cut(spent), cut, 0, sp.oo))


def _at_cut(spent: Any) -> Any:
    """Value for one cut c, in sympy, `spent` in the place of D."""
    import sympy as sp

    from trbounds.lemmas.conjugate import large_factor, small_factor
    from trbounds.symbolic import SYMBOLS

    q = sp.sqrt(SYMBOLS["reward_var"]) + sp.sqrt(spent / 2)
    budget = spent * (2 * SYMBOLS["kl_path_max"] - spent)
    return sp.sqrt(budget * (small_factor * q**2 + large_factor**2 * spent / 4))


def derive() -> Derivation:
    """Weights restarted above 1 + c; each token by duality; a budget for what they add up to."""
    import sympy as sp

    from trbounds.derivation import Chain, Derivation, Step, all_of, identity
    from trbounds.lemmas import restarts as lemma
    from trbounds.lemmas.conjugate import below_infimum, large_factor, small_factor
    from trbounds.lemmas.cut import LARGE_FACTOR, SMALL_FACTOR, large, small
    from trbounds.symbolic import SYMBOLS, error

    K, v = SYMBOLS["kl_path_max"], SYMBOLS["reward_var"]
    a, b, z, spent = small, large, lemma.strength, lemma.mean_spent
    q = sp.sqrt(v) + sp.sqrt(spent / 2)
    chain = Chain(BOUND.title, error)
    chain.by(lemma.RESTART_PARTS)
    chain.by(
        lemma.RUNNING,
        {lemma.first_share: q / (z * sp.sqrt(v)), lemma.second_share: q / (z * sp.sqrt(spent / 2))},
        lemma.RUNNING.title + "; beta and eta with 1/beta + 1/eta = z (v may be raised to be "
        "positive, and D' too: both sides are continuous)",
    )
    chain.by(lemma.JUMPS)
    mass = b**2 / (4 * a * z)
    chain.equal(
        q**2 / z + a * z * lemma.budget_used / 2 + mass * lemma.restarted_mass,
        "q = sqrt(v) + sqrt(D'/2): v beta + D' eta/2 = q^2/z",
    )
    chain.by(lemma.RESTART_BUDGET).by(lemma.RESTARTED_MASS)
    chain.by(SMALL_FACTOR).by(LARGE_FACTOR)
    fixed = chain.end(chain.current)

    falling, rising = sp.symbols("P Q", positive=True)
    budget = spent * (2 * K - spent)
    last_falling = q**2 + large_factor**2 * spent / (4 * small_factor)
    last_rising = small_factor * budget / 4
    steps = (
        Step(
            sp.Le(error, _at_cut(spent), evaluate=False),
            "z > 0 was free: P/z + Q z = 2 sqrt(P Q) at z = sqrt(P/Q)",
            all_of(
                "identity",
                "P and Q, the minimum, its square",
                [
                    identity(chain.current, last_falling / z + last_rising * z),
                    identity(
                        (falling / z + rising * z).subs(z, sp.sqrt(falling / rising)),
                        2 * sp.sqrt(falling * rising),
                    ),
                    identity(4 * last_falling * last_rising, _at_cut(spent) ** 2),
                ],
            ),
        ),
        Step(
            sp.Le(error, statement().value.args[0], evaluate=False),
            "D' = min(D, K): the mean sum of KL is at most D, and at most the largest, K",
            identity(
                _at_cut(spent).xreplace({spent: sp.Min(SYMBOLS["kl_seq"], K)}),
                statement().value.args[0],
            ),
        ),
        Step(
            sp.Le(error, statement().value, evaluate=False),
            "the left side does not depend on c: it lies below the infimum",
            below_infimum(error, statement().value),
        ),
    )
    return Derivation(BOUND.title, (*fixed.steps, *steps))


BOUND = Bound(
    key="path_sum_kl_restart",
    title="Path-sum KL, restarted",
    source=Source("trbounds", "weights restarted above 1 + c, and token-wise duality"),
    requires=("kl_path_max", "kl_seq", "reward_var"),
    formula=formula,
    statement=statement,
    derive=derive,
    growth=0,
    rank=67,
)
