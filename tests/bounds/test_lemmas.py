"""What the lemmas say, apart from how they are proved: both sides on exact policy pairs.

The checks of a proof are of its steps, one by one. That the steps prove the very statement of the
lemma is for a reader to see; here every lemma of every bound is held against instances, quantity by
quantity, so that a wrong constant, exponent or index is found even where its proof was changed too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import sympy as sp

from trbounds.bounds import all_bounds
from trbounds.derivation import Lemma
from trbounds.oracle import TabularPair, random_pair, two_valued_ratio
from trbounds.symbolic import Infimum, T, t

Values = dict[str, Any]
Path = tuple[int, ...]
Policy = dict[Path, np.ndarray]

LEMMAS = {lemma.key: lemma for b in all_bounds().values() for lemma in b.derive().lemmas()}


# -- every quantity of one small problem, from its definition -----------------------------------


def phi(x: Any) -> Any:
    return x - np.log1p(x)


def tv_of(p: Any, q: Any) -> float:
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)


def kl_of(p: Any, q: Any) -> float:
    return float((np.asarray(p) * np.log(np.asarray(p) / np.asarray(q))).sum())


class Problem:
    """One prompt, two policies of full support and a reward, by recursion over contexts."""

    def __init__(self, pair: TabularPair, reward: np.ndarray | None = None) -> None:
        self.T, self.A = pair.T, pair.A
        self.contexts = [c for n in range(self.T) for c in product(range(self.A), repeat=n)]
        self.responses = list(product(range(self.A), repeat=self.T))
        rewards = pair.reward[0] if reward is None else reward
        self.R = dict(zip(self.responses, map(float, rewards), strict=True))
        self.mu, self.pi = (
            {c: np.asarray(p[len(c)][0, self.number(c)], dtype=float) for c in self.contexts}
            for p in (pair.rollout, pair.train)
        )
        self.ratio = {c: self.pi[c] / self.mu[c] for c in self.contexts}
        self.tv = {c: tv_of(self.pi[c], self.mu[c]) for c in self.contexts}
        self.kl = {c: kl_of(self.mu[c], self.pi[c]) for c in self.contexts}
        self.at_mu, self.at_pi = self.reach(self.mu), self.reach(self.pi)
        self.V_mu, self.V_pi = self.value(self.mu), self.value(self.pi)
        self.h = {c: self.V_pi[c] - self.V_mu[c] for c in self.V_mu}

    def number(self, c: Path) -> int:
        return sum(y * self.A ** (len(c) - 1 - i) for i, y in enumerate(c))

    def of_length(self, n: int) -> list[Path]:
        return list(product(range(self.A), repeat=n))

    def reach(self, policy: Policy) -> dict[Path, float]:
        at = {(): 1.0}
        for c in self.contexts:
            at |= {(*c, y): at[c] * policy[c][y] for y in range(self.A)}
        return at

    def value(self, policy: Policy) -> dict[Path, float]:
        mean = dict(self.R)
        for c in reversed(self.contexts):
            mean[c] = sum(policy[c][y] * mean[*c, y] for y in range(self.A))
        return mean

    def rho(self, y: Path) -> list[float]:
        return [self.ratio[y[:i]][y[i]] for i in range(self.T)]

    def along(self, y: Path, of: dict[Path, float]) -> float:
        return sum(of[y[:i]] for i in range(self.T))

    def tokens(self) -> Iterator[tuple[float, Path, int]]:
        """Every context and token, with the probability that a rollout has them."""
        return ((self.at_mu[c] * self.mu[c][y], c, y) for c in self.contexts for y in range(self.A))

    def by_position(self, of: Callable[[Path], float]) -> list[float]:
        return [sum(self.at_mu[c] * of(c) for c in self.of_length(n)) for n in range(self.T)]

    def error(self, policy: Policy) -> float:
        """Error of the change from mu to a policy."""
        at = self.reach(policy)
        residual = {
            y: at[y]
            - self.at_mu[y]
            - self.at_mu[y]
            * sum(policy[y[:i]][y[i]] / self.mu[y[:i]][y[i]] - 1 for i in range(self.T))
            for y in self.responses
        }
        return sum(self.R[y] * residual[y] for y in self.responses)

    def chi2(self, policy: Policy) -> dict[Path, float]:
        return {c: float(((policy[c] - self.mu[c]) ** 2 / self.mu[c]).sum()) for c in self.contexts}

    def spread(self, policy: Policy) -> float:
        """``sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]``."""
        at, chi2 = self.reach(policy), self.chi2(policy)
        return sum(
            self.at_mu[c] * (at[c] / self.at_mu[c] - 1) ** 2 * chi2[c] for c in self.contexts
        )


def first_order(p: Problem) -> Values:
    """Divergences, contexts, futures, gains, and the two parts of the error."""
    chi2 = p.chi2(p.pi)
    rise = {c: p.pi[c] - p.mu[c] for c in p.contexts}
    next_mu = {c: np.array([p.V_mu[*c, y] for y in range(p.A)]) for c in p.contexts}
    gains = [[float(rise[c] @ next_mu[c]) for c in p.of_length(n)] for n in range(p.T)]
    below = {c: [y for y in p.responses if y[: len(c)] == c] for c in [*p.contexts, *p.responses]}
    futures = [
        max(
            tv_of(
                [p.at_pi[y] / p.at_pi[c] for y in below[c]],
                [p.at_mu[y] / p.at_mu[c] for y in below[c]],
            )
            for c in p.of_length(n + 1)
        )
        for n in range(p.T)
    ]
    shifts = [
        tv_of([p.at_pi[c] for c in p.of_length(n)], [p.at_mu[c] for c in p.of_length(n)])
        for n in range(p.T)
    ]
    whole = [[at[y] for y in p.responses] for at in (p.at_mu, p.at_pi)]
    coarse = [[at[c] for c in p.of_length(p.T - 1)] for at in (p.at_mu, p.at_pi)]
    k = p.by_position(p.kl.__getitem__)
    M = {y: sum(p.rho(y)) - p.T for y in p.responses}
    surrogate = sum(p.at_mu[y] * p.R[y] * M[y] for y in p.responses)
    change = [a - b for a, b in product([*p.V_mu.values(), *p.V_pi.values()], repeat=2)]
    return {
        "epsilon": max(p.tv.values()),
        "delta": max(p.kl.values()),
        "V": tv_of(*whole),
        "D": sum(k),
        "K": max(p.along(y, p.kl) for y in p.responses),
        "X": max(p.along(y, chi2) for y in p.responses),
        "Dbar": p.by_position(p.tv.__getitem__),
        "k": k,
        "x": p.by_position(chi2.__getitem__),
        "kappa_t": [max(chi2[c] for c in p.of_length(n)) for n in range(p.T)],
        "S_TV": sum(p.at_mu[y] * p.along(y, p.tv) for y in p.responses),
        "S_chi2": sum(p.at_mu[y] * p.along(y, chi2) for y in p.responses),
        "S_k": sum(n * k[n] for n in range(p.T)),
        "v": sum(p.at_mu[y] * (p.R[y] - p.V_mu[()]) ** 2 for y in p.responses),
        "g": [max(map(abs, g)) for g in gains],
        "osc_g": [max(g) - min(g) for g in gains],
        "TV_d": shifts,
        "TV_f": futures,
        "TV(P,Q)": tv_of(*whole),
        "KL(P,Q)": kl_of(*whole),
        "TV(coarse)": tv_of(*coarse),
        "KL(coarse)": kl_of(*coarse),
        "|Error|": abs(p.error(p.pi)),
        "|L'|": abs(surrogate),
        "|J(pi) - J(mu)|": abs(p.h[()]),
        "|E[R | c] - E'[R | c']|": max(change),
        "sup_c |E_pi[R | c] - E_mu[R | c]|": max(map(abs, p.h.values())),
    }


def second_order(p: Problem) -> Values:
    """Second moments, pairings, and identities along one response and at one context."""
    step = [(w, c, y, p.ratio[c][y] - 1) for w, c, y in p.tokens()]
    A = {(c, y): p.V_mu[*c, y] - p.V_mu[c] for _, c, y in p.tokens()}
    rows = [
        (p.at_mu[y], p.at_pi[y] / p.at_mu[y], sum(p.rho(y)) - p.T, p.rho(y)) for y in p.responses
    ]
    _, W, M, rho = max(rows, key=lambda row: abs(row[1] - 1 - row[2]))
    root = p.ratio[()] - 1
    return {
        "sum_t E_mu[(rho_t - 1)^2]": sum(w * d**2 for w, *_, d in step),
        "sum_t E_mu[A_t^2]": sum(w * A[c, y] ** 2 for w, c, y, _ in step),
        "sum_t E_mu[h_t^2]": sum(w * p.h[*c, y] ** 2 for w, c, y, _ in step),
        "E_h2": [sum(p.at_mu[c] * p.h[c] ** 2 for c in p.of_length(n + 1)) for n in range(p.T)],
        "pairing A": abs(sum(w * d * A[c, y] for w, c, y, d in step)),
        "pairing h": abs(sum(w * d * p.h[*c, y] for w, c, y, d in step)),
        "Q": sum(w * (W - 1 - M) ** 2 for w, W, M, _ in rows),
        "sum_t E_mu[(W_{t-1} - 1)^2 chi2(c_t)]": p.spread(p.pi),
        "E_mu|W - 1|": sum(w * abs(W - 1) for w, W, *_ in rows),
        "W": W,
        "W - 1 - M": W - 1 - M,
        "-sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)": -sum(
            (r - 1) * (1 - math.prod(rho[i + 1 :])) for i, r in enumerate(rho)
        ),
        "sum_t phi(rho_t - 1)": sum(phi(r - 1) for r in rho),
        "E_mu[rho_t - 1 | c_t]": float(p.mu[()] @ root),
        "E_mu[phi(rho_t - 1) | c_t]": float(p.mu[()] @ phi(root)),
        "kl(c_t)": p.kl[()],
    }


def stopped(p: Problem, share: float) -> Values:
    """The training policy replaced by the rollout policy once the sum of chi2 exceeds a budget."""
    chi2 = p.chi2(p.pi)
    budget = share * max(p.along(y, chi2) for y in p.responses)
    over = {
        c: any(sum(chi2[c[:i]] for i in range(n + 1)) > budget for n in range(len(c) + 1))
        for c in p.contexts
    }
    policy = {c: p.mu[c] if over[c] else p.pi[c] for c in p.contexts}
    after = sum(w * (p.ratio[c][y] - 1) * p.V_mu[*c, y] for w, c, y in p.tokens() if over[c])
    first = [c for c in p.contexts if over[c] and not (c and over[c[:-1]])]
    return {
        "|Error(pi_tau)|": abs(p.error(policy)),
        "|J(pi) - J(pi_tau)|": abs(p.V_pi[()] - p.value(policy)[()]),
        "|E_mu[R sum_{t>=tau} (rho_t - 1)]|": abs(after),
        "P_stop": sum(p.at_pi[c] for c in first),
    }


def cut_and_restarted(p: Problem, cut: float) -> Values:
    """Ratios cut at ``1 + c``, and weights restarted above it."""
    small, large = cut**2 / phi(cut), cut / phi(cut)
    kept = {c: np.where(p.ratio[c] <= 1 + cut, p.ratio[c] - 1, 0.0) for c in p.contexts}
    policy = {c: p.mu[c] * (1 + kept[c] - p.mu[c] @ kept[c]) for c in p.contexts}
    at, chi2 = p.reach(policy), p.chi2(policy)
    tail = [
        (w, (p.pi[c][y] - policy[c][y]) / p.mu[c][y], at[c] / p.at_mu[c], (*c, y))
        for w, c, y in p.tokens()
    ]
    largest = max(p.along(y, p.kl) for y in p.responses)
    weight, budget = {(): 1.0}, {(): largest}
    running = jumps = spread = saved = mass = 0.0
    for c in p.contexts:
        left = budget[c] - p.kl[c]
        gain = float((p.pi[c] - p.mu[c]) @ [p.V_mu[*c, y] for y in range(p.A)])
        running += p.at_mu[c] * abs(weight[c] - 1) * abs(gain)
        spread += p.at_mu[c] * phi(weight[c] - 1) * p.kl[c]
        for y in range(p.A):
            grown, w = weight[c] * p.ratio[c][y], p.at_mu[*c, y]
            restarts = grown > 1 + cut
            weight[*c, y], budget[*c, y] = 1.0 if restarts else grown, left
            if restarts:
                jumps += w * (grown - 1) * abs(p.h[*c, y])
                saved += w * phi(grown - 1) * left
                mass += w * phi(grown - 1)
    return {
        "c": cut,
        "a": small,
        "b": large,
        "beta": 0.4,
        "eta": 0.3,
        "z": 1 / 0.4 + 1 / 0.3,
        "D'": sum(p.by_position(p.kl.__getitem__)),
        "|Error(pi_c)|": abs(p.error(policy)),
        "sum_t chi2_c(c_t)": max(p.along(y, chi2) for y in p.responses),
        "|sum_t E_mu[(W^c_{t-1} - 1) Z_t E_pi[R | c_{t+1}]]|": abs(
            sum(w * (before - 1) * z * p.V_pi[c] for w, z, before, c in tail)
        ),
        "|sum_t E_mu[Z_t (E_pi[R | c_{t+1}] - E_mu[R | c_{t+1}])]|": abs(
            sum(w * z * p.h[c] for w, z, _, c in tail)
        ),
        "sum_t E_mu[|w_{t-1} - 1| |g_t|]": running,
        "sum_t E_mu[1{restart} (w_{t-1} rho_t - 1) |h_t|]": jumps,
        "sum_t E_mu[phi(w_{t-1} - 1) kl(c_t)]": spread,
        "sum_t E_mu[1{restart} phi(w_{t-1} rho_t - 1) s_t]": saved,
        "sum_t E_mu[1{restart} phi(w_{t-1} rho_t - 1)]": mass,
    }


@cache
def problems() -> tuple[tuple[int, Values], ...]:
    """Near, heavy-tailed, unlike and two-valued pairs, with rewards that make each part large."""
    rng = np.random.default_rng(77)
    pairs = [two_valued_ratio(s, n) for s in (0.01, 0.1, 0.6) for n in (1, 2, 3)]
    for kind, (n, A) in product(("near", "heavy", "far"), ((1, 3), (2, 2), (2, 3), (3, 2))):
        pairs.append(random_pair(rng, n, A, kind=kind, closeness=float(rng.choice([0.03, 0.5]))))
    found = []
    for pair in pairs:
        plain = Problem(pair)
        W = np.array([plain.at_pi[y] / plain.at_mu[y] for y in plain.responses])
        M = np.array([sum(plain.rho(y)) - plain.T for y in plain.responses])
        rare = np.arange(len(W)) == int(np.argmax(W))
        for reward in (W > 1, M > 0, W - 1 > M, rare, rng.random(len(W))):
            p = Problem(pair, np.asarray(reward, dtype=float))
            cut = float(rng.choice([0.05, 0.3, 2.0]))
            share = float(rng.uniform(0.2, 1))
            values = first_order(p) | second_order(p) | stopped(p, share)
            found.append((p.T, values | cut_and_restarted(p, cut)))
    return tuple(found)


# -- lemmas on numbers, at points that their assumptions allow -----------------------------------


def _sharp_slope(u: float) -> float:
    """``d(KL)/d(TV^2)`` along the curve of largest TV, by differences."""

    def tv2_and_kl(u: float) -> tuple[float, float]:
        c = 1 / math.tanh(u) - 1 / u
        kl = math.log(u / math.sinh(u)) + u / math.tanh(u) - (u / math.sinh(u)) ** 2
        return (u * (1 - c**2) / 2) ** 2, kl

    (x0, y0), (x1, y1) = tv2_and_kl(u - 1e-4), tv2_and_kl(u + 1e-4)
    return (y1 - y0) / (x1 - x0)


def _numbers(key: str, rng: np.random.Generator) -> Values | None:
    """Random values for a lemma on numbers; None for a lemma on policies."""
    u, r = 10.0 ** rng.uniform(-2, 2, 2)
    cut = 10.0 ** rng.uniform(-2, 1)
    low, high = sorted(rng.uniform(0, 2, 2))
    family = rng.uniform(0, 2, (2, 5)) if rng.random() < 0.5 else np.outer([1, 3], rng.random(5))
    return {
        "uncap": {"z": float(rng.uniform(0, 2))},
        "cap": {"z": float(rng.uniform(0, 2))},
        "below_both": {"x": low, "a": high, "b": low if rng.random() < 0.5 else 2 * high},
        "log_below_line": {"u": 1 + (u - 1) / 50},
        "exp_above_line": {"y": float(rng.uniform(-0.5, 0.5))},
        "cauchy_schwarz": {"a": list(family[0]), "b": list(family[1])},
        "geometric_sum": {"q": float(rng.uniform(-1, 2))},
        "product_sum": {"q": list(family[0])},
        "sum_of_positions": {},
        "sum_of_remaining": {},
        "root_sum": {},
        "fenchel_young": {"u": u, "r": 1 / u if rng.random() < 0.5 else r},
        "conjugate_square": {"A": float(rng.uniform(-1, 1)) or 1.0, "lambda": 1 + u},
        "conjugate_below": {"lambda": 1 + u},
        "dual_gain_closed_form": {"v": 0.25 * float(rng.random()), "w": u},
        "small_part": {"c": cut, "x": float(rng.uniform(-0.99, cut))},
        "large_part": {"c": cut, "x": cut * (1 + float(rng.exponential()))},
        "sharp_square": {"u": float(rng.uniform(0.5, 5)), "d(KL)/d(TV^2) at u": 0.0},
    }.get(key)


@cache
def points(key: str) -> tuple[tuple[int, Values], ...]:
    """Horizons and values at which a lemma is evaluated."""
    rng = np.random.default_rng(len(key))
    if _numbers(key, rng) is None:
        return tuple((n, _roles(key, values)) for n, values in problems())
    drawn = [(1 + i % 5, _numbers(key, rng) or {}) for i in range(60)]
    if key == "sharp_square":
        drawn = [(n, v | {"d(KL)/d(TV^2) at u": _sharp_slope(v["u"])}) for n, v in drawn]
    return tuple(drawn)


def _roles(key: str, values: Values) -> Values:
    """What ``B_t`` and its second moment stand for."""
    role = "h" if key == "future_pairing" else "A"
    return values | {
        "|sum_t E_mu[(rho_t - 1) B_t]|": values[f"pairing {role}"],
        "S": values[f"sum_t E_mu[{role}_t^2]"],
    }


# -- both sides ---------------------------------------------------------------------------------


@cache
def compiled(expr: Any, n: int, position: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A side at one horizon and position as a function, and the symbols it takes."""
    at = expr.subs({T: n}).subs({t: position}).doit()
    entries = at.atoms(sp.Indexed)
    scalars = at.free_symbols - {part for entry in entries for part in entry.free_symbols}
    needed = (*sorted(entries, key=str), *sorted(scalars, key=str))
    dummies = [sp.Dummy() for _ in needed]
    return sp.lambdify(
        dummies, at.xreplace(dict(zip(needed, dummies, strict=True))), "math"
    ), needed


