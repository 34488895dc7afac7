"""Lemmas on the second-order residual W - 1 - M, bounded position by position."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, identity, nonnegative
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER
from trbounds.lemmas.inequalities import BELOW_BOTH, CAP, UNCAP
from trbounds.lemmas.martingales import (
    OBJECTIVE_BY_TV,
    cauchy_schwarz_in_mean,
    error_as_residual,
    error_by_futures,
)
from trbounds.lemmas.positions import PRODUCT_SUM, factor
from trbounds.lemmas.ratios import MARTINGALE, chi2_step
from trbounds.lemmas.trees import on_trees
from trbounds.symbolic import SYMBOLS, T, error, s, t

_k, _x, _kappa = SYMBOLS["kl_mean"], SYMBOLS["chi2_mean"], SYMBOLS["chi2_position_max"]

#: ``sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]``, with W_{t-1} the product of the first t - 1 ratios.
weighted_residual = sp.Symbol("sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]", nonnegative=True)

#: ``E_mu h_t^2`` with ``h_t = E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}]``.
future_square = sp.IndexedBase("E_h2", nonnegative=True)


# -- the residual W - 1 - M --------------------------------------------------------------------


def _prove_error_by_residual() -> Iterable[Step]:
    yield error_as_residual()
    yield Step(
        "E_mu[W - 1 - M | x] = 0",
        "W and M are martingales: every increment has mean 0 given its context",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    reward, mean, residual = sp.symbols("R E_mu[R|x] W-1-M", real=True)
    yield Step(
        "Error = E_mu[(R - E_mu[R | x])(W - 1 - M)]",
        "the mean taken off multiplies E_mu[W - 1 - M | x] = 0",
        identity((reward - mean) * residual + mean * residual, reward * residual),
    )
    yield cauchy_schwarz_in_mean(
        "|Error| <= sqrt(E_mu[(R - E_mu[R | x])^2] E_mu[(W - 1 - M)^2]) = sqrt(v Q)"
    )


#: ``|Error| <= sqrt(v Q)``.
ERROR_BY_RESIDUAL = Lemma(
    key="error_by_residual",
    title="the error as a covariance of the reward and the residual",
    left=error,
    relation="<=",
    right=sp.sqrt(SYMBOLS["reward_var"] * SYMBOLS["residual_square"]),
    prove=_prove_error_by_residual,
    assumes="pi << mu",
    source="trbounds",
)


def _prove_residual_square() -> Iterable[Step]:
    w, m, rho = sp.symbols("W_{t-1} M_{t-1} rho", real=True)
    yield Step(
        "W - 1 - M = sum_t (W_{t-1} - 1)(rho_t - 1)",
        "induction: one more token adds W_{t-1} rho - W_{t-1} - (rho - 1); at the start W_0 = 1 "
        "and M_0 = 0",
        identity((w * rho - 1 - (m + rho - 1)) - (w - 1 - m), (w - 1) * (rho - 1)),
    )
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0",
        "so the terms are differences of a martingale: for s < t, term s and W_{t-1} are fixed "
        "by c_t, and the product of terms s and t has mean 0",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    yield chi2_step()
    yield Step(
        "Q = sum_t E_mu[(W_{t-1} - 1)^2 (rho_t - 1)^2] = sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]",
        "the cross terms vanish, and W_{t-1} is fixed by c_t; over the whole tree",
        on_trees(
            lambda tree: (
                tree.mean(lambda y: tree.residual(y) ** 2),
                sum(
                    tree.reached(c) * (tree.weight(c) - 1) ** 2 * tree.chi2(c)
                    for c in tree.contexts
                ),
            )
        ),
    )


#: ``Q = sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]``.
RESIDUAL_SQUARE = Lemma(
    key="residual_square",
    title="the residual is a martingale with orthogonal increments",
    left=SYMBOLS["residual_square"],
    relation="==",
    right=weighted_residual,
    prove=_prove_residual_square,
    assumes="pi << mu",
    source="trbounds",
)


def _prove_residual_by_positions() -> Iterable[Step]:
    chi2, a, b, y, square = sp.symbols("x a b y E[W^2]", nonnegative=True)
    mean = sp.Symbol("E[W]", real=True)
    yield Step(
        "E_mu[rho_t | c_t] = 1, hence E_mu[W_t] = 1",
        "W is a martingale from W_0 = 1",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    yield Step(
        "E_mu[W_t^2] = E_mu[W_{t-1}^2 (1 + chi2(c_t))]",
        "rho^2 = 1 + 2 (rho - 1) + (rho - 1)^2, whose mean given c_t is 1 + 0 + chi2(c_t); over "
        "the whole tree, for the last position",
        on_trees(
            lambda tree: (
                tree.mean(lambda path: tree.weight(path) ** 2),
                sum(
                    tree.reached(c) * tree.weight(c) ** 2 * (1 + tree.chi2(c))
                    for c in tree.contexts
                    if len(c) == tree.length - 1
                ),
            )
        ),
    )
    yield Step(
        "E_mu[W_t^2] <= (1 + kappa_t) E_mu[W_{t-1}^2], hence "
        "E_mu[W_{t-1}^2] <= prod_{s<t} (1 + kappa_s)",
        "chi2(c_t) <= kappa_t, written kappa_t = x + a; induction from W_0 = 1",
        nonnegative(square * (1 + chi2 + a) - square * (1 + chi2), square * a),
    )
    yield Step(
        "E_mu[(W_{t-1} - 1)^2] = E_mu[W_{t-1}^2] - 1",
        "(W - 1)^2 = W^2 - 2 W + 1 with E_mu[W] = 1",
        identity((square - 2 * mean + 1).subs(mean, 1), square - 1),
    )
    yield Step(
        "E_mu[(W_{t-1} - 1)^2 chi2(c_t)] <= kappa_t (prod_{s<t} (1 + kappa_s) - 1)",
        "the larger of each factor: (y + b)(x + a) >= y x with y = E_mu[(W_{t-1} - 1)^2]",
        nonnegative((y + b) * (chi2 + a) - y * chi2),
    )


#: ``sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)] <= sum_t kappa_t (prod_{s<t} (1 + kappa_s) - 1)``.
RESIDUAL_BY_POSITIONS = Lemma(
    key="residual_by_positions",
    title="second moment of the weights by the largest chi2 of each position",
    left=weighted_residual,
    relation="<=",
    right=PRODUCT_SUM.left.xreplace({factor[t]: _kappa[t], factor[s]: _kappa[s]}),
    prove=_prove_residual_by_positions,
    assumes="chi2(c_t) <= kappa_t at every context of position t; pi << mu",
    source="trbounds",
)


# -- a ratio against its future ----------------------------------------------------------------


def _prove_future_by_chi2() -> Iterable[Step]:
    yield from error_by_futures()
    yield chi2_step()
    yield cauchy_schwarz_in_mean(
        "|E_mu[(rho_t - 1) h_t]| <= sqrt(E_mu[(rho_t - 1)^2] E_mu[h_t^2]) = sqrt(x_t E_mu[h_t^2])"
    )


#: ``|Error| <= sum_t sqrt(x_t E_mu h_t^2)``.
FUTURE_BY_CHI2 = Lemma(
    key="future_by_chi2",
    title="each token's ratio against the change of its future, in mean square",
    left=error,
    relation="<=",
    right=sp.Sum(sp.sqrt(_x[t] * future_square[t]), (t, 1, T)),
    prove=_prove_future_by_chi2,
    assumes="pi << mu",
    source="trbounds",
)


def _prove_future_square() -> Iterable[Step]:
    yield Step(
        "|h_t| <= TV of the continuations after c_{t+1}, for R in [0, 1]",
        "the change of the objective of the problem that starts at c_{t+1}",
        OBJECTIVE_BY_TV.certificate,
        OBJECTIVE_BY_TV,
    )
    yield Step(
        "h_t^2 <= min(1, KL/2), KL that of the continuations after c_{t+1}",
        "Pinsker, squared",
        PINSKER.certificate,
        PINSKER,
    )
    yield Step(
        "the mean of that KL over rollouts is sum_{s>t} k_s",
        "chain rule for the tokens after t, the context c_{t+1} in the place of the prompt; "
        "c_{t+1} and the tokens after it are drawn by mu",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    yield Step("E min(1, z) <= E z", "min(1, z) <= z at every context", UNCAP.certificate, UNCAP)
    yield Step("E min(1, z) <= 1", "min(1, z) <= 1 at every context", CAP.certificate, CAP)
    yield Step("E min(1, z) <= min(1, E z)", BELOW_BOTH.title, BELOW_BOTH.certificate, BELOW_BOTH)


#: ``E_mu h_t^2 <= min(1, sum_{s>t} k_s/2)``.
FUTURE_SQUARE_BY_POSITION = Lemma(
    key="future_square_by_position",
    title="mean square change of the future by the KL still to come",
    left=future_square[t],
    relation="<=",
    right=sp.Min(1, sp.Sum(_k[s], (s, t + 1, T)) / 2),
    prove=_prove_future_square,
    assumes="R in [0, 1]",
    source="trbounds",
)


_u = sp.Symbol("u", positive=True)
_langevin = sp.coth(_u) - 1 / _u
_slope = sp.Symbol("d(KL)/d(TV^2) at u", nonnegative=True)


def _prove_sharp_square() -> Iterable[Step]:
    def by_exponentials(left: sp.Expr, right: sp.Expr) -> Check:
        return lambda: identity(sp.simplify((left - right).rewrite(sp.exp)), sp.Integer(0))()

    c = sp.Symbol("c", real=True)
    tv = _u * (1 - _langevin**2) / 2
    kl = sp.log(_u / sp.sinh(_u)) + _u * sp.coth(_u) - _u**2 / sp.sinh(_u) ** 2
    yield Step(
        "dKL/du = 2 u dTV/du along TV(u) = u (1 - c^2)/2, KL(u) = log(u/sinh u) + u coth u - "
        "u^2/sinh^2 u, with c = coth u - 1/u",
        "the curve of largest TV, differentiated",
        by_exponentials(sp.diff(kl, _u), 2 * _u * sp.diff(tv, _u)),
    )
    yield Step(
        "dKL/d(TV^2) = 2 u/(2 TV) = 2/(1 - c^2)",
        "chain rule of calculus",
        identity(2 * _u / (2 * _u * (1 - c**2) / 2), 2 / (1 - c**2)),
    )
    rise = (sp.sinh(_u) - _u) * (sp.sinh(_u) + _u) / (_u**2 * sp.sinh(_u) ** 2)
    yield Step(
        "dc/du = (sinh u - u)(sinh u + u)/(u^2 sinh^2 u)",
        "so c rises from 0 towards 1, and with it 2/(1 - c^2), if sinh u >= u",
        by_exponentials(sp.diff(_langevin, _u), rise),
    )
    yield Step(
        "d(sinh u - u)/du = cosh u - 1 = 2 sinh^2(u/2) >= 0, and sinh 0 = 0",
        "hence sinh u >= u: KL is convex in TV^2, and the mean of TV^2 is at most the square of "
        "the largest TV at the mean KL (Jensen)",
        by_exponentials(sp.cosh(_u) - 1, 2 * sp.sinh(_u / 2) ** 2),
    )


#: Along the sharp conversion ``dKL/d(TV^2) = 2/(1 - c(u)^2)`` with c increasing: KL is convex in
#: TV^2, so that the conversion may be applied to a mean KL where a mean of TV^2 is wanted.
SHARP_SQUARE = Lemma(
    key="sharp_square",
    title="KL is convex in TV^2 along the sharp conversion",
    left=_slope,
    relation="==",
    right=2 / (1 - _langevin**2),
    prove=_prove_sharp_square,
    source="trbounds; the curve is that of Fedotov, Harremoes, Topsoe 2003",
)
