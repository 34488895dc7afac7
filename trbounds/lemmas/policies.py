"""Lemmas that take the error apart: by the contexts of each token, or by its future."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from trbounds.derivation import Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.martingales import OBJECTIVE_BY_TV, error_by_futures
from trbounds.lemmas.trees import RatioTree, distribution, on_trees
from trbounds.symbolic import SYMBOLS, T, error, future, gain, gain_spread, shift, t

_eps, _Dbar = SYMBOLS["tv_max"], SYMBOLS["tv_mean"]

# A number in [0, 1] and what it lacks to 1; their sum stands for 1.
_theta = sp.Symbol("theta", nonnegative=True)
_rest = sp.Symbol("1 - theta", nonnegative=True)
_one = _theta + _rest


# -- the error over the contexts of each token -------------------------------------------------


def _gain(tree: RatioTree, c: tuple[int, ...]) -> sp.Expr:
    """``g_t(c) = sum_y (pi - mu)(y|c) E_mu[R | c, y]``."""
    return sum(tree.mu(c, y) * tree.step(c, y) * tree.value((*c, y)) for y in (0, 1))


def _error_identity_steps() -> Iterable[Step]:
    yield Step(
        "J(pi) - J(mu) = sum_t E_{d_t^pi} g_t, g_t(c) = sum_y (pi - mu)(y|c) E_mu[R | c, y]",
        "performance-difference identity, over the whole tree",
        on_trees(
            lambda tree: (
                tree.value((), train=True) - tree.value(()),
                sum(tree.reached(c) * tree.weight(c) * _gain(tree, c) for c in tree.contexts),
            )
        ),
    )
    P, p, m, Q = sp.symbols("P pi mu Q", nonnegative=True)
    yield Step(
        sp.Eq(P * p - Q * m, (P - Q) * m + P * (p - m), evaluate=False),
        "for every T, by induction: P and Q the probabilities of the first T tokens under pi and "
        "mu; times R, the first term is the sum at T, continued by mu, and the second the new one",
        identity(P * p - Q * m, (P - Q) * m + P * (p - m)),
    )
    yield Step(
        "L' = E_mu[R sum_t (rho_t - 1)] = sum_t E_{d_t^mu} g_t",
        "the tokens after t are drawn by mu; over the whole tree",
        on_trees(
            lambda tree: (
                tree.mean(lambda y: tree.reward[y] * tree.ratio_sum(y)),
                sum(tree.reached(c) * _gain(tree, c) for c in tree.contexts),
            )
        ),
    )
    yield Step(
        "E_{d_t^mu} g_t = E_mu[R (rho_t - 1)] for every T",
        "given c_t, y_t the mean of R is E_mu[R | c_t, y_t], and mu rho_t = pi",
        identity(m * (p / m - 1) * Q, (p - m) * Q),
    )
    g = sp.Symbol("g_t", real=True)
    yield Step(
        "Error = J(pi) - J(mu) - L' = sum_t (E_{d_t^pi} - E_{d_t^mu}) g_t",
        "the two sums subtracted, P and Q now the probabilities of a context under pi and mu",
        identity(P * g - Q * g, (P - Q) * g),
    )


def _termwise(size: sp.Expr, difference: str) -> Check:
    """Check ``|x f| <= |x| size`` for |f| <= size, for both signs of a difference x."""
    x = sp.Symbol("x", nonnegative=True)
    f = size * (_rest - _theta)  # any value in [-size, size]
    return all_of(
        "sign",
        f"both signs of {difference}",
        [
            nonnegative(x * size * _one - x * f, 2 * size * _theta * x),
            nonnegative(x * size * _one + x * f, 2 * size * _rest * x),
        ],
    )


def _prove_context_decomposition() -> Iterable[Step]:
    yield from _error_identity_steps()
    yield Step(
        "(E_P - E_Q) f <= sum_c |P - Q| sup|f| = 2 sup|f| TV(P, Q)",
        "termwise for |f| <= G, with f = G (1 - 2 theta): x G - x f = 2 theta x G for x = P - Q "
        ">= 0 and |x| G + |x| f = 2 (1 - theta) |x| G for x < 0; f and -f alike",
        _termwise(sp.Symbol("G", nonnegative=True), "P - Q"),
    )


#: ``|Error| <= sum_t 2 sup|g_t| TV(d_t)``.
CONTEXT_DECOMPOSITION = Lemma(
    key="context_decomposition",
    title="performance difference, and the shift of the contexts",
    left=error,
    relation="<=",
    right=sp.Sum(2 * gain[t] * shift[t], (t, 1, T)),
    prove=_prove_context_decomposition,
    assumes="pi << mu",
    source="TRM v2, section 3",
)


def _prove_context_decomposition_centred() -> Iterable[Step]:
    yield from _error_identity_steps()
    x, y, low, spread = sp.symbols("x y l o", nonnegative=True)
    yield Step(
        "(E_P - E_Q) f = sum over {P > Q} of (P - Q)(f - l) - sum over {P < Q} of (Q - P)(f - l)",
        "a constant l drops out because P and Q have the same mass: the sums x of P - Q over "
        "{P > Q} and y of Q - P over {P < Q} are equal",
        identity((x * low - y * low).subs(y, x), sp.Integer(0)),
    )
    yield Step(
        "(E_P - E_Q) f <= osc(f) TV(P, Q)",
        "l the least value of f and f = l + osc(f) theta: x osc(f) theta <= x osc(f) where P > Q, "
        "and the sum of P - Q there is TV; what is taken off elsewhere is not negative. The same "
        "for -f, which has the same oscillation",
        all_of(
            "sign",
            "both signs of P - Q",
            [
                nonnegative(x * spread * _one - x * spread * _theta, x * spread * _rest),
                nonnegative(x * spread * _theta),
            ],
        ),
    )


#: ``|Error| <= sum_t osc(g_t) TV(d_t)``.
CONTEXT_DECOMPOSITION_CENTRED = Lemma(
    key="context_decomposition_centred",
    title="performance difference, and the shift of the contexts, by oscillation",
    left=error,
    relation="<=",
    right=sp.Sum(gain_spread[t] * shift[t], (t, 1, T)),
    prove=_prove_context_decomposition_centred,
    assumes="pi << mu",
    source="trbounds",
)


# -- the error over the future of each token ---------------------------------------------------


def _prove_future_decomposition() -> Iterable[Step]:
    yield from error_by_futures()
    yield Step(
        "|h_t| <= TV of the continuations after c_{t+1}, for R in [0, 1]",
        "the change of the objective of the problem that starts at c_{t+1}",
        OBJECTIVE_BY_TV.certificate,
        OBJECTIVE_BY_TV,
    )
    mu, pi = sp.symbols("mu pi", positive=True)
    yield Step(
        "E_mu |rho_t - 1| = E_mu sum_y |pi - mu| = 2 Dbar_t",
        "mu |pi/mu - 1| = |pi - mu|, on both sides of 1",
        all_of(
            "enumeration",
            "both signs",
            [identity(mu * (pi / mu - 1), pi - mu), identity(mu * (1 - pi / mu), mu - pi)],
        ),
    )
    yield Step(
        "|E_mu[(rho_t - 1) h_t]| <= E_mu|rho_t - 1| sup|h_t|",
        "termwise, for both signs of rho_t - 1",
        _termwise(sp.Symbol("sup|h|", nonnegative=True), "rho_t - 1"),
    )


#: ``|Error| <= sum_t 2 Dbar_t sup TV(continuations after t)``.
FUTURE_DECOMPOSITION = Lemma(
    key="future_decomposition",
    title="each token's ratio against the change of its future",
    left=error,
    relation="<=",
    right=sp.Sum(2 * _Dbar[t] * future[t], (t, 1, T)),
    prove=_prove_future_decomposition,
    assumes="R in [0, 1]; pi << mu",
    source="TRM v2, Adaptive bound; the constant 2 is trbounds'",
)


# -- one context -------------------------------------------------------------------------------


def _constant_taken_off(tokens: int) -> Check:
    """Check that a constant may be taken from f in ``sum_y (pi - mu)(y) f(y)``."""
    mu, pi = distribution("mu", tokens), distribution("pi", tokens)
    f, b = sp.symbols(f"f1:{tokens + 1}", real=True), sp.Symbol("b", real=True)
    terms = list(zip(mu, pi, f, strict=True))
    return identity(
        sum((p - m) * z for m, p, z in terms), sum((p - m) * (z - b) for m, p, z in terms)
    )


def _constant_step(constant: str) -> Step:
    return Step(
        f"g_t(c) = sum_y (pi - mu)(y|c) (E_mu[R | c, y] - {constant})",
        "a constant may be taken off because both policies sum to 1; expanded for 2..5 tokens",
        all_of("enumeration", "2..5 tokens", [_constant_taken_off(n) for n in range(2, 6)]),
    )


def _prove_advantage() -> Iterable[Step]:
    a, b, rest_a, rest_b = sp.symbols("a b 1-a 1-b", nonnegative=True)
    yield _constant_step("E_mu[R | c]")
    yield Step(
        "|E_mu[R | c, y] - E_mu[R | c]| <= 1",
        "two numbers a, b in [0, 1]: 1 - (a - b) = (1 - a) + b and 1 + (a - b) = a + (1 - b)",
        all_of(
            "sign",
            "both signs",
            [nonnegative((a + rest_a) - a + b), nonnegative((b + rest_b) - b + a)],
        ),
    )
    yield Step(
        "|g_t(c)| <= sum_y |pi - mu|(y|c) = 2 tv(c)",
        "termwise, for both signs of pi - mu",
        _termwise(sp.Integer(1), "pi - mu"),
    )
    slack = sp.Symbol("slack", nonnegative=True)
    x = sp.Symbol("x", nonnegative=True)
    yield Step(
        "2 tv(c) <= 2 eps and 2 tv(c) <= 2: below the smaller",
        "eps is the largest tv(c); tv(c) <= 1. Of two numbers x and x + slack the smaller is x",
        identity(sp.Min(x, x + slack), x),
    )


#: ``sup|g_t| <= 2 min(1, eps)``.
ADVANTAGE = Lemma(
    key="advantage",
    title="advantage bound",
    left=gain[t],
    relation="<=",
    right=2 * sp.Min(1, _eps),
    prove=_prove_advantage,
    assumes="R in [0, 1]",
    source="TRM v2, section 3",
)


def _prove_advantage_centred() -> Iterable[Step]:
    half = sp.Rational(1, 2)
    yield _constant_step("1/2")
    yield Step(
        "|E_mu[R | c, y] - 1/2| <= 1/2",
        "theta - 1/2 with theta in [0, 1]: 1/2 -+ (theta - 1/2) = 1 - theta or theta",
        all_of(
            "sign",
            "both signs",
            [
                nonnegative(half * _one - (_theta - half * _one), _rest),
                nonnegative(half * _one + (_theta - half * _one), _theta),
            ],
        ),
    )
    yield Step(
        "|g_t(c)| <= (1/2) sum_y |pi - mu|(y|c) = tv(c) <= eps",
        "termwise, for both signs of pi - mu",
        _termwise(half, "pi - mu"),
    )
    below, above = sp.symbols("eps-p q+eps", nonnegative=True)  # of two values p and q
    yield Step(
        "osc(g_t) <= 2 eps",
        "two values p, q of g_t in [-eps, eps]: 2 eps - (p - q) = (eps - p) + (q + eps)",
        nonnegative(2 * _eps - ((_eps - below) - (above - _eps))),
    )


#: ``osc(g_t) <= 2 eps``: the reward may be centred to [-1/2, 1/2].
ADVANTAGE_CENTRED = Lemma(
    key="advantage_centred",
    title="advantage bound with the reward centred",
    left=gain_spread[t],
    relation="<=",
    right=2 * _eps,
    prove=_prove_advantage_centred,
    assumes="R in [0, 1]",
    source="trbounds",
)


# -- sums over positions -----------------------------------------------------------------------


def _prove_total_tv() -> Iterable[Step]:
    def swap(sequences: int, length: int) -> Check:
        p = sp.symbols(f"p1:{sequences + 1}", nonnegative=True)
        tv = sp.symbols(f"tv1:{sequences * length + 1}", nonnegative=True)
        cells = [tv[i * length : (i + 1) * length] for i in range(sequences)]
        by_position = sum(
            sum(w * row[j] for w, row in zip(p, cells, strict=True)) for j in range(length)
        )
        return identity(by_position, sum(w * sum(row) for w, row in zip(p, cells, strict=True)))

    yield Step(
        "sum_t E_mu tv(c_t) = E_mu sum_t tv(c_t)",
        "the mean is linear; expanded for 2..4 sequences",
        all_of("enumeration", "sequences x positions", [swap(2, 3), swap(3, 2), swap(4, 4)]),
    )


#: ``sum_t Dbar_t`` is the mean over rollouts of the per-sequence sum of TV.
TOTAL_TV = Lemma(
    key="total_tv",
    title="the means summed over positions",
    left=sp.Sum(2 * _Dbar[t], (t, 1, T)),
    relation="==",
    right=2 * SYMBOLS["tv_total"],
    prove=_prove_total_tv,
)
