"""Lemmas on the martingale M under the rollout policy, and on the reward's own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.inequalities import CAUCHY_SCHWARZ
from trbounds.lemmas.ratios import MARTINGALE, TELESCOPING, chi2_step
from trbounds.lemmas.trees import FreeTree, RatioTree, on_trees
from trbounds.symbolic import SYMBOLS, T, error, t

#: ``|L'|`` and ``|J(pi) - J(mu)|``.
surrogate = sp.Symbol("|L'|", nonnegative=True)
objective_gap = sp.Symbol("|J(pi) - J(mu)|", nonnegative=True)

#: ``sum_t E_mu (rho_t - 1)^2``, and ``sum_t E_mu A_t^2`` with the differences
#: ``A_t = E_mu[R | c_{t+1}] - E_mu[R | c_t]``.
ratio_square = sp.Symbol("sum_t E_mu[(rho_t - 1)^2]", nonnegative=True)
advantage_square = sp.Symbol("sum_t E_mu[A_t^2]", nonnegative=True)


def cauchy_schwarz_in_mean(claim: str) -> Step:
    """Step that applies Cauchy-Schwarz to a mean."""
    return Step(
        claim,
        "Cauchy-Schwarz with a = sqrt(p) f and b = sqrt(p) g, p the probability of each outcome",
        CAUCHY_SCHWARZ.certificate,
        CAUCHY_SCHWARZ,
    )


def _error(tree: RatioTree) -> sp.Expr:
    """``J(pi) - J(mu) - L'``."""
    surrogate = tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y))
    return tree.value((), train=True) - tree.value(()) - surrogate


def error_as_residual() -> Step:
    """Step that writes the error as the mean of the residual."""
    return Step(
        "Error = E_mu[R (W - 1 - M)]",
        "J(pi) = E_mu[R W], by absolute continuity, J(mu) = E_mu[R] and L' = E_mu[R M]; over the "
        "whole tree",
        on_trees(
            lambda tree: (_error(tree), tree.mean(lambda y: tree.reward[y] * tree.residual(y)))
        ),
    )


def error_by_futures() -> Iterable[Step]:
    """Steps that pair each token's ratio with the change of its future."""
    yield Step(
        "Error = E_mu[R (W - 1 - M)] = -E_mu[R sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)]",
        "telescoping along every sequence",
        TELESCOPING.certificate,
        TELESCOPING,
    )
    yield Step(
        "Error = sum_t E_mu[(rho_t - 1) h_t], h_t = E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}]",
        "given c_{t+1} the ratio rho_t is fixed, and weighting by the later ratios gives pi's "
        "mean; over the whole tree",
        on_trees(
            lambda tree: (
                _error(tree),
                tree.mean_over_tokens(
                    lambda c, y: (
                        tree.step(c, y) * (tree.value((*c, y), train=True) - tree.value((*c, y)))
                    )
                ),
            )
        ),
    )


# -- the two parts of the error ----------------------------------------------------------------


def _prove_error_parts() -> Iterable[Step]:
    a, b = sp.symbols("a b", nonnegative=True)
    yield Step(
        "|x - y| <= |x| + |y| at x = J(pi) - J(mu), y = L', whose difference is Error",
        "a + b - (+-a -+ b) for every sign pattern, a = |x| and b = |y|",
        all_of(
            "sign",
            "sign patterns",
            [nonnegative(a + b - (p * a - q * b)) for p, q in product((1, -1), repeat=2)],
        ),
    )


#: ``|Error| <= |J(pi) - J(mu)| + |L'|``.
ERROR_PARTS = Lemma(
    key="error_parts",
    title="the error is the change of the objective less the surrogate",
    left=error,
    relation="<=",
    right=objective_gap + surrogate,
    prove=_prove_error_parts,
    source="trbounds",
)


