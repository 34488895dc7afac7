"""Lemmas on policy pairs: telescoping, performance difference, advantages, context shift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import sympy as sp

from trbounds.derivation import Certificate, Check, Lemma, Step, all_of, identity, nonnegative
from trbounds.lemmas.divergences import CHAIN_RULE, PINSKER, TV_PROCESSING
from trbounds.symbolic import SYMBOLS, T, error, future, gain, gain_spread, shift, t

__all__ = [
    "ADVANTAGE",
    "ADVANTAGE_CENTRED",
    "CONTEXT_DECOMPOSITION",
    "CONTEXT_DECOMPOSITION_CENTRED",
    "FUTURE_BY_BOTH",
    "FUTURE_BY_KL",
    "FUTURE_BY_TV",
    "FUTURE_DECOMPOSITION",
    "MARTINGALE",
    "REWARD_SHIFT",
    "SHIFT_BY_KL",
    "SHIFT_BY_SEQUENCE_KL",
    "SHIFT_BY_SEQUENCE_TV",
    "SHIFT_BY_TV",
    "SHIFT_SHARP",
    "TELESCOPING",
    "TOTAL_TV",
]

_eps, _delta = SYMBOLS["tv_max"], SYMBOLS["kl_max"]
_D, _V = SYMBOLS["kl_seq"], SYMBOLS["tv_seq"]
_Dbar = SYMBOLS["tv_mean"]

W = sp.Symbol("W", nonnegative=True)
M = sp.Symbol("M", real=True)
_residual = sp.Symbol("W - 1 - M", real=True)
_telescoped = sp.Symbol("-sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)", real=True)


def _ratios(length: int) -> tuple[sp.Symbol, ...]:
    return tuple(sp.symbols(f"rho1:{length + 1}", nonnegative=True))


# -- along one sequence ------------------------------------------------------------------------


def _prove_telescoping() -> Iterable[Step]:
    def both_sides(length: int) -> Check:
        rho = _ratios(length)
        residual = sp.prod(rho) - 1 - sum(r - 1 for r in rho)
        telescoped = -sum((r - 1) * (1 - sp.prod(rho[i + 1 :])) for i, r in enumerate(rho))
        return identity(residual, telescoped)

    yield Step(
        "W - 1 - M = -sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)",
        "expanded for T = 1..5",
        all_of("enumeration", "T = 1..5", [both_sides(n) for n in range(1, 6)]),
    )
    rho, S = sp.symbols("rho S", real=True)
    # S_T = sum_t (rho_t - 1) prod_{j>t} rho_j; one more token multiplies it and adds rho - 1.
    yield Step(
        sp.Eq((S * rho + rho - 1).subs(S, W - 1), W * rho - 1, evaluate=False),
        "induction: if sum_t (rho_t - 1) prod_{j>t} rho_j = W - 1 at T, then at T + 1 it is "
        "(W - 1) rho + (rho - 1) = W rho - 1",
        identity((S * rho + rho - 1).subs(S, W - 1), W * rho - 1),
    )


#: ``W - 1 - M = -sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)``, along every sequence.
TELESCOPING = Lemma(
    key="telescoping",
    title="telescoping identity",
    left=_residual,
    relation="==",
    right=_telescoped,
    prove=_prove_telescoping,
    source="TRM v2, section 3",
)

_drift = sp.Symbol("E_mu[rho_t - 1 | c_t]", real=True)


def _prove_martingale() -> Iterable[Step]:
    def drift(tokens: int) -> Check:
        pi = _simplex("pi", tokens)
        mu = _simplex("mu", tokens)
        return identity(sum(m * (p / m - 1) for p, m in zip(pi, mu, strict=True)), sp.Integer(0))

    yield Step(
        "sum_y mu(y|c) (pi(y|c)/mu(y|c) - 1) = sum_y pi(y|c) - sum_y mu(y|c) = 0",
        "expanded for 2..6 tokens; both policies sum to 1 where pi puts mass only where mu does",
        all_of("enumeration", "2..6 tokens", [drift(n) for n in range(2, 7)]),
    )


#: ``E_mu[rho_t - 1 | c_t] = 0``: M and W - 1 are martingales under the rollout policy.
MARTINGALE = Lemma(
    key="martingale",
    title="the ratio has mean 1 (needs absolute continuity)",
    left=_drift,
    relation="==",
    right=sp.Integer(0),
    prove=_prove_martingale,
    assumes="pi << mu",
)

_shifted = sp.Symbol("|Error(R + c)|", nonnegative=True)


def _prove_reward_shift() -> Iterable[Step]:
    yield Step(
        "E_mu[rho_t - 1 | c_t] = 0, hence E_mu[M] = 0 and E_mu[W - 1] = 0",
        "increments with mean 0 given their context",
        MARTINGALE.certificate,
        MARTINGALE,
    )
    c, mean_w, mean_m = sp.symbols("c E[W] E[M]", real=True)
    yield Step(
        "E_mu[(R + c)(W - 1 - M)] = E_mu[R (W - 1 - M)] + c (E[W] - 1 - E[M])",
        "linear in the reward; the added term is 0",
        identity((c * (mean_w - 1 - mean_m)).subs({mean_w: 1, mean_m: 0}), sp.Integer(0)),
    )


#: ``Error`` does not change when a constant is added to the reward.
REWARD_SHIFT = Lemma(
    key="reward_shift",
    title="a constant added to the reward leaves Error unchanged",
    left=_shifted,
    relation="==",
    right=error,
    prove=_prove_reward_shift,
    source="trbounds",
)


def _simplex(name: str, size: int) -> list[sp.Expr]:
    free = list(sp.symbols(f"{name}_1:{size}", positive=True))
    return [*free, 1 - sum(free)]


# -- over the tree of contexts -----------------------------------------------------------------


_Policy = dict[tuple[int, ...], tuple[sp.Expr, sp.Expr]]


class _Tree:
    """Binary tokens, horizon `length`, every probability and reward a symbol of its own."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.paths = list(product((0, 1), repeat=length))
        contexts = [c for n in range(length) for c in product((0, 1), repeat=n)]
        self.mu = {c: _coin("mu", c) for c in contexts}
        self.pi = {c: _coin("pi", c) for c in contexts}
        self.reward = {y: sp.Symbol("R" + _name(y)) for y in self.paths}

    def probability(self, policy: _Policy, y: tuple[int, ...], upto: int) -> sp.Expr:
        """Probability of the first `upto` tokens of a path."""
        return sp.prod(policy[y[:i]][y[i]] for i in range(upto))

    def telescoped(self, position: int, before: _Policy) -> sp.Expr:
        """E over contexts drawn by `before` of g_t = sum_y (pi - mu)(y|c) E_mu[R | c, y]."""
        i = position - 1
        return sum(
            self.probability(before, y, i)
            * (self.pi[y[:i]][y[i]] - self.mu[y[:i]][y[i]])
            * self._after(self.mu, y, i)
            * self.reward[y]
            for y in self.paths
        )

    def objective(self, policy: _Policy) -> sp.Expr:
        """J(policy)."""
        return sum(self.probability(policy, y, self.length) * self.reward[y] for y in self.paths)

    def future_differences(self) -> sp.Expr:
        """sum_t E_mu[(rho_t - 1)(E_pi - E_mu)[R | c_{t+1}]], each ratio multiplied out."""
        return sum(
            self.probability(self.mu, y, i)
            * (self.pi[y[:i]][y[i]] - self.mu[y[:i]][y[i]])
            * (self._after(self.pi, y, i) - self._after(self.mu, y, i))
            * self.reward[y]
            for y in self.paths
            for i in range(self.length)
        )

    def _after(self, policy: _Policy, y: tuple[int, ...], i: int) -> sp.Expr:
        return sp.prod(policy[y[:j]][y[j]] for j in range(i + 1, self.length))

    def surrogate(self) -> sp.Expr:
        """L' = E_mu[R sum_t (rho_t - 1)], each ratio multiplied out."""
        return sum(
            self.reward[y]
            * sum(
                (self.pi[y[:i]][y[i]] - self.mu[y[:i]][y[i]])
                * sp.prod(self.mu[y[:j]][y[j]] for j in range(self.length) if j != i)
                for i in range(self.length)
            )
            for y in self.paths
        )


