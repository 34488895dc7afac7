"""Adversarial search for the instance that comes closest to a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, differential_evolution, minimize

from trbounds.bound import Bound
from trbounds.errors import InputError
from trbounds.oracle.exact import exact
from trbounds.oracle.families import Family, families
from trbounds.oracle.rewards import worst_reward
from trbounds.oracle.tabular import Array, TabularPair
from trbounds.oracle.tightness import Tightness, error_over_bound
from trbounds.oracle.tree import walk

__all__ = ["Progress", "search"]

#: Called with the evaluations done, their total and the best centred ratio so far.
Progress = Callable[[int, int, float], None]

# Shares of the budget: random points, then evolution in the best families, then descent.
_SAMPLED, _EVOLVED = 0.35, 0.75
_KEPT = 4
_FROM_SAMPLES = 12
_SMALLEST = 1e-280


class _SpentError(Exception):
    """The share of the budget is used up."""


@dataclass(frozen=True, eq=False)
class _Found:
    ratio: float
    family: Family
    point: Array
    pair: TabularPair
    stop_budget: float | None


class _Objective:
    """The centred ratio as a function of a family's parameters, with the best point kept.

    Beside the policies' parameters a point holds up to three more: two of the reward, for bounds
    that know its variance, and the stopping budget, for bounds that have one.
    """

    def __init__(self, bound: Bound, total: int, progress: Progress | None) -> None:
        self.bound = bound
        self.total = total
        self.progress = progress
        self.done = 0
        self.limit = total
        self.best: dict[Family, _Found] = {}
        self.knows_variance = "reward_var" in bound.requires
        self.is_stopped = "chi2_stop_budget" in bound.requires

    def size(self, family: Family) -> int:
        return family.size + 2 * self.knows_variance + self.is_stopped

    def sample(self, family: Family, rng: np.random.Generator) -> Array:
        extra = rng.uniform(-1, 1, self.size(family) - family.size)
        return np.concatenate([family.sample(rng), extra])

    def overall(self) -> _Found | None:
        return max(self.best.values(), key=lambda found: found.ratio, default=None)

    def __call__(self, point: Array, family: Family) -> float:
        """Return minus the logarithm of the ratio."""
        if self.done >= self.limit:
            raise _SpentError
        self.done += 1
        point = np.clip(point, -1, 1)
        pair = family.pair(point[: family.size])
        extra = list(point[family.size :])
        budget = _stop_budget(pair, extra.pop()) if self.is_stopped else None
        rewards = [worst_reward(pair)]
        if self.knows_variance:
            rewards.append(_clipped_residual(pair, *extra))
        ratio = 0.0
        for reward in rewards:
            candidate = pair.with_reward(reward)
            value = self._ratio(candidate, budget)
            if value > ratio:
                ratio = value
                found = self.best.get(family)
                if found is None or value > found.ratio:
                    self.best[family] = _Found(value, family, point, candidate, budget)
        if self.progress is not None:
            best = self.overall()
            self.progress(self.done, self.total, best.ratio if best else 0.0)
        return -float(np.log(max(ratio, _SMALLEST)))

    def _ratio(self, pair: TabularPair, budget: float | None) -> float:
        try:
            return error_over_bound(self.bound, pair, budget)[1]
        except InputError:
            return 0.0  # an infinite divergence: the bound says nothing


def search(
    bound: Bound,
    *,
    evaluations: int = 20_000,
    seed: int = 0,
    horizons: Iterable[int] = range(2, 9),
    vocabularies: Iterable[int] = (2, 3, 4),
    progress: Progress | None = None,
) -> Tightness:
    """Search for the tabular pair and reward with the largest |Error| over a bound.

    Random points of many structured families first; then differential evolution in the best of
    them; then descent from the best points. The reward is the worst one, ``1{W - 1 - M > 0}`` or
    its complement; where the bound knows the reward's variance also a clipped affine function of
    ``W - 1 - M``, whose two parameters are searched.

    Parameters
    ----------
    bound : Bound
        The bound.
    evaluations : int
        Instances to enumerate, at least 100.
    seed : int
        Of the random numbers: the same seed gives the same result.
    horizons, vocabularies : iterable of int
        Shapes to search; those with more than 4096 responses are left out.
    progress : callable, optional
        ``progress(done, total, best)`` after every instance.

    Returns
    -------
    Tightness
        The best instance. If its `violates` is true, the bound is wrong.

    Raises
    ------
    InputError
        If the budget is below 100, or no shape is left.
    """
    if evaluations < 100:
        raise InputError(f"found {evaluations}, expected at least 100", field="evaluations")
    choices = families(sorted(set(horizons)), sorted(set(vocabularies)))
    if not choices:
        raise InputError("no horizon and vocabulary small enough to enumerate", field="horizons")
    rng = np.random.default_rng(seed)
    objective = _Objective(bound, evaluations, progress)
    starts = _sample(objective, choices, rng, int(_SAMPLED * evaluations))
    leaders = _leaders(objective)
    for number, leader in enumerate(leaders, 1):
        share = (_EVOLVED - _SAMPLED) * number / len(leaders)
        objective.limit = int((_SAMPLED + share) * evaluations)
        _evolve(objective, leader.family, starts[leader.family], rng)
    leaders = sorted(objective.best.values(), key=lambda found: -found.ratio)[:3]
    for number, leader in enumerate(leaders, 1):
        share = (1 - _EVOLVED) * number / len(leaders)
        objective.limit = int((_EVOLVED + share) * evaluations)
        _descend(objective, leader.family, rng)
    return _result(bound, objective, seed)


def _leaders(objective: _Objective) -> list[_Found]:
    """Return the best families, and the best of every horizon: what is best differs in kind."""
    ranked = sorted(objective.best.values(), key=lambda found: -found.ratio)
    of_horizon: dict[int, _Found] = {}
    for found in ranked:
        of_horizon.setdefault(found.family.T, found)
    return list(dict.fromkeys([*ranked[:_KEPT], *of_horizon.values()]))


def _sample(
    objective: _Objective, choices: tuple[Family, ...], rng: np.random.Generator, count: int
) -> dict[Family, list[Array]]:
    """Try random points of random families; return the best points of each."""
    tried: dict[Family, list[tuple[float, Array]]] = {}
    for _ in range(count):
        family = choices[rng.integers(len(choices))]
        point = objective.sample(family, rng)
        tried.setdefault(family, []).append((objective(point, family), point))
    return {
        family: [point for _, point in sorted(points, key=lambda p: p[0])[:_FROM_SAMPLES]]
        for family, points in tried.items()
    }


def _evolve(
    objective: _Objective, family: Family, starts: list[Array], rng: np.random.Generator
) -> None:
    fresh = [objective.sample(family, rng) for _ in range(max(4, 3 * _FROM_SAMPLES - len(starts)))]

    def value(point: Array) -> float:
        return objective(point, family)

    try:
        differential_evolution(
            value,
            _cube(objective.size(family)),
            init=np.array([*starts, *fresh]),
            maxiter=10_000,
            tol=0,
            polish=False,
            seed=np.random.default_rng(rng.integers(2**63)),
        )
    except _SpentError:
        return


def _descend(objective: _Objective, family: Family, rng: np.random.Generator) -> None:
    """Descend from the best point of a family again and again, shaken a little each time."""
    size = objective.size(family)
    bounds, calls = _cube(size), 60 * size + 200
    shake = 0.0

    def value(point: Array) -> float:
        return objective(point, family)

    try:
        while True:
            shaken = objective.best[family].point + shake * rng.standard_normal(size)
            start = np.clip(shaken, -1, 1)
            smooth = minimize(
                value, start, method="L-BFGS-B", bounds=bounds, options={"maxfun": calls}
            )
            # The ratio has kinks, where one of several maxima takes over from another.
            minimize(
                value,
                smooth.x,
                method="Nelder-Mead",
                bounds=bounds,
                options={"maxfev": calls, "xatol": 1e-12, "fatol": 1e-13},
            )
            shake = 10.0 ** rng.uniform(-4, -0.5)
    except _SpentError:
        return


def _cube(size: int) -> Bounds:
    return Bounds(-np.ones(size), np.ones(size))


def _stop_budget(pair: TabularPair, parameter: float) -> float:
    return float(exact(pair).chi2_path_max) * (1 + parameter) / 2


def _clipped_residual(pair: TabularPair, place: float, softness: float) -> Array:
    """Reward affine in ``W - 1 - M`` and clipped to [0, 1], rising or falling.

    `place` says where it crosses 1/2 within the range of ``W - 1 - M``, `softness` how wide it
    rises, from a step at 0 to the whole range at 1 or -1; its sign is the direction.
    """
    residual = walk(pair).responses.residual
    low, high = residual.min(), residual.max()
    if high == low:
        return np.zeros_like(residual)
    scaled = 2 * (residual - low) / (high - low) - 1
    width = max(2 * abs(softness) ** 3, 1e-9)
    rising: Array = np.clip((scaled - place) / width + 0.5, 0, 1)
    return rising if softness >= 0 else 1 - rising


def _result(bound: Bound, objective: _Objective, seed: int) -> Tightness:
    found = objective.overall()
    if found is None:
        raise InputError(f"bound '{bound.key}' was finite on no instance")
    ratio, centred = error_over_bound(bound, found.pair, found.stop_budget)
    return Tightness(
        key=bound.key,
        ratio=ratio,
        centred_ratio=centred,
        pair=found.pair,
        stop_budget=found.stop_budget,
        family=f"{found.family.name}{', with end token' if found.family.eos else ''}",
        evaluations=objective.done,
        seed=seed,
    )