def _prove_objective_by_tv() -> Iterable[Step]:
    x, y = sp.symbols("x y", nonnegative=True)
    yield Step(
        "TV(P, Q) = (1/2) sum |P - Q| = sum over {P > Q} of (P - Q)",
        "P and Q have the same mass: the sums x of P - Q over {P > Q} and y of Q - P over {P < Q} "
        "are equal, and half of x + y is x",
        identity(((x + y) / 2).subs(y, x), x),
    )
    theta, rest = sp.Symbol("theta", nonnegative=True), sp.Symbol("1 - theta", nonnegative=True)
    yield Step(
        "J(pi) - J(mu) = E_P R - E_Q R <= sum over {P > Q} of (P - Q) = TV(P, Q) = V",
        "P and Q the two policies' responses: over {P > Q}, x R <= x with R = theta in [0, 1]; "
        "elsewhere -|x| R <= 0; P and Q exchanged gives the other sign",
        all_of(
            "sign",
            "both signs of P - Q",
            [nonnegative(x * (theta + rest) - x * theta, x * rest), nonnegative(x * theta)],
        ),
    )


#: ``|J(pi) - J(mu)| <= V``.
OBJECTIVE_BY_TV = Lemma(
    key="objective_by_tv",
    title="the change of the objective is at most the TV of whole sequences",
    left=objective_gap,
    relation="<=",
    right=SYMBOLS["tv_seq"],
    prove=_prove_objective_by_tv,
    assumes="R in [0, 1]",
)


def _prove_surrogate_by_tv() -> Iterable[Step]:
    yield Step(
        "L' = sum_t E_mu[(rho_t - 1) E_mu[R | c_{t+1}]]",
        "given c_{t+1} the ratio rho_t is fixed and R has its mean; over the whole tree, for "
        "ratios of any mean",
        on_trees(
            lambda tree: (
                tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y)),
                tree.mean_over_tokens(lambda c, y: tree.step(c, y) * tree.value((*c, y))),
            ),
            kind=FreeTree,
        ),
    )
    x = sp.Symbol("x", nonnegative=True)
    theta, rest = sp.Symbol("theta", nonnegative=True), sp.Symbol("1 - theta", nonnegative=True)
    yield Step(
        "|E_mu[(rho_t - 1) f | c_t]| <= tv(c_t), f = E_mu[R | c_{t+1}] in [0, 1]",
        "mu (rho - 1) = pi - mu where mu > 0: the sum is at most that of x = pi - mu over "
        "{pi > mu}, and at least minus that of mu - pi over {mu > pi}; both are tv(c_t)",
        all_of(
            "sign",
            "both signs",
            [nonnegative(x * (theta + rest) - x * theta, x * rest), nonnegative(x * theta)],
        ),
    )
    yield Step(
        "|sum_t E_mu[(rho_t - 1) f]| <= sum_t E_mu tv(c_t) = sum_t Dbar_t",
        "the mean over c_t, added up; |a + b| <= |a| + |b|",
        all_of(
            "sign",
            "sign patterns",
            [nonnegative(x + theta - (p * x + q * theta)) for p, q in product((1, -1), repeat=2)],
        ),
    )


#: ``|L'| <= sum_t Dbar_t``.
SURROGATE_BY_TV = Lemma(
    key="surrogate_by_tv",
    title="the surrogate is at most the summed mean TV",
    left=surrogate,
    relation="<=",
    right=sp.Sum(SYMBOLS["tv_mean"][t], (t, 1, T)),
    prove=_prove_surrogate_by_tv,
    assumes="R in [0, 1]",
    source="trbounds",
)


# -- the surrogate as a scalar product of two martingales --------------------------------------


