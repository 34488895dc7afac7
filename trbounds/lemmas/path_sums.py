"""Lemmas on sums of chi2 along a response: what a budget for the sum does to the weights."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.duality import BOUNDED_DIFFERENCE
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.lemmas.martingales import cauchy_schwarz_in_mean
from trbounds.lemmas.ratios import MARTINGALE, chi2_step
from trbounds.lemmas.second_order import weighted_residual
from trbounds.lemmas.trees import RatioTree, on_trees
from trbounds.symbolic import SYMBOLS, error

_X = SYMBOLS["chi2_path_max"]
_Path = tuple[int, ...]

#: ``E_mu |W - 1|``.
weight_gap = sp.Symbol("E_mu|W - 1|", nonnegative=True)

#: Quantities of the stopped policy pi_tau: pi before step tau, mu from there on.
error_stopped = sp.Symbol("|Error(pi_tau)|", nonnegative=True)
residual_square_stopped = sp.Symbol("Q(pi_tau)", nonnegative=True)
weighted_residual_stopped = sp.Symbol(
    "sum_{t<tau} E_mu[(W_{t-1} - 1)^2 chi2(c_t)]", nonnegative=True
)

#: What the stopped policy leaves out.
objective_after_stop = sp.Symbol("|J(pi) - J(pi_tau)|", nonnegative=True)
surrogate_after_stop = sp.Symbol("|E_mu[R sum_{t>=tau} (rho_t - 1)]|", nonnegative=True)
ratio_square_after_stop = sp.Symbol("E_mu sum_{t>=tau} (rho_t - 1)^2", nonnegative=True)

_y = sp.Symbol("y", real=True)


def _prove_exp() -> Iterable[Step]:
    yield Step("log u >= 1 - 1/u", "at u = exp(-y)", LOG_BELOW_LINE.certificate, LOG_BELOW_LINE)
    yield Step(
        "log(exp(-y)) - (1 - 1/exp(-y)) = exp(y) - 1 - y",
        "the difference of its two sides",
        identity(sp.log(sp.exp(-_y)) - (1 - 1 / sp.exp(-_y)), sp.exp(_y) - 1 - _y),
    )


#: ``1 + y <= exp(y)``.
EXP_ABOVE_LINE = Lemma(
    key="exp_above_line",
    title="exp(y) >= 1 + y",
    left=1 + _y,
    relation="<=",
    right=sp.exp(_y),
    prove=_prove_exp,
)


# -- potentials along a response ---------------------------------------------------------------


def _potential(w: Any, budget: Any) -> Any:
    return (sp.exp(budget) - 1) * w**2 - 2 * budget * w + budget


def _spent(tree: RatioTree, c: _Path) -> Any:
    """Sum of chi2 at the contexts before a context."""
    return sum(tree.chi2(c[:i]) for i in range(len(c)))


def _loss(w: Any, budget: Any, x: Any) -> Any:
    return w**2 * sp.exp(budget) * (1 - (1 + x) * sp.exp(-x))


def _loss_step() -> Step:
    x, gap = sp.symbols("x exp(x)-1-x", nonnegative=True)
    return Step(
        sp.Le((1 + x) * sp.exp(-x), 1, evaluate=False),
        "exp(x) = 1 + x + gap with gap >= 0: 1 - (1 + x) exp(-x) = gap exp(-x)",
        all_of(
            "sign",
            "1 + x <= exp(x), and the rest",
            [
                EXP_ABOVE_LINE.certificate,
                nonnegative(1 - (1 + x) / (1 + x + gap), gap / (1 + x + gap)),
            ],
        ),
        EXP_ABOVE_LINE,
    )


def _moment_steps() -> Iterable[Step]:
    yield Step("E_mu[rho_t | c_t] = 1", "the mean of a ratio", MARTINGALE.certificate, MARTINGALE)
    yield chi2_step()
    yield Step(
        "E_mu[rho_t^2 | c_t] = 1 + chi2(c_t)",
        "rho^2 = 1 + 2 (rho - 1) + (rho - 1)^2",
        identity(1 + 2 * (_y - 1) + (_y - 1) ** 2, _y**2),
    )


def _prove_path_potential() -> Iterable[Step]:
    w = sp.Symbol("w", nonnegative=True)
    s, x, gap = sp.symbols("s x gap", nonnegative=True)
    yield Step(
        "U(w, s) = (exp(s) - 1) w^2 - 2 s w + s >= 0 for s >= 0",
        "U = (exp(s) - 1 - s) w^2 + s (w - 1)^2, with gap = exp(s) - 1 - s >= 0",
        all_of(
            "sign",
            "1 + s <= exp(s), the form, its sign",
            [
                EXP_ABOVE_LINE.certificate,
                identity(_potential(w, s), (sp.exp(s) - 1 - s) * w**2 + s * (w - 1) ** 2),
                nonnegative(gap * w**2 + s * (w - 1) ** 2, gap * w**2 + s * (w - 1) ** 2),
            ],
        ),
        EXP_ABOVE_LINE,
    )
    yield from _moment_steps()
    after = (sp.exp(s - x) - 1) * w**2 * (1 + x) - 2 * (s - x) * w + (s - x)
    yield Step(
        "U(w, s) = (w - 1)^2 x + E_mu[U(w rho_t, s - x) | c_t] "
        "+ w^2 exp(s) (1 - (1 + x) exp(-x)), x = chi2(c_t)",
        "one step: U is quadratic in w, so the two moments of rho_t suffice",
        identity(_potential(w, s), (w - 1) ** 2 * x + after + _loss(w, s, x)),
    )
    yield _loss_step()
    yield Step(
        "sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)] = U(1, X) - E_mu U(W, X - sum_t chi2(c_t)) "
        "- sum_t E_mu[W_{t-1}^2 exp(s_t) (1 - (1 + chi2(c_t)) exp(-chi2(c_t)))], "
        "s_t = X - sum_{i<t} chi2(c_i)",
        "the steps added up; over the whole tree",
        on_trees(_summed_potential, longest=2),
    )
    yield Step(
        "U(1, X) = exp(X) - 1 - X",
        "this remains: what is taken off is not negative, because X - sum_t chi2(c_t) >= 0 along "
        "every rollout by the definition of X",
        identity(_potential(sp.Integer(1), _X), sp.exp(_X) - 1 - _X),
    )


def _summed_potential(tree: RatioTree) -> tuple[Any, Any]:
    spread = sum(tree.reached(c) * (tree.weight(c) - 1) ** 2 * tree.chi2(c) for c in tree.contexts)
    lost = sum(
        tree.reached(c) * _loss(tree.weight(c), _X - _spent(tree, c), tree.chi2(c))
        for c in tree.contexts
    )
    last = tree.mean(lambda y: _potential(tree.weight(y), _X - _spent(tree, y)))
    return spread, _potential(sp.Integer(1), _X) - last - lost


#: ``sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)] <= exp(X) - 1 - X``.
PATH_POTENTIAL = Lemma(
    key="path_potential",
    title="a budget for the sum of chi2 along a response bounds the residual's square",
    left=weighted_residual,
    relation="<=",
    right=sp.exp(_X) - 1 - _X,
    prove=_prove_path_potential,
    assumes="sum_t chi2(c_t) <= X along every rollout; pi << mu",
    source="trbounds",
)


def _prove_weight_gap() -> Iterable[Step]:
    w = sp.Symbol("w", nonnegative=True)
    s, x = sp.symbols("s x", nonnegative=True)
    mean, square = sp.symbols("E[W] E[W^2]", real=True)
    yield from _moment_steps()
    yield Step(
        "w^2 exp(s) - E_mu[(w rho_t)^2 exp(s - x) | c_t] = w^2 exp(s) (1 - (1 + x) exp(-x))",
        "one step, x = chi2(c_t)",
        identity(w**2 * sp.exp(s) - w**2 * (1 + x) * sp.exp(s - x), _loss(w, s, x)),
    )
    yield _loss_step()
    yield Step(
        "E_mu[W^2] <= E_mu[W^2 exp(X - sum_t chi2(c_t))] <= exp(X)",
        "the exponent is not negative at the end, and the mean does not grow from 1^2 exp(X): "
        "exp(s) = 1 + gap with gap >= s >= 0",
        nonnegative(w**2 * (1 + s) - w**2, w**2 * s),
    )
    yield Step(
        "E_mu[(W - 1)^2] = E_mu[W^2] - 1 <= exp(X) - 1",
        "E_mu[W] = 1",
        identity((square - 2 * mean + 1).subs(mean, 1), square - 1),
    )
    yield cauchy_schwarz_in_mean("E_mu|W - 1| <= sqrt(E_mu[(W - 1)^2])")


#: ``E_mu|W - 1| <= sqrt(exp(X) - 1)``.
WEIGHT_GAP = Lemma(
    key="weight_gap",
    title="a budget for the sum of chi2 along a response bounds the weight's distance from 1",
    left=weight_gap,
    relation="<=",
    right=sp.sqrt(sp.exp(_X) - 1),
    prove=_prove_weight_gap,
    assumes="sum_t chi2(c_t) <= X along every rollout; pi << mu",
    source="trbounds",
)


# -- stopping at a budget ----------------------------------------------------------------------


def _prove_stopping() -> Iterable[Step]:
    before, rho = sp.symbols("1{t<tau} rho_t", real=True)
    yield Step(
        "pi_tau has the ratio 1 + 1{t < tau} (rho_t - 1): the ratio of pi before tau, then 1",
        "whether t < tau is decided by c_t, so pi_tau is a policy; its sum of chi2 along a "
        "response is the sum of pi's before tau, at most the budget by the choice of tau",
        all_of(
            "enumeration",
            "both cases",
            [
                identity((1 + before * (rho - 1)).subs(before, 1), rho),
                identity((1 + before * (rho - 1)).subs(before, 0), sp.Integer(1)),
            ],
        ),
    )
    yield Step(
        "M - M(pi_tau) = sum_{t>=tau} (rho_t - 1)",
        "term by term",
        identity((rho - 1) - before * (rho - 1), (1 - before) * (rho - 1)),
    )
    a, b, c = sp.symbols("a b c", nonnegative=True)
    yield Step(
        "Error = Error(pi_tau) + [J(pi) - J(pi_tau)] - [L' - L'(pi_tau)]",
        "the triangle inequality, every sign pattern",
        all_of(
            "sign",
            "sign patterns",
            [
                nonnegative(a + b + c - (i * a + j * b - k * c))
                for i, j, k in product((1, -1), repeat=3)
            ],
        ),
    )


#: ``|Error| <= |Error(pi_tau)| + |J(pi) - J(pi_tau)| + |E_mu[R sum_{t>=tau} (rho_t - 1)]|``.
STOPPING = Lemma(
    key="stopping",
    title="the training policy replaced by the rollout policy once the budget is spent",
    left=error,
    relation="<=",
    right=error_stopped + objective_after_stop + surrogate_after_stop,
    prove=_prove_stopping,
    assumes="tau is the first step at which the running sum of chi2 would exceed the budget; "
    "pi << mu",
    source="trbounds",
)


def _stops(c: _Path, length: int) -> list[list[_Path]]:
    """Every set of contexts from `c` on at which a stopping rule can stop first."""
    if len(c) == length:
        return [[]]
    below = product(*(_stops((*c, y), length) for y in (0, 1)))
    return [[c], *([*left, *right] for left, right in below)]


def _objective_difference(tree: RatioTree, stops: list[_Path]) -> tuple[Any, Any]:
    def stopped(c: _Path) -> Any:
        if c in stops or len(c) == tree.length:
            return tree.value(c)
        return sum(tree.mu(c, y) * (1 + tree.step(c, y)) * stopped((*c, y)) for y in (0, 1))

    replaced = sum(
        tree.reached(c) * tree.weight(c) * (tree.value(c, train=True) - tree.value(c))
        for c in stops
    )
    return tree.value((), train=True) - stopped(()), replaced


def _stopping_rules(length: int) -> Iterable[Check]:
    def at(stops: list[_Path]) -> Check:
        def check() -> Any:
            left, right = _objective_difference(RatioTree(length), stops)
            return identity(sp.expand(left), sp.expand(right))()

        return check

    return [at(stops) for stops in _stops((), length)]


def _prove_objective_after_stop() -> Iterable[Step]:
    yield Step(
        "J(pi) - J(pi_tau) = E_pi[1{tau <= T} (E_pi[R | c_tau] - E_mu[R | c_tau])]",
        "the two agree up to tau; over the tree, for every stopping rule up to T = 3",
        all_of(
            "enumeration",
            "stopping rules",
            [rule for length in (1, 2, 3) for rule in _stopping_rules(length)],
        ),
    )
    yield Step(
        "|E_pi[R | c] - E_mu[R | c]| <= 1",
        "means of the reward",
        BOUNDED_DIFFERENCE.certificate,
        BOUNDED_DIFFERENCE,
    )
    p, d, rest = sp.symbols("p d 1-d", nonnegative=True)
    yield Step(
        "|J(pi) - J(pi_tau)| <= P_pi(tau <= T)",
        "termwise, p the probability of a context at which pi stops and d <= 1",
        nonnegative(p * (d + rest) - p * d, p * rest),
    )


#: ``|J(pi) - J(pi_tau)| <= P_pi(tau <= T)``.
OBJECTIVE_AFTER_STOP = Lemma(
    key="objective_after_stop",
    title="the objective changes only where the budget is exceeded",
    left=objective_after_stop,
    relation="<=",
    right=SYMBOLS["chi2_stop_prob"],
    prove=_prove_objective_after_stop,
    assumes="R in [0, 1]",
    source="trbounds",
)