def _name(tokens: tuple[int, ...]) -> str:
    return "_" + "".join(map(str, tokens))


def _coin(policy: str, context: tuple[int, ...]) -> tuple[sp.Expr, sp.Expr]:
    p = sp.Symbol(policy + _name(context))
    return p, 1 - p


def _performance_difference(length: int) -> Check:
    def check() -> Certificate:
        tree = _Tree(length)
        gains = sum(tree.telescoped(i, tree.pi) for i in range(1, length + 1))
        return identity(tree.objective(tree.pi) - tree.objective(tree.mu), gains)()

    return check


def _surrogate(length: int) -> Check:
    def check() -> Certificate:
        tree = _Tree(length)
        gains = sum(tree.telescoped(i, tree.mu) for i in range(1, length + 1))
        return identity(tree.surrogate(), gains)()

    return check


def _future_difference(length: int) -> Check:
    def check() -> Certificate:
        tree = _Tree(length)
        error = tree.objective(tree.pi) - tree.objective(tree.mu) - tree.surrogate()
        return identity(error, tree.future_differences())()

    return check


def _error_identity_steps() -> Iterable[Step]:
    yield Step(
        "J(pi) - J(mu) = sum_t E_{d_t^pi} g_t, g_t(c) = sum_y (pi - mu)(y|c) E_mu[R | c, y]",
        "performance-difference identity, expanded over the whole tree for T = 1..5",
        all_of("enumeration", "T = 1..5", [_performance_difference(n) for n in range(1, 6)]),
    )
    P, p, m, Q = sp.symbols("P pi mu Q", nonnegative=True)
    yield Step(
        sp.Eq(P * p - Q * m, (P - Q) * m + P * (p - m), evaluate=False),
        "induction: P and Q the probabilities of the first T tokens under pi and mu; the first "
        "term is the sum at T continued by mu, the second the new one",
        identity(P * p - Q * m, (P - Q) * m + P * (p - m)),
    )
    yield Step(
        "L' = E_mu[R sum_t (rho_t - 1)] = sum_t E_{d_t^mu} g_t",
        "the tokens after t are drawn by mu; expanded over the whole tree for T = 1..5",
        all_of("enumeration", "T = 1..5", [_surrogate(n) for n in range(1, 6)]),
    )
    yield Step(
        "E_{d_t^mu} g_t = E_mu[R (rho_t - 1)] for every T",
        "given c_t, y_t the mean of R is E_mu[R | c_t, y_t], and mu rho_t = pi",
        identity(m * (p / m - 1) * Q, (p - m) * Q),
    )


