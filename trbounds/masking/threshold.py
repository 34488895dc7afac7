"""Thresholds for an acceptance or for a bound, with their uncertainty and their cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from trbounds.bounds import best_bound
from trbounds.errors import InputError
from trbounds.masking.acceptance import accept_share
from trbounds.masking.effect import MaskEffect, mask
from trbounds.masking.guarantees import CAPPED, capped_profile
from trbounds.masking.rules import Interval
from trbounds.masking.statistics import compute_statistics
from trbounds.traces.error_estimates import RewardVariance
from trbounds.traces.jackknife import Blocks, student_limit
from trbounds.traces.summary import TraceSummary

Statistics = dict[str, NDArray[Any]]

_SMALLEST, _LARGEST = 1e-14, 1e4


@dataclass(frozen=True, kw_only=True, eq=False)
class Threshold:
    """A threshold of the rules ``statistic <= x``.

    Parameters
    ----------
    statistic : str
        What is compared.
    value : float
        The threshold x.
    lower, upper : float
        Interval for it; infinite where the sample gives no limit, both equal to `value` where
        nothing was estimated.
    confidence : float
        Of the interval.
    target_acceptance, budget : float or None
        What was asked for: one of the two.
    for_reward : tuple of float or None
        For a budget: the threshold at the estimated variance of the logged reward (plug-in), and
        the ends of its interval.
    effect : MaskEffect
        What the rule with this threshold does: its cost.
    """

    statistic: str
    value: float
    lower: float
    upper: float
    confidence: float
    target_acceptance: float | None
    budget: float | None
    for_reward: tuple[float, float, float] | None
    effect: MaskEffect

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "effect": self.effect.to_dict()}


def threshold_for_acceptance(
    summary: TraceSummary,
    statistic: str,
    target: float,
    statistics: Statistics | None = None,
    *,
    confidence: float = 0.95,
) -> Threshold:
    """Smallest threshold that accepts at least a share of the sequences.

    Parameters
    ----------
    summary : TraceSummary
        The trace, of at least one sequence.
    statistic : str
        A key of :data:`trbounds.masking.STATISTICS`.
    target : float
        Share to accept, above 0 and at most 1.
    statistics : dict of str to ndarray, optional
        Of :func:`trbounds.masking.compute_statistics`, where the tokens are needed.
    confidence : float
        Of the interval.

    Returns
    -------
    Threshold
        `value` is an order statistic. Its interval takes the order statistics at ``target`` plus
        and minus quantiles of Student's t, with as many degrees of freedom as there are prompts
        less one, times the standard error of the share accepted. That is the largest of those by
        sequence, of the jackknife over prompts, and of independent sequences at the target.

    Raises
    ------
    InputError
        For a target or confidence out of range, or a statistic that is not there.

    Notes
    -----
    Source of the interval: Woodruff, "Confidence intervals for medians and other position
    measures", J. Amer. Statist. Assoc. 47 (1952).
    """
    if not 0 < target <= 1:
        raise InputError(f"found {target:g}, expected above 0 and at most 1", field="target")
    values = _values(summary, statistic, statistics, confidence)
    ordered = np.sort(values)
    found = float(ordered[_rank(target, ordered.size)])
    error = accept_share(values <= found, summary.groups()).share.error
    # At least that of independent sequences: a sample that is accepted as a whole shows none.
    error = max(error, math.sqrt(target * (1 - target) / ordered.size))
    # With one sequence there is no standard error, and no limit.
    reach = _quantile(summary, confidence) * error if math.isfinite(error) else math.inf
    low, high = target - reach, target + reach
    return Threshold(
        statistic=statistic,
        value=found,
        lower=float(ordered[_rank(low, ordered.size)]) if low > 0 else -math.inf,
        upper=float(ordered[_rank(high, ordered.size)]) if high < 1 else math.inf,
        confidence=confidence,
        target_acceptance=target,
        budget=None,
        for_reward=None,
        effect=mask(summary, Interval(statistic, high=found), statistics),
    )


def threshold_for_budget(
    summary: TraceSummary,
    statistic: str,
    budget: float,
    statistics: Statistics | None = None,
    *,
    confidence: float = 0.95,
) -> Threshold:
    """Largest threshold whose bound on |Error| stays within a budget.

    Parameters
    ----------
    summary : TraceSummary
        The trace: its horizon, reward range and rewards.
    statistic : str
        One that limits a divergence, such as ``sum chi2`` or, sampled, ``sum (rho-1)^2``.
    budget : float
        Largest tolerated bound, in reward units, above 0.
    statistics : dict of str to ndarray, optional
        As for :func:`threshold_for_acceptance`.
    confidence : float
        Of the interval of `for_reward`.

    Returns
    -------
    Threshold
        For any reward in the range, nothing being estimated; `for_reward` is for the estimated
        variance of the logged one, and its interval for that variance plus and minus quantiles
        of Student's t times its jackknife standard error. What the bound covers, and whether it is
        plug-in, is said by ``effect.guarantee``.

    Raises
    ------
    InputError
        For a budget that is not positive, or a statistic that caps no divergence.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"found {budget:g}, expected a positive number", field="budget")
    if statistic not in CAPPED:
        raise InputError(
            f"'{statistic}' limits no divergence that a bound takes, expected one of "
            f"{', '.join(CAPPED)}",
            field="family",
        )
    _values(summary, statistic, statistics, confidence)
    width = summary.reward_range[1] - summary.reward_range[0]
    largest = width**2 / 4
    found = _solve(summary, statistic, budget, largest)
    for_reward = None
    if summary.has("reward"):
        variance = RewardVariance.of(summary, Blocks(summary.groups()))
        reach = _quantile(summary, confidence) * variance.jackknife_error
        # Without a standard error the variance can be anything a reward in the range allows.
        ends = (variance.value, variance.value + reach, variance.value - reach)
        at, low, high = (
            _solve(summary, statistic, budget, min(max(v, 0.0), largest))
            for v in (ends if math.isfinite(reach) else (variance.value, largest, 0.0))
        )
        # Each root is good to 1e-12: where the variance does not matter, they differ by that.
        for_reward = (at, min(low, at), max(high, at))
    return Threshold(
        statistic=statistic,
        value=found,
        lower=found,
        upper=found,
        confidence=confidence,
        target_acceptance=None,
        budget=budget,
        for_reward=for_reward,
        effect=mask(summary, Interval(statistic, high=found), statistics),
    )