def _prove_surrogate_by_advantages() -> Iterable[Step]:
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0",
        "M is a martingale",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    yield Step(
        "L' = E_mu[R sum_t (rho_t - 1)] = sum_t E_mu[(rho_t - 1) A_t], "
        "A_t = E_mu[R | c_{t+1}] - E_mu[R | c_t]",
        "given c_{t+1} the ratio rho_t is fixed and the mean of R is E_mu[R | c_{t+1}]; "
        "subtracting E_mu[R | c_t] changes nothing because rho_t - 1 has mean 0 given c_t; over "
        "the whole tree",
        on_trees(
            lambda tree: (
                tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y)),
                tree.mean_over_tokens(lambda c, y: tree.step(c, y) * tree.advantage(c, y)),
            )
        ),
    )
    yield cauchy_schwarz_in_mean(
        "|sum_t E_mu[(rho_t - 1) A_t]| <= sqrt(sum_t E_mu[(rho_t - 1)^2] sum_t E_mu[A_t^2])"
    )


#: ``|L'| <= sqrt(sum_t E_mu[(rho_t - 1)^2] sum_t E_mu[A_t^2])``.
SURROGATE_BY_ADVANTAGES = Lemma(
    key="surrogate_by_advantages",
    title="the surrogate pairs the increments of two martingales",
    left=surrogate,
    relation="<=",
    right=sp.sqrt(ratio_square * advantage_square),
    prove=_prove_surrogate_by_advantages,
    assumes="pi << mu",
    source="trbounds",
)


def _prove_ratio_square() -> Iterable[Step]:
    yield chi2_step()
    yield Step(
        "sum_t E_mu[(rho_t - 1)^2] = sum_t E_mu chi2(c_t) = E_mu sum_t chi2(c_t)",
        "the mean over c_t of the mean given c_t; over the whole tree",
        on_trees(
            lambda tree: (
                tree.mean_over_tokens(lambda c, y: tree.step(c, y) ** 2),
                tree.mean(lambda y: sum(tree.chi2(y[:i]) for i in range(tree.length))),
            )
        ),
    )


#: ``sum_t E_mu[(rho_t - 1)^2] = E_mu sum_t chi2(c_t)``.
RATIO_SQUARE = Lemma(
    key="ratio_square",
    title="the second moment of rho - 1 is chi2",
    left=ratio_square,
    relation="==",
    right=SYMBOLS["chi2_total"],
    prove=_prove_ratio_square,
)


def _prove_total_variance() -> Iterable[Step]:
    def split(tokens: int) -> Check:
        p = [*sp.symbols(f"p1:{tokens}", real=True)]
        p.append(1 - sum(p))
        v, m = sp.symbols(f"v1:{tokens + 1}", real=True), sp.symbols(f"m1:{tokens + 1}", real=True)
        mean = sum(q * x for q, x in zip(p, m, strict=True))
        # v_y and m_y: variance and mean of R given c, y; E[R^2 | c, y] = v_y + m_y^2.
        whole = sum(q * (w + x**2) for q, w, x in zip(p, v, m, strict=True)) - mean**2
        parts = sum(q * w + q * (x - mean) ** 2 for q, w, x in zip(p, v, m, strict=True))
        return identity(whole, parts)

    yield Step(
        "Var(R | c) = E[Var(R | c, y) | c] + E[A^2 | c], A = E[R | c, y] - E[R | c]",
        "total variance of one step, expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [split(n) for n in range(2, 6)]),
    )
    yield Step(
        "sum_t E_mu[A_t^2] = E_x[Var(R | x) - E_mu Var(R | c_{T+1})] = E_x Var(R | x) = v",
        "the steps added up from the prompt to the whole response, which fixes R; over the whole "
        "tree",
        on_trees(
            lambda tree: (
                tree.mean_over_tokens(lambda c, y: tree.advantage(c, y) ** 2),
                tree.mean(lambda y: tree.reward[y] ** 2) - tree.value(()) ** 2,
            )
        ),
    )


#: ``sum_t E_mu[A_t^2] = v``, the variance of the reward within prompts.
TOTAL_VARIANCE = Lemma(
    key="total_variance",
    title="total variance of the martingale of the reward",
    left=advantage_square,
    relation="==",
    right=SYMBOLS["reward_var"],
    prove=_prove_total_variance,
)