def _prove_context_decomposition() -> Iterable[Step]:
    yield from _error_identity_steps()
    x, size = sp.symbols("x G", nonnegative=True)
    theta = sp.Symbol("theta", nonnegative=True)
    rest = sp.Symbol("1 - theta", nonnegative=True)
    f = size * (rest - theta)  # any value in [-G, G], with theta in [0, 1] and rest = 1 - theta
    one = theta + rest
    yield Step(
        "(E_P - E_Q) f <= sum_c |P - Q| sup|f| = 2 sup|f| TV(P, Q)",
        "termwise for |f| <= G, with f = G (1 - 2 theta): x G - x f = 2 theta x G for x >= 0 and "
        "2 (1 - theta) |x| G for x < 0",
        all_of(
            "sign",
            "both signs of P - Q",
            [
                nonnegative(x * size * one - x * f, 2 * theta * x * size),
                nonnegative(x * size * one + x * f, 2 * rest * x * size),
            ],
        ),
    )


#: ``|Error| <= sum_t 2 sup|g_t| TV(d_t)``.
CONTEXT_DECOMPOSITION = Lemma(
    key="context_decomposition",
    title="performance difference, and the shift of the contexts",
    left=error,
    relation="<=",
    right=sp.Sum(2 * gain[t] * shift[t], (t, 1, T)),
    prove=_prove_context_decomposition,
    source="TRM v2, section 3",
)


