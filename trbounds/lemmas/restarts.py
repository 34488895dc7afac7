"""Lemmas on weights that restart at 1 whenever they exceed 1 + c.

Under the rollout policy ``phi(W_t - 1)`` grows by exactly ``kl(c_t)`` in mean, whatever the tails
of the ratios. Restarted weights stay below ``1 + c``, where ``(w - 1)^2 <= a phi(w - 1)``: so a
budget for the sum of KL along a response bounds second moments that the weights themselves need
not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import sympy as sp

from trbounds.derivation import Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.conjugate import (
    CONJUGATE_BELOW,
    LARGE_PART,
    MEAN_PHI,
    SMALL_PART,
    multiplier,
    phi,
)
from trbounds.lemmas.cut import FUTURE_GAP, large, small
from trbounds.lemmas.duality import BOUNDED_DIFFERENCE, DUALITY
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.lemmas.martingales import TOTAL_VARIANCE
from trbounds.lemmas.ratios import MARTINGALE
from trbounds.lemmas.trees import RatioTree, on_trees
from trbounds.symbolic import SYMBOLS, error

_K, _v = SYMBOLS["kl_path_max"], SYMBOLS["reward_var"]
_Path = tuple[int, ...]

#: A number D' from the mean of the sum of KL along a rollout up to K.
mean_spent = sp.Symbol("D'", positive=True)

#: Weights of Young's inequality: beta against the variance, eta against ``|w - 1|``, and
#: ``z = 1/beta + 1/eta`` against the jumps.
first_share = sp.Symbol("beta", positive=True)
second_share = sp.Symbol("eta", positive=True)
strength = sp.Symbol("z", positive=True)

_running = sp.Symbol("sum_t E_mu[|w_{t-1} - 1| |g_t|]", nonnegative=True)
_jumps = sp.Symbol("sum_t E_mu[1{restart} (w_{t-1} rho_t - 1) |h_t|]", nonnegative=True)
_spread = sp.Symbol("sum_t E_mu[phi(w_{t-1} - 1) kl(c_t)]", nonnegative=True)
_saved = sp.Symbol("sum_t E_mu[1{restart} phi(w_{t-1} rho_t - 1) s_t]", nonnegative=True)

#: ``sum_t E_mu[1{restart at t} phi(w_{t-1} rho_t - 1)]``.
restarted_mass = sp.Symbol("sum_t E_mu[1{restart} phi(w_{t-1} rho_t - 1)]", nonnegative=True)

#: ``sum_t E_mu[phi(w_{t-1} - 1) kl(c_t) + 1{restart at t} phi(w_{t-1} rho_t - 1) s_t]``.
budget_used = _spread + _saved


# -- the error with restarted weights ----------------------------------------------------------


def _weight(c: _Path) -> Any:
    return sp.Symbol("w_" + "".join(map(str, c)), real=True) if c else sp.Integer(1)


def _with_restarts(tree: RatioTree) -> tuple[Any, Any]:
    """Error, and its parts for arbitrary weights in the place of W."""

    def change(c: _Path) -> Any:
        return tree.value(c, train=True) - tree.value(c)

    running = tree.mean_over_tokens(
        lambda c, y: (_weight(c) - 1) * tree.step(c, y) * tree.advantage(c, y)
    )
    jumps = tree.mean_over_tokens(
        lambda c, y: (_weight(c) * (1 + tree.step(c, y)) - _weight((*c, y))) * change((*c, y))
    )
    return tree.mean(lambda y: tree.reward[y] * tree.residual(y)), running + jumps


def _prove_restart_parts() -> Iterable[Step]:
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0", "the mean of a ratio", MARTINGALE.certificate, MARTINGALE
    )
    yield Step(
        "Error = sum_t E_mu[(w_{t-1} - 1) g_t] + sum_t E_mu[(w_{t-1} rho_t - w_t) h_t], "
        "g_t = E_mu[(rho_t - 1) A_t | c_t], h_t = E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}]",
        "for any numbers w_t that the context c_{t+1} fixes, w_0 = 1; over the whole tree",
        on_trees(_with_restarts),
    )
    w, w_next, rho, v_pi, v_mu, rest = sp.symbols("w w' rho V_pi V_mu L_rest", real=True)
    yield Step(
        "e(c, w) = w (V_pi - V_mu) - L'(c) satisfies e(c', w rho) = e(c', w') + (w rho - w') h",
        "one step, for every T: replacing the weight costs its change times h; e(c_1, 1) = Error",
        identity(
            w * rho * (v_pi - v_mu) - rest,
            w_next * (v_pi - v_mu) - rest + (w * rho - w_next) * (v_pi - v_mu),
        ),
    )
    value, before, rest_mean, shifted = sp.symbols("E[rho_V_pi] V_mu E[L_rest] E[rho_V_mu]")
    yield Step(
        "e(c, w) = (w - 1) g(c) + E_mu[e(c', w rho) | c]",
        "V_pi(c) = E_mu[rho V_pi(c')], g(c) = E_mu[rho V_mu(c')] - V_mu(c), "
        "L'(c) = g(c) + E_mu[L'(c')]",
        identity(
            w * (value - before) - (shifted - before) - rest_mean,
            (w - 1) * (shifted - before) + w * value - w * shifted - rest_mean,
        ),
    )
    hat = sp.Symbol("w_{t-1}_rho_t", real=True)
    yield Step(
        "w_t = w_{t-1} rho_t where that is at most 1 + c, and w_t = 1 (a restart) elsewhere: "
        "w_{t-1} rho_t - w_t = 1{restart} (w_{t-1} rho_t - 1)",
        "both cases; at the end of the response h = 0, because R is fixed",
        all_of(
            "enumeration",
            "both cases",
            [identity(hat - hat, sp.Integer(0)), identity(hat - sp.Integer(1), hat - 1)],
        ),
    )
    a, b = sp.symbols("a b", nonnegative=True)
    yield Step(
        "|x + y| <= |x| + |y|",
        "every sign pattern, for sums and means alike",
        all_of(
            "sign",
            "sign patterns",
            [nonnegative(a + b - (i * a + j * b)) for i, j in product((1, -1), repeat=2)],
        ),
    )


#: ``|Error|`` is at most the running cost of restarted weights and the cost of their restarts.
RESTART_PARTS = Lemma(
    key="restart_parts",
    title="the error with weights that restart at 1 whenever they exceed 1 + c",
    left=error,
    relation="<=",
    right=_running + _jumps,
    prove=_prove_restart_parts,
    assumes="c > 0; pi << mu",
    source="trbounds",
)


# -- the running cost --------------------------------------------------------------------------


def _prove_running() -> Iterable[Step]:
    k, v, p, gap = sp.symbols("kl v_t phi(w-1) gap", nonnegative=True)
    d = sp.Symbol("|w-1|", positive=True)
    beta, eta = first_share, second_share
    yield Step(
        "|A_t| <= 1", "means of the reward", BOUNDED_DIFFERENCE.certificate, BOUNDED_DIFFERENCE
    )
    yield Step(
        "|g_t| <= lambda kl(c_t) + v_t (-1 - lambda log(1 - 1/lambda)), v_t = E_mu[A_t^2 | c_t]",
        "duality for the one token after c_t, for every lambda > 1",
        DUALITY.certificate,
        DUALITY,
    )
    yield Step(
        "|g_t| <= lambda kl(c_t) + v_t/(2 (lambda - 1))",
        CONJUGATE_BELOW.title,
        CONJUGATE_BELOW.certificate,
        CONJUGATE_BELOW,
    )
    at_choice = d * (multiplier * k + v / (2 * (multiplier - 1)))
    yield Step(
        "|w - 1| |g_t| <= |w - 1| kl + (w - 1)^2 kl/(2 beta) + beta v_t",
        "lambda = 1 + |w - 1|/(2 beta), which c_t may choose; at w = 1 both sides are plain",
        identity(
            at_choice.subs(multiplier, 1 + d / (2 * beta)),
            d * k + d**2 * k / (2 * beta) + beta * v,
        ),
    )
    yield Step("sum_t E_mu[v_t] = v", "total variance", TOTAL_VARIANCE.certificate, TOTAL_VARIANCE)
    yield Step("(w - 1)^2 <= a phi(w - 1)", "w <= 1 + c", SMALL_PART.certificate, SMALL_PART)
    # (w - 1)^2 = a phi(w - 1) - gap.
    square = small * p - gap
    larger = small * (1 / beta + 1 / eta) * p * k / 2 + eta * k / 2
    yield Step(
        "|w - 1| kl + (w - 1)^2 kl/(2 beta) <= (a/2)(1/beta + 1/eta) phi(w - 1) kl + eta kl/2",
        "|w - 1| = (w - 1)^2/(2 eta) + eta/2 - (|w - 1| - eta)^2/(2 eta), and "
        "(w - 1)^2 = a phi(w - 1) - gap",
        all_of(
            "sign",
            "Young's inequality, and the rest",
            [
                identity(d**2 / (2 * eta) + eta / 2 - (d - eta) ** 2 / (2 * eta), d),
                nonnegative(
                    larger - (square / (2 * eta) + eta / 2 + square / (2 * beta)) * k,
                    gap * k * (1 / beta + 1 / eta) / 2,
                ),
            ],
        ),
    )
    yield Step(
        "sum_t E_mu[kl(c_t)] <= D'",
        "by the choice of D' = E_mu[sum_t kl(c_t)] + gap",
        nonnegative((k + gap) * eta / 2 - k * eta / 2),
    )


#: The running cost, for every beta, eta > 0.
RUNNING = Lemma(
    key="restart_running",
    title="the running cost, each token by duality with a multiplier of its own",
    left=_running,
    relation="<=",
    right=_v * first_share
    + mean_spent * second_share / 2
    + small * (1 / first_share + 1 / second_share) * _spread / 2,
    prove=_prove_running,
    assumes="w_t <= 1 + c; R in [0, 1]; E_mu[sum_t kl(c_t)] <= D'; pi << mu",
    source="trbounds",
)


# -- the restarts ------------------------------------------------------------------------------


def _prove_jumps() -> Iterable[Step]:
    p, s = sp.symbols("phi(w-1) s_t", nonnegative=True)
    yield Step(
        "w_{t-1} rho_t - 1 <= b phi(w_{t-1} rho_t - 1) at a restart",
        "there w_{t-1} rho_t > 1 + c",
        LARGE_PART.certificate,
        LARGE_PART,
    )
    yield Step(
        "|h_t| <= sqrt(s_t/2), s_t = K - sum_{i<=t} kl(c_i)",
        "the problem that starts at c_{t+1}: its rollouts have sums of KL of at most s_t",
        FUTURE_GAP.certificate,
        FUTURE_GAP,
    )
    root = sp.sqrt(small * strength * s / 2) - large / (2 * sp.sqrt(small * strength))
    yield Step(
        "b phi sqrt(s_t/2) <= (a z/2) phi s_t + b^2/(4 a z) phi",
        "the arithmetic mean is at least the geometric",
        nonnegative(
            small * strength * p * s / 2
            + large**2 * p / (4 * small * strength)
            - large * p * sp.sqrt(s / 2),
            p * root**2,
        ),
    )


#: The cost of restarts, for every z > 0.
JUMPS = Lemma(
    key="restart_jumps",
    title="the cost of restarts, by the change of the future's mean reward",
    left=_jumps,
    relation="<=",
    right=small * strength * _saved / 2 + large**2 * restarted_mass / (4 * small * strength),
    prove=_prove_jumps,
    assumes="R in [0, 1]; sum_t kl(c_t) <= K along every rollout; pi << mu",
    source="trbounds",
)


def _growth_steps() -> Iterable[Step]:
    w, rho = sp.symbols("w rho", positive=True)
    yield Step(
        "phi(w rho - 1) = phi(w - 1) + (w - 1)(rho - 1) + phi(rho - 1)",
        "the logarithm of a product is a sum",
        identity(phi(w * rho - 1), phi(w - 1) + (w - 1) * (rho - 1) + phi(rho - 1)),
    )
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0", "the mean of a ratio", MARTINGALE.certificate, MARTINGALE
    )
    yield Step(
        "E_mu[phi(w_{t-1} rho_t - 1) | c_t] = phi(w_{t-1} - 1) + kl(c_t)",
        "the mean of phi(rho - 1) is the KL",
        MEAN_PHI.certificate,
        MEAN_PHI,
    )


def _prove_restart_budget() -> Iterable[Step]:
    yield from _growth_steps()
    p, k, s = sp.symbols("phi kl s", nonnegative=True)
    yield Step(
        "F(p, s) = p s + s^2/2 falls in mean by phi(w_{t-1} - 1) kl + kl^2/2 at a token",
        "p grows by kl in mean, the budget s shrinks by kl",
        identity(p * s + s**2 / 2 - ((p + k) * (s - k) + (s - k) ** 2 / 2), p * k + k**2 / 2),
    )
    yield Step(
        "and by phi(w_{t-1} rho_t - 1) s_t at a restart, where p falls to phi(0) = 0",
        "F(p, s) - F(0, s) = p s",
        identity((p * s + s**2 / 2) - s**2 / 2, p * s),
    )
    spent = sp.Symbol("S", nonnegative=True)
    yield Step(
        "the two sums are at most E_mu[F(0, K) - F(0, K - S)] = E_mu[K S - S^2/2], "
        "S = sum_t kl(c_t) <= K",
        "from w_0 = 1; F(p, s) >= F(0, s) at the end, and kl^2/2 >= 0 is left out",
        identity(_K**2 / 2 - (_K - spent) ** 2 / 2, _K * spent - spent**2 / 2),
    )
    mean = sp.Symbol("E[S]", nonnegative=True)
    square = sp.Symbol("E[(S - E[S])^2]", nonnegative=True)
    yield Step(
        "E_mu[K S - S^2/2] <= K E[S] - E[S]^2/2",
        "E[S^2] = E[S]^2 + E[(S - E[S])^2]",
        nonnegative(_K * mean - mean**2 / 2 - (_K * mean - (mean**2 + square) / 2), square / 2),
    )
    more, slack = sp.symbols("D'-E[S] K-D'", nonnegative=True)

    def curve(x: Any) -> Any:
        return (mean + more + slack) * x - x**2 / 2

    yield Step(
        "K E[S] - E[S]^2/2 <= K D' - D'^2/2",
        "E[S] <= D' <= K",
        nonnegative(curve(mean + more) - curve(mean), more**2 / 2 + more * slack),
    )


#: ``sum_t E_mu[phi(w_{t-1} - 1) kl(c_t)]`` and what restarts save, against the budget.
RESTART_BUDGET = Lemma(
    key="restart_budget",
    title="restarted weights under a budget for the sum of KL along a response",
    left=budget_used,
    relation="<=",
    right=_K * mean_spent - mean_spent**2 / 2,
    prove=_prove_restart_budget,
    assumes="sum_t kl(c_t) <= K along every rollout; E_mu[sum_t kl(c_t)] <= D' <= K; pi << mu",
    source="trbounds",
)


def _prove_restarted_mass() -> Iterable[Step]:
    yield from _growth_steps()
    last, mass, slack = sp.symbols("E[phi(w_T-1)] mass slack", nonnegative=True)
    yield Step(
        "sum_t E_mu[1{restart} phi(w_{t-1} rho_t - 1)] + E_mu[phi(w_T - 1)] "
        "= sum_t E_mu[kl(c_t)] <= D'",
        "what enters in mean leaves at restarts or stays; phi >= 0 because log u >= 1 - 1/u",
        all_of(
            "sign",
            "the rest is not negative, and the lemma",
            [nonnegative((mass + last + slack) - mass), LOG_BELOW_LINE.certificate],
        ),
        LOG_BELOW_LINE,
    )


#: ``sum_t E_mu[1{restart at t} phi(w_{t-1} rho_t - 1)] <= D'``.
RESTARTED_MASS = Lemma(
    key="restarted_mass",
    title="phi leaves at restarts no more than the KL brings in",
    left=restarted_mass,
    relation="<=",
    right=mean_spent,
    prove=_prove_restarted_mass,
    assumes="E_mu[sum_t kl(c_t)] <= D'; pi << mu",
    source="trbounds",
)