def side(expr: Any, n: int, position: int, values: Values) -> float:
    if expr.has(Infimum):
        known = {a: sp.Float(values[a.name], 30) for a in expr.free_symbols if a.name in values}
        return float(sp.N(expr.xreplace(known), 15))
    function, needed = compiled(expr, n, position)
    return float(
        function(
            *(
                values[str(a.base)][int(a.indices[0]) - 1]
                if isinstance(a, sp.Indexed)
                else values[a.name]
                for a in needed
            )
        )
    )


@cache
def evaluated(lemma: Lemma) -> list[tuple[float, float]]:
    """Both sides of a lemma at its points, at every position if it is about one."""
    by_position = t in lemma.left.free_symbols | lemma.right.free_symbols
    found = points(lemma.key)
    if lemma.left.has(Infimum) or lemma.right.has(Infimum):
        found = found[:: max(1, len(found) // 12)]  # a minimisation each
    return [
        (side(lemma.left, n, position, values), side(lemma.right, n, position, values))
        for n, values in found
        for position in (range(1, n + 1) if by_position else (1,))
    ]


@pytest.mark.parametrize("key", LEMMAS)
def test_lemma_holds_on_exact_instances(key: str) -> None:
    lemma = LEMMAS[key]
    close = 1e-6 if key == "sharp_square" else 1e-9
    for left, right in evaluated(lemma):
        if lemma.relation == "==":
            assert left == pytest.approx(right, rel=close, abs=1e-13)
        else:
            assert left <= right * (1 + np.sign(right) * close) + 1e-14


#: Lemmas that no instance here comes within a fifth of, and the share that one does reach.
LOOSE = {
    "advantage": 0.49,  # twice the best constant, as the papers have it
    "path_potential": 0.6,  # approached by many small steps only
    "objective_after_stop": 0.7,
    "error_by_sequence_kl": 0.49,  # approached by a rare switch after many steps
    "tail_by_weight": 0.03,
    "tail_by_future": 0.03,
    "restart_running": 0.3,
    "restart_jumps": 0.4,
}


@pytest.mark.parametrize("key", [k for k, lemma in LEMMAS.items() if lemma.relation == "<="])
def test_instances_leave_a_lemma_little_room(key: str) -> None:
    """So that a right side that is too small would be noticed."""
    largest = max(left / right for left, right in evaluated(LEMMAS[key]) if right > 1e-13)
    assert largest > LOOSE.get(key, 0.8)


@pytest.mark.parametrize("key", [k for k, b in all_bounds().items() if not b.source.is_paper])
def test_every_step_and_lemma_of_our_own_bounds_is_checked_by_machine(key: str) -> None:
    """There is no paper to cite for them."""
    derivation = all_bounds()[key].derive()
    assert all(outcome.ok and outcome.by_machine for outcome in derivation.check())
    assert derivation.lemmas()
    for lemma in derivation.lemmas():
        proof = lemma.certificate()
        assert proof.ok, lemma.key
        assert "by reference" not in proof.detail, lemma.key
