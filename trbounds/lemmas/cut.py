"""Lemmas on a ratio cut at 1 + c: a policy of bounded chi2, and a small remainder in mean."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.conjugate import (
    LARGE_PART,
    MEAN_PHI,
    SMALL_PART,
    cut,
    large_factor,
    phi,
    small_factor,
)
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER
from trbounds.lemmas.duality import BOUNDED_DIFFERENCE
from trbounds.lemmas.inequalities import LOG_BELOW_LINE
from trbounds.lemmas.martingales import OBJECTIVE_BY_TV
from trbounds.lemmas.path_sums import WEIGHT_GAP
from trbounds.lemmas.trees import RatioTree
from trbounds.symbolic import SYMBOLS, error

_K = SYMBOLS["kl_path_max"]
_Path = tuple[int, ...]

#: The factors ``a = c^2/phi(c)`` and ``b = c/phi(c)`` of the cut.
small = sp.Symbol("a", positive=True)
large = sp.Symbol("b", positive=True)

#: Quantities of the cut policy pi_c.
error_cut = sp.Symbol("|Error(pi_c)|", nonnegative=True)
residual_square_cut = sp.Symbol("Q(pi_c)", nonnegative=True)
weighted_residual_cut = sp.Symbol("sum_t E_mu[(W^c_{t-1} - 1)^2 chi2_c(c_t)]", nonnegative=True)
_chi2_cut = sp.Symbol("sum_t chi2_c(c_t)", nonnegative=True)

#: The two parts of what the cut leaves out.
tail_by_weight = sp.Symbol("|sum_t E_mu[(W^c_{t-1} - 1) Z_t E_pi[R | c_{t+1}]]|", nonnegative=True)
tail_by_future = sp.Symbol(
    "|sum_t E_mu[Z_t (E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}])]|", nonnegative=True
)

#: ``sup |E_pi[R | c] - E_mu[R | c]|`` over contexts that a rollout reaches.
future_gap = sp.Symbol("sup_c |E_pi[R | c] - E_mu[R | c]|", nonnegative=True)

# -- the factors -------------------------------------------------------------------------------


def _prove_factor() -> Iterable[Step]:
    u = sp.Symbol("u", positive=True)
    yield Step(
        "phi(c) = c - log(1 + c) > 0 for c > 0, by definition of the factor it divides",
        "log u >= 1 - 1/u at u = 1/(1 + c), with equality only at u = 1",
        all_of(
            "sign",
            "the lemma and its left side",
            [
                LOG_BELOW_LINE.certificate,
                identity((1 - 1 / u).subs(u, 1 / (1 + cut)), -cut),
            ],
        ),
        LOG_BELOW_LINE,
    )


#: ``a = c^2/phi(c)``.
SMALL_FACTOR = Lemma(
    key="small_factor",
    title="the factor of squares below the cut",
    left=small,
    relation="==",
    right=small_factor,
    prove=_prove_factor,
)

#: ``b = c/phi(c)``.
LARGE_FACTOR = Lemma(
    key="large_factor",
    title="the factor of ratios above the cut",
    left=large,
    relation="==",
    right=large_factor,
    prove=_prove_factor,
)


# -- the cut policy ----------------------------------------------------------------------------


class _CutTree(RatioTree):
    """A second policy on the same tree: its ratios have symbols of their own."""

    def step(self, c: _Path, y: int) -> sp.Expr:
        g, m = sp.Symbol("g_" + "".join(map(str, c)), real=True), self.mu(c, 1)
        return g * (1 - m) if y else -g * m


def _difference_of_errors(length: int) -> Check:
    def check() -> Any:
        tree, other = RatioTree(length), _CutTree(length)
        left = tree.mean(lambda y: tree.reward[y] * (tree.residual(y) - other.residual(y)))

        def tail(c: _Path, y: int) -> Any:
            future = tree.value((*c, y), train=True)
            change = future - tree.value((*c, y))
            z = tree.step(c, y) - other.step(c, y)
            return z * ((other.weight(c) - 1) * future + change)

        return identity(sp.expand(left), sp.expand(tree.mean_over_tokens(tail)))()

    return check


def _prove_cut_parts() -> Iterable[Step]:
    y, z = sp.symbols("1+Y E_mu[Z|c_t]", nonnegative=True)
    yield Step(
        "1 + Y - E_mu[Y | c_t] >= 0 has mean 1: it is the ratio of a policy pi_c to mu",
        "rho - 1 = Y + Z, Y = (rho - 1) 1{rho <= 1 + c} >= -1, Z = (rho - 1) 1{rho > 1 + c} >= 0; "
        "rho - 1 has mean 0, so E_mu[Y | c_t] = -E_mu[Z | c_t] <= 0",
        nonnegative(y + z),
    )
    yield Step(
        "Error(pi) - Error(pi_c) = sum_t E_mu[(W^c_{t-1} - 1) Z_t E_pi[R | c_{t+1}]] "
        "+ sum_t E_mu[Z_t (E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}])], "
        "Z_t = rho_t - rho^c_t from here on: Z less its mean",
        "true of any two policies; over the tree, with ratios of their own",
        all_of("enumeration", "T = 1..3", [_difference_of_errors(n) for n in (1, 2, 3)]),
    )
    w, v, rho, rho_c = sp.symbols("W W^c rho rho^c", real=True)
    yield Step(
        "W - W^c = sum_t W^c_{t-1} (rho_t - rho^c_t) prod_{j>t} rho_j for every T",
        "induction: one more token turns (W - W^c) into (W - W^c) rho + W^c (rho - rho^c); "
        "the later ratios turn mu's mean of R into pi's",
        identity(w * rho - v * rho_c, (w - v) * rho + v * (rho - rho_c)),
    )
    a, b, c = sp.symbols("a b c", nonnegative=True)
    yield Step(
        "|x + y + z| <= |x| + |y| + |z|",
        "every sign pattern",
        all_of(
            "sign",
            "sign patterns",
            [
                nonnegative(a + b + c - (i * a + j * b + k * c))
                for i, j, k in product((1, -1), repeat=3)
            ],
        ),
    )


#: ``|Error|`` is at most the cut policy's error and the two parts of what the cut leaves out.
CUT_PARTS = Lemma(
    key="cut_parts",
    title="the training policy replaced by the one whose ratio is cut at 1 + c",
    left=error,
    relation="<=",
    right=error_cut + tail_by_weight + tail_by_future,
    prove=_prove_cut_parts,
    assumes="c > 0; pi << mu",
    source="trbounds",
)


def _shares_steps() -> Iterable[Step]:
    yield Step(
        "k' + k'' = kl(c_t)",
        "k' and k'' are the means of phi(rho - 1) where rho <= 1 + c and where rho > 1 + c",
        MEAN_PHI.certificate,
        MEAN_PHI,
    )
    x = sp.Symbol("x", real=True)
    yield Step(
        "phi(x) = log u - (1 - 1/u) >= 0, u = 1/(1 + x)",
        "log u >= 1 - 1/u: k' and k'' are not negative, so those of a rollout sum to at most K",
        all_of(
            "sign",
            "the form, and the lemma",
            [
                identity(sp.expand_log(-sp.log(1 + x)) - (1 - (1 + x)), phi(x)),
                LOG_BELOW_LINE.certificate,
            ],
        ),
        LOG_BELOW_LINE,
    )


def _prove_cut_chi2() -> Iterable[Step]:
    square, mean = sp.symbols("E[Y^2] E[Y]", real=True)
    yield Step(
        "chi2_c(c_t) = E_mu[Y^2 | c_t] - E_mu[Y | c_t]^2 <= E_mu[Y^2 | c_t]",
        "the second moment of Y less its mean",
        nonnegative(square - (square - mean**2), mean**2),
    )
    yield Step(
        "E_mu[Y^2 | c_t] <= a E_mu[phi(rho - 1) 1{rho <= 1 + c} | c_t] = a k'",
        "x^2 <= a phi(x) for x <= c",
        SMALL_PART.certificate,
        SMALL_PART,
    )
    yield from _shares_steps()


#: ``sum_t chi2_c(c_t) <= a K`` along every rollout.
CUT_CHI2 = Lemma(
    key="cut_chi2",
    title="the cut policy's sum of chi2 along a response",
    left=_chi2_cut,
    relation="<=",
    right=small_factor * _K,
    prove=_prove_cut_chi2,
    assumes="sum_t kl(c_t) <= K along every rollout",
    source="trbounds",
)


# -- what the cut leaves out -------------------------------------------------------------------


def _covariance(tokens: int) -> Check:
    m = [*sp.symbols(f"m1:{tokens}", nonnegative=True)]
    m.append(1 - sum(m))
    z, f = sp.symbols(f"z1:{tokens + 1}", real=True), sp.symbols(f"f1:{tokens + 1}", real=True)
    mean_z = sum(p * x for p, x in zip(m, z, strict=True))
    mean_f = sum(p * x for p, x in zip(m, f, strict=True))
    left = sum(p * (x - mean_z) * g for p, x, g in zip(m, z, f, strict=True))
    return identity(left, sum(p * x * (g - mean_f) for p, x, g in zip(m, z, f, strict=True)))


def _tail_steps(bound: str) -> Iterable[Step]:
    yield Step(
        "E_mu[(Z - E_mu[Z | c_t]) f | c_t] = E_mu[Z (f - E_mu[f | c_t]) | c_t]",
        "a covariance may be centred on either side; expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [_covariance(n) for n in range(2, 6)]),
    )
    z, size, theta, rest = sp.symbols("Z f theta 1-theta", nonnegative=True)
    yield Step(
        f"|E_mu[Z (f - E_mu[f | c_t]) | c_t]| <= {bound}",
        "termwise for Z >= 0, both signs",
        all_of(
            "sign",
            "both signs",
            [nonnegative(z * size * (theta + rest) - s * z * size * theta) for s in (1, -1)],
        ),
    )
    yield Step(
        "E_mu[Z | c_t] <= b E_mu[phi(rho - 1) 1{rho > 1 + c} | c_t] = b k''",
        "x <= b phi(x) for x >= c",
        LARGE_PART.certificate,
        LARGE_PART,
    )
    yield from _shares_steps()


def _prove_tail_by_weight() -> Iterable[Step]:
    yield Step(
        "|f - E_mu[f | c_t]| <= 1 for f = E_pi[R | c_{t+1}]",
        "both are means of the reward",
        BOUNDED_DIFFERENCE.certificate,
        BOUNDED_DIFFERENCE,
    )
    yield from _tail_steps("E_mu[Z | c_t]")
    p = sp.symbols("p1:4", nonnegative=True)
    d = sp.symbols("d1:4", nonnegative=True)
    size = sum(q * x for q, x in zip(p, d, strict=True))
    patterns = [
        nonnegative(size - sum(s * q * x for s, q, x in zip(signs, p, d, strict=True)))
        for signs in product((1, -1), repeat=3)
    ]
    yield Step(
        "|W^c_{t-1} - 1| = |E_mu[W^c_t - 1 | c_t]| <= E_mu[|W^c_t - 1| | c_t]",
        "W^c is a martingale, and the modulus of a mean is at most the mean of the modulus: "
        "|W^c - 1| is a submartingale",
        all_of("enumeration", "sign patterns", patterns),
    )
    weight, slack = sp.symbols("|W^c-1| K-sum_t_k''", nonnegative=True)
    used = sp.Symbol("sum_t_k''", nonnegative=True)
    yield Step(
        "sum_t E_mu[|W^c_{t-1} - 1| k''_t] <= E_mu[|W^c - 1| sum_t k''_t] <= K E_mu|W^c - 1|",
        "k''_t is fixed by c_t, so |W^c_{t-1} - 1| may be replaced by the mean of |W^c - 1| "
        "given c_t; the k'' of a rollout sum to at most K",
        nonnegative((used + slack) * weight - used * weight, slack * weight),
    )
    yield Step(
        "E_mu|W^c - 1| <= sqrt(exp(a K) - 1)",
        "the sum of chi2 of pi_c is at most a K along every rollout",
        WEIGHT_GAP.certificate,
        WEIGHT_GAP,
    )
    yield Step("sum_t chi2_c(c_t) <= a K", CUT_CHI2.title, CUT_CHI2.certificate, CUT_CHI2)


#: ``|sum_t E_mu[(W^c_{t-1} - 1) Z_t E_pi[R | c_{t+1}]]| <= b K sqrt(exp(a K) - 1)``.
TAIL_BY_WEIGHT = Lemma(
    key="tail_by_weight",
    title="the large ratios against the weight before them",
    left=tail_by_weight,
    relation="<=",
    right=large_factor * _K * sp.sqrt(sp.exp(small_factor * _K) - 1),
    prove=_prove_tail_by_weight,
    assumes="R in [0, 1]; sum_t kl(c_t) <= K along every rollout; pi << mu",
    source="trbounds",
)


def _prove_future_gap() -> Iterable[Step]:
    kl, slack = sp.symbols("KL slack", nonnegative=True)
    yield Step(
        "|E_pi[R | c] - E_mu[R | c]| <= TV of the continuations after c",
        "the change of the objective of the problem that starts at c",
        OBJECTIVE_BY_TV.certificate,
        OBJECTIVE_BY_TV,
    )
    yield Step("TV <= min(1, sqrt(KL/2))", "Pinsker", PINSKER.certificate, PINSKER)
    yield Step(
        "KL of the continuations = E_mu[sum_{s>t} kl(c_s) | c_{t+1}] <= K",
        "chain rule; a mean over rollouts of at most K each",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    yield Step(
        "KL <= K: sqrt(KL/2) <= sqrt(K/2)",
        "squares of non-negative numbers, K = KL + slack",
        nonnegative(sp.sqrt((kl + slack) / 2) ** 2 - sp.sqrt(kl / 2) ** 2, slack / 2),
    )


#: ``sup |E_pi[R | c] - E_mu[R | c]| <= sqrt(K/2)``.
FUTURE_GAP = Lemma(
    key="future_gap",
    title="change of the future's mean reward by the KL still to come",
    left=future_gap,
    relation="<=",
    right=sp.sqrt(_K / 2),
    prove=_prove_future_gap,
    assumes="R in [0, 1]; sum_t kl(c_t) <= K along every rollout",
)


def _prove_tail_by_future() -> Iterable[Step]:
    yield Step(
        "|f| <= sqrt(K/2) for f = E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}]",
        FUTURE_GAP.title,
        FUTURE_GAP.certificate,
        FUTURE_GAP,
    )
    yield Step(
        "|f - E_mu[f | c_t]| <= 2 sqrt(K/2) = sqrt(2 K)",
        "two numbers of at most that size",
        identity(2 * sp.sqrt(_K / 2), sp.sqrt(2 * _K)),
    )
    yield from _tail_steps("E_mu[Z | c_t] sqrt(2 K)")
    used, slack = sp.symbols("E_mu[sum_t_k''] slack", nonnegative=True)
    yield Step(
        "sum_t E_mu[b k''_t sqrt(2 K)] <= b K sqrt(2 K)",
        "the k'' of a rollout sum to at most K",
        nonnegative((used + slack) * sp.sqrt(2 * _K) - used * sp.sqrt(2 * _K)),
    )


#: ``|sum_t E_mu[Z_t (E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}])]| <= b K sqrt(2 K)``.
TAIL_BY_FUTURE = Lemma(
    key="tail_by_future",
    title="the large ratios against the change of the future",
    left=tail_by_future,
    relation="<=",
    right=large_factor * _K * sp.sqrt(2 * _K),
    prove=_prove_tail_by_future,
    assumes="R in [0, 1]; sum_t kl(c_t) <= K along every rollout; pi << mu",
    source="trbounds",
)
