"""Instances that decide the papers' statements about estimators, masking and clipping."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from trbounds.divergences import k1, k3, kl_divergence
from trbounds.oracle import exact, rare_context
from trbounds_paper_checks._claim import Evidence


def _family(weight: float, log_ratio: np.ndarray) -> np.ndarray:
    """Return -log rho + weight (rho - 1), from the library's k1 and k3."""
    return np.asarray((1 - weight) * k1(log_ratio) + weight * k3(log_ratio))


def k3_only_unbiased() -> Evidence:
    """Take the mean of -log rho + l (rho - 1) under mu, for any l."""
    import sympy as sp

    weight = sp.Symbol("l", real=True)
    mu, pi = sp.symbols("mu1:3", positive=True), sp.symbols("pi1:3", positive=True)
    mu, pi = (*mu, 1 - sum(mu)), (*pi, 1 - sum(pi))
    log_ratio = sp.symbols("x1:4", real=True)  # log(pi_i/mu_i); KL = -sum mu_i x_i
    bias = sp.simplify(
        sum(
            m * (-x + weight * (p / m - 1)) + m * x
            for m, p, x in zip(mu, pi, log_ratio, strict=True)
        )
    )
    rollout, train = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    gaps = {
        w: float(
            rollout @ _family(w, np.log(train / rollout))
            - kl_divergence(np.log(rollout), np.log(train))
        )
        for w in (0.0, 0.5, 2.0, -3.0)
    }
    unbiased = bias == 0 and max(map(abs, gaps.values())) < 1e-14
    non_negative = k3_only_non_negative()
    return Evidence(
        holds=not unbiased,
        shown=(
            f"-log rho + l (rho - 1) has bias {bias} for every l and any three-token policies; "
            f"k1 is the case l = 0"
        ),
        true_form="k3, the case l = 1, is the only one of them that is never negative",
        true_form_holds=non_negative.holds,
    )


def k3_only_non_negative() -> Evidence:
    """Find where -log rho + l (rho - 1) is least, for each l."""
    import sympy as sp

    weight = sp.Symbol("l", positive=True)
    least = sp.log(weight) + 1 - weight  # the value at rho = 1/l, where the derivative vanishes
    rho = sp.Symbol("rho", positive=True)
    estimator = -sp.log(rho) + weight * (rho - 1)
    minimised = (
        sp.solve(sp.diff(estimator, rho), rho) == [1 / weight]
        and sp.simplify(sp.expand_log(estimator.subs(rho, 1 / weight) - least)) == 0
    )
    # log l + 1 - l is concave with its only stationary point, and the value 0, at l = 1.
    only_one = (
        sp.solve(sp.diff(least, weight), weight) == [1]
        and least.subs(weight, 1) == 0
        and sp.diff(least, weight, 2).is_negative
    )
    ratio = np.geomspace(1e-6, 1e6, 4001)
    witnesses = [
        float(_family(w, np.log(np.append(ratio, 1 / abs(w) if w else 2.0))).min())
        for w in (-1.0, 0.0, 0.9, 0.999, 1.001, 1.1, 5.0)
    ]
    never = float(np.min(k3(np.log(ratio)))) >= 0
    return Evidence(
        holds=bool(minimised and only_one and never and max(witnesses) < 0),
        shown=(
            "its least value is log l + 1 - l for l > 0 (unbounded below for l <= 0), which is "
            f"negative unless l = 1; at l = 1.1 it is {np.log(1.1) - 0.1:.5f}"
        ),
    )


def token_masking() -> Evidence:
    """Mask every token whose context exceeds a threshold, and compare with the truth."""
    threshold = 0.1
    pair = rare_context(Fraction(1, 10))
    truth = exact(pair)
    kept_equal = True
    for mu, pi in zip(pair.rollout, pair.train, strict=True):
        kl = kl_divergence(np.log(mu.astype(float)), np.log(pi.astype(float)))
        kept_equal &= bool(np.all((mu == pi)[kl <= threshold]))
    # All kept tokens have rho = 1, so the masked surrogate is 0.
    gap = abs(float(truth.J_pi - truth.J_mu))
    return Evidence(
        holds=float(truth.kl_max) > threshold and kept_equal and gap > 0,
        shown=(
            f"masking the tokens with KL above {threshold} leaves none that differ and a "
            f"surrogate of 0, yet J changes by {gap:g}: the policies, and so delta = "
            f"{float(truth.kl_max):.4f}, are what they were"
        ),
    )


def clip_table() -> Evidence:
    """Take the exact slope of PPO's clipped objective in the four cases."""
    clip, step = Fraction(1, 5), Fraction(1, 1000)

    def objective(rho: Fraction, advantage: int) -> Fraction:
        return min(rho * advantage, min(max(rho, 1 - clip), 1 + clip) * advantage)

    def slope(rho: Fraction, advantage: int) -> Fraction:
        return (objective(rho + step, advantage) - objective(rho, advantage)) / step

    high, low = Fraction(2), Fraction(1, 2)
    found = {(rho, a): slope(rho, a) for rho in (high, low) for a in (1, -1)}
    printed = {(high, 1): 0, (high, -1): -1, (low, 1): 1, (low, -1): 0}
    return Evidence(
        holds=found == printed,
        shown=(
            "slope of the clipped objective, clip 0.2: rho = 2: "
            f"{found[high, 1]} (A = 1), {found[high, -1]} (A = -1); rho = 1/2: "
            f"{found[low, 1]} (A = 1), {found[low, -1]} (A = -1)"
        ),
    )