def _prove_context_decomposition_centred() -> Iterable[Step]:
    yield from _error_identity_steps()
    x, low, spread = sp.symbols("x l o", nonnegative=True)
    theta = sp.Symbol("theta", nonnegative=True)
    rest = sp.Symbol("1 - theta", nonnegative=True)
    yield Step(
        "(E_P - E_Q) f <= osc(f) TV(P, Q)",
        "f = l + o theta with theta in [0, 1]; the constant l drops out because P and Q have the "
        "same mass, and sum over {P > Q} of (P - Q) is TV: x o - x o theta >= 0 there, and "
        "-|x| o theta <= 0 elsewhere",
        all_of(
            "sign",
            "both signs of P - Q",
            [
                nonnegative(x * spread * (theta + rest) - x * spread * theta, x * spread * rest),
                nonnegative(x * spread * theta),
                identity(low * x - low * x, sp.Integer(0)),
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
    source="trbounds",
)


def _prove_future_decomposition() -> Iterable[Step]:
    yield Step(
        "Error = E_mu[R (W - 1 - M)] = -E_mu[R sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)]",
        "telescoping along every sequence",
        TELESCOPING.certificate,
        TELESCOPING,
    )
    yield Step(
        "Error = -sum_t E_mu[(rho_t - 1)(E_mu[R | c_{t+1}] - E_pi[R | c_{t+1}])]",
        "given c_{t+1} the ratio rho_t is fixed, and weighting by the later ratios gives pi's "
        "mean; expanded over the whole tree for T = 1..4",
        all_of("enumeration", "T = 1..4", [_future_difference(n) for n in range(1, 5)]),
    )
    x = sp.Symbol("x", nonnegative=True)
    theta = sp.Symbol("theta", nonnegative=True)
    rest = sp.Symbol("1 - theta", nonnegative=True)
    yield Step(
        "|E_pi[R | c] - E_mu[R | c]| <= TV of the continuations, for R in [0, 1]",
        "over {P > Q}, x R <= x; elsewhere -|x| R <= 0; and sum over {P > Q} of (P - Q) is TV",
        all_of(
            "sign",
            "both signs of P - Q",
            [nonnegative(x * (theta + rest) - x * theta, x * rest), nonnegative(x * theta)],
        ),
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


#: ``|Error| <= sum_t 2 Dbar_t sup TV(continuations after t)``.
FUTURE_DECOMPOSITION = Lemma(
    key="future_decomposition",
    title="each token's ratio against the change of its future",
    left=error,
    relation="<=",
    right=sp.Sum(2 * _Dbar[t] * future[t], (t, 1, T)),
    prove=_prove_future_decomposition,
    source="TRM v2, Adaptive bound; the constant 2 is trbounds'",
)


# -- one context -------------------------------------------------------------------------------


def _prove_advantage(half: bool) -> Iterable[Step]:
    x = sp.Symbol("x", nonnegative=True)
    theta = sp.Symbol("theta", nonnegative=True)
    rest = sp.Symbol("1 - theta", nonnegative=True)
    one = theta + rest
    if half:
        yield Step(
            "Error does not change when 1/2 is taken from the reward",
            "so E_mu[R | c, y] may be taken in [-1/2, 1/2]",
            REWARD_SHIFT.certificate,
            REWARD_SHIFT,
        )
    else:
        yield Step(
            "|A(c, y)| = |E_mu[R | c, y] - E_mu[R | c]| <= 1",
            "a difference of two numbers theta, theta' in [0, 1]: 1 - (theta - theta') = "
            "(1 - theta) + theta'",
            nonnegative(one - theta + x, rest + x),
        )
    size = sp.Rational(1, 2) if half else sp.Integer(1)
    f = size * (rest - theta)
    yield Step(
        f"|g_t(c)| <= {size} sum_y |pi - mu| = {2 * size} tv(c)",
        "termwise, for both signs of pi - mu",
        all_of(
            "sign",
            "both signs of pi - mu",
            [
                nonnegative(x * size * one - x * f, 2 * size * theta * x),
                nonnegative(x * size * one + x * f, 2 * size * rest * x),
            ],
        ),
    )


#: ``sup|g_t| <= 2 min(1, eps)``.
ADVANTAGE = Lemma(
    key="advantage",
    title="advantage bound",
    left=gain[t],
    relation="<=",
    right=2 * sp.Min(1, _eps),
    prove=lambda: _prove_advantage(half=False),
    source="TRM v2, section 3",
)

#: ``osc(g_t) <= 2 eps`` with the reward centred to [-1/2, 1/2].
ADVANTAGE_CENTRED = Lemma(
    key="advantage_centred",
    title="advantage bound with the reward centred",
    left=gain_spread[t],
    relation="<=",
    right=2 * _eps,
    prove=lambda: _prove_advantage(half=True),
    source="trbounds",
)


# -- shift of the contexts ---------------------------------------------------------------------


def _hybrid_step() -> Step:
    P, Q, p, m = sp.symbols("P Q pi mu", nonnegative=True)
    return Step(
        "P pi - Q mu = (P - Q) pi + Q (pi - mu), hence TV(d_{t+1}) <= TV(d_t) + eps",
        "the first term summed over tokens gives TV(d_t), the second at most eps; TV(d_1) = 0",
        identity(P * p - Q * m, (P - Q) * p + Q * (p - m)),
    )


def _prove_shift_by_tv() -> Iterable[Step]:
    yield _hybrid_step()
    eps = sp.Symbol("epsilon", nonnegative=True)
    yield Step(
        sp.Eq((t - 1) * eps + eps, t * eps, evaluate=False),
        "induction over t; TV is never above 1",
        identity((t - 1) * eps + eps, t * eps),
    )


def _prove_shift_sharp() -> Iterable[Step]:
    a, b, e, f = sp.symbols("a b e f", nonnegative=True)

    def case(first_small: bool, second_small: bool) -> Check:
        # Write the larger of each pair as the smaller plus a non-negative excess.
        x, y = (a, a + e) if first_small else (a + e, a)
        u, w = (b, b + f) if second_small else (b + f, b)
        return all_of("sign", "", [nonnegative(x * u - a * b), nonnegative(y * w - a * b)])

    yield Step(
        "min(a b, c d) >= min(a, c) min(b, d)",
        "every order of the two pairs: the overlap of a joint is at least the product",
        all_of("sign", "orders", [case(i, j) for i in (True, False) for j in (True, False)]),
    )
    rest = sp.Symbol("1 - epsilon", nonnegative=True)
    yield Step(
        sp.Eq(rest ** (t - 1) * rest, rest**t, evaluate=False),
        "the overlap 1 - TV(d_t) is at least (1 - eps)^(t-1): one more token multiplies it by at "
        "least 1 - eps",
        identity(sp.powsimp(rest ** (t - 1) * rest), rest**t),
    )


def _prove_shift_by_kl() -> Iterable[Step]:
    yield Step(
        "KL(d_t) = sum_{s<t} k_s <= (t-1) delta",
        "chain rule",
        CHAIN_RULE.certificate,
        CHAIN_RULE,
    )
    yield Step("TV(d_t) <= min(1, sqrt(KL(d_t)/2))", "Pinsker", PINSKER.certificate, PINSKER)


def _prove_shift_by_sequence_tv() -> Iterable[Step]:
    yield Step(
        "TV(d_t) <= V",
        "the first t - 1 tokens are a function of the whole sequence",
        TV_PROCESSING.certificate,
        TV_PROCESSING,
    )


def _prove_shift_by_sequence_kl() -> Iterable[Step]:
    yield from _prove_shift_by_sequence_tv()
    yield Step("V <= min(1, sqrt(D/2))", "Pinsker", PINSKER.certificate, PINSKER)


def _prove_future_by_both() -> Iterable[Step]:
    yield from _prove_shift_by_tv()
    yield from _prove_shift_by_kl()


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
        "the mean is linear",
        all_of("enumeration", "sequences x positions", [swap(2, 3), swap(3, 2), swap(4, 4)]),
    )


_Proof = Callable[[], Iterable[Step]]


def _shift_lemma(key: str, title: str, right: sp.Expr, prove: _Proof, source: str) -> Lemma:
    return Lemma(key, title, shift[t], "<=", right, prove, source=source)


#: ``TV(d_t) <= min(1, (t-1) eps)``.
SHIFT_BY_TV = _shift_lemma(
    "shift_by_tv",
    "context shift, token by token",
    sp.Min(1, (t - 1) * _eps),
    _prove_shift_by_tv,
    "TRM v2, section 3",
)

#: ``TV(d_t) <= 1 - (1-eps)^(t-1)``.
SHIFT_SHARP = _shift_lemma(
    "shift_sharp",
    "context shift by the overlap of the two distributions",
    1 - (1 - _eps) ** (t - 1),
    _prove_shift_sharp,
    "trbounds",
)

#: ``TV(d_t) <= min(1, sqrt((t-1) delta/2))``.
SHIFT_BY_KL = _shift_lemma(
    "shift_by_kl",
    "context shift through the chain rule and Pinsker",
    sp.Min(1, sp.sqrt((t - 1) * _delta / 2)),
    _prove_shift_by_kl,
    "TRM v2, section 3",
)

#: ``TV(d_t) <= min(1, V)``.
SHIFT_BY_SEQUENCE_TV = _shift_lemma(
    "shift_by_sequence_tv",
    "context shift below the TV of whole sequences",
    sp.Min(1, _V),
    _prove_shift_by_sequence_tv,
    "TRM v3",
)

#: ``TV(d_t) <= min(1, sqrt(D/2))``.
SHIFT_BY_SEQUENCE_KL = _shift_lemma(
    "shift_by_sequence_kl",
    "context shift below the KL of whole sequences",
    sp.Min(1, sp.sqrt(_D / 2)),
    _prove_shift_by_sequence_kl,
    "TRM v2, section 3",
)


def _future_lemma(key: str, title: str, right: sp.Expr, prove: _Proof, source: str) -> Lemma:
    return Lemma(key, title, future[t], "<=", right, prove, source=source)


#: TV of the continuations after t is at most ``min(1, (T-t) eps)``.
FUTURE_BY_TV = _future_lemma(
    "future_by_tv",
    "change of the future, token by token",
    sp.Min(1, (T - t) * _eps),
    _prove_shift_by_tv,
    "TRM v3",
)

#: TV of the continuations after t is at most ``min(1, sqrt((T-t) delta/2))``.
FUTURE_BY_KL = _future_lemma(
    "future_by_kl",
    "change of the future through the chain rule and Pinsker",
    sp.Min(1, sp.sqrt((T - t) * _delta / 2)),
    _prove_shift_by_kl,
    "TRM v2, Adaptive bound",
)

FUTURE_BY_BOTH = _future_lemma(
    "future_by_both",
    "change of the future by the smaller of both routes",
    sp.Min(1, (T - t) * _eps, sp.sqrt((T - t) * _delta / 2)),
    _prove_future_by_both,
    "TRM v3",
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