def _values(
    summary: TraceSummary, statistic: str, statistics: Statistics | None, confidence: float
) -> NDArray[Any]:
    if not 0 < confidence < 1:
        raise InputError(f"found {confidence:g}, expected between 0 and 1", field="confidence")
    if not summary.n_sequences:
        raise InputError("found no sequence, expected at least one", field="paths")
    if statistics is None:
        statistics = compute_statistics(summary, [statistic])
    return statistics[statistic]


def _quantile(summary: TraceSummary, confidence: float) -> float:
    """Standard errors to either side; those of one prompt are between its sequences."""
    prompts = int(summary.groups().max()) + 1
    units = prompts if prompts > 1 else summary.n_sequences
    return student_limit(float(ndtri((1 + confidence) / 2)), units)


def _rank(share: float, n: int) -> int:
    """Index of the smallest value that at least a share of n values does not exceed."""
    # 0.7 * 10 is a little above 7 in binary: that must not take the eighth.
    return min(max(math.ceil(share * n - 1e-9), 1), n) - 1


def _solve(summary: TraceSummary, statistic: str, budget: float, variance: float) -> float:
    """Largest cap on a statistic whose bound is within the budget; infinity if every one is."""

    def excess(log_cap: float) -> float:
        profile = capped_profile(summary, {statistic: math.exp(log_cap)})
        value = float(best_bound(profile.with_values(reward_var=variance)).value)
        # The logarithm of a bound is close to linear in that of its divergence.
        return math.log(max(value, 1e-300)) - math.log(budget)

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    if excess(high) <= 0:
        return math.inf
    if excess(low) >= 0:
        return 0.0
    cap = math.exp(brentq(excess, low, high, xtol=1e-12, rtol=1e-12))
    # The root is good to 1e-12: step to the side where the budget is kept.
    return cap * (1 - 1e-11)
