"""What the rewards and the weights of a trace say of the objective and of the error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.jackknife import Blocks, Estimate, jackknife_error
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.summary import TraceSummary
from trbounds.traces.unseen_mass import sequence_tv, unless_positive, unseen_mass
from trbounds.traces.weights import (
    WeightDiagnostics,
    diagnose_weights,
    residual_of,
    weight_minus_one,
)

__all__ = ["ErrorEstimates", "RewardVariance", "centred_reward", "estimate_error"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RewardVariance:
    """Mean within-prompt variance of the reward, unbiased.

    Parameters
    ----------
    value : float
        At most a quarter of the squared reward width.
    leave_one_out : ndarray
        The same without each block of prompts in turn. Where no two rewards of a prompt differ, as
        if one sequence of the first block did, by the width: 0 is then no certain value.
    within_prompts : bool
        False where no prompt has two sequences: then it is the total variance, which is at least
        the within-prompt one in expectation.
    """

    value: float
    leave_one_out: Floats
    within_prompts: bool

    @property
    def jackknife_error(self) -> float:
        """Delete-a-group jackknife standard error."""
        return jackknife_error(self.leave_one_out)

    @classmethod
    def of(cls, summary: TraceSummary, blocks: Blocks, *, total: bool = False) -> RewardVariance:
        """Estimate from the rewards of a summary that has them."""
        reward = _from_smallest(summary.sequences)
        groups = np.zeros(reward.size, np.int64) if total else summary.groups()
        counts = np.bincount(groups)
        within = not total and bool((counts > 1).any())
        if not within:
            groups, counts = np.zeros(reward.size, np.int64), np.array([reward.size])
        means = np.bincount(groups, weights=reward) / counts
        deviation = reward - means[groups]
        # Each sequence carries its share of the degrees of freedom of its prompt.
        freedom = 1 - 1 / counts[groups]
        squares = blocks.sums(deviation * deviation)
        degrees = blocks.sums(freedom)
        low, high = summary.reward_range
        cap = (high - low) ** 2 / 4
        total_squares = float(squares.sum())
        if total_squares <= 1e-24 * cap:  # by rounding of the means
            # That no two differ does not make v certain: one that does may be missing.
            squares[0] = (high - low) ** 2
        left = np.maximum(degrees.sum() - degrees, 0.0)
        without = np.full(blocks.n_blocks, np.nan)
        np.divide(squares.sum() - squares, left, out=without, where=left > 0.5)
        value = total_squares / float(degrees.sum()) if degrees.sum() > 0 else cap
        return cls(min(value, cap), np.clip(without, 0.0, cap), within)


@dataclass(frozen=True, kw_only=True)
class ErrorEstimates:
    """Sample means over a trace, each with two standard errors.

    ``W = prod_t rho_t``, ``M = sum_t (rho_t - 1)``. The reward is centred by the mean reward of
    the other sequences of its prompt (of all others, where it has none), which changes no
    expectation and lowers the variance. Estimates in reward units unless said otherwise.

    Parameters
    ----------
    J_mu : Estimate or None
        Mean reward. Like every estimate that needs the reward, None where it is not logged.
    surrogate : Estimate or None
        ``L' = E_mu[R M]``.
    gain : Estimate or None
        ``J(pi) - J(mu) = E_mu[R (W - 1)]``.
    error : Estimate or None
        ``Error = E_mu[R (W - 1 - M)]``.
    error_low, error_high : Estimate or None
        ``-E_mu[(R - r_lo) B]`` and ``E_mu[(r_hi - R) B] + (r_hi - r_lo) S``, with B the sum of k3
        along a response and S the mass on tokens that rollouts never draw (0 under absolute
        continuity; see :mod:`trbounds.traces.unseen_mass`): the error lies between them, whatever
        the horizon (see the bound ``sequence_kl``). Their distance is the width of the reward
        times D. Free of W, so that heavy weights do not spoil them.
    gain_low : Estimate or None
        ``E_mu[(R - r_lo) (M - B)] = E_mu[(R - r_lo) log W]``, a lower bound on ``J(pi) - J(mu)``,
        free of W too. Under absolute continuity it is ``L' - E_mu[(R - r_lo) B]``.
    sup_error : Estimate
        Largest ``|Error|`` over all rewards in the range: half the width times ``E|W - 1 - M|``.
    tv_seq : Estimate
        ``E_mu max(0, 1 - W)``, unbiased, and at most 1 for every sequence; no unit.
    residual_square : Estimate
        ``Q = E (W - 1 - M)^2`` by its sample mean; no unit.
    residual_square_path : Estimate or None
        The same by ``sum_t (W_{t-1} - 1)^2 chi2(c_t)``, usually the less noisy; None where chi2
        is not logged.
    reward_var : Estimate or None
        Mean within-prompt variance; its standard error is the jackknife's only.
    l2 : Estimate or None
        ``sqrt(v Q)``, an upper bound on ``|Error|``, from the better estimate of Q.
    weights : WeightDiagnostics
        Whether to believe any of it.
    """

    J_mu: Estimate | None
    surrogate: Estimate | None
    gain: Estimate | None
    error: Estimate | None
    error_low: Estimate | None
    error_high: Estimate | None
    gain_low: Estimate | None
    sup_error: Estimate
    tv_seq: Estimate
    residual_square: Estimate
    residual_square_path: Estimate | None
    reward_var: Estimate | None
    l2: Estimate | None
    weights: WeightDiagnostics

    def to_dict(self) -> dict[str, Any]:
        """Return every estimate as plain numbers; None where it could not be made."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: None if v is None else v.to_dict() for name, v in values.items()}


_OPTIONAL = (
    "J_mu",
    "surrogate",
    "gain",
    "error",
    "error_low",
    "error_high",
    "gain_low",
    "residual_square_path",
    "reward_var",
    "l2",
)


def _from_smallest(table: SequenceTable) -> Floats:
    """Rewards less the smallest: what is the same for all of them would cost digits."""
    reward = table["reward"]
    return np.asarray(reward - reward.min())


def centred_reward(table: SequenceTable, groups: NDArray[np.int64]) -> Floats:
    """Reward minus the mean reward of the other sequences of its prompt.

    Parameters
    ----------
    table : SequenceTable
        With rewards.
    groups : ndarray of int64
        Prompt of each row.

    Returns
    -------
    ndarray
        One entry per row; against all other sequences where a prompt has one sequence only.
    """
    reward = _from_smallest(table)
    counts = np.bincount(groups)[groups]
    totals = np.bincount(groups, weights=reward)[groups]
    alone = counts == 1
    counts = np.where(alone, reward.size, counts)
    totals = np.where(alone, math.fsum(reward), totals)
    # R - (S - R)/(n - 1) = (n R - S)/(n - 1); a single sequence is centred by itself, at 0.
    return np.asarray((counts * reward - totals) / np.maximum(counts - 1, 1), dtype=np.float64)


def estimate_error(summary: TraceSummary) -> ErrorEstimates:
    """Estimate the objective, the surrogate and the error from a trace.

    Parameters
    ----------
    summary : TraceSummary
        Of at least one sequence.

    Returns
    -------
    ErrorEstimates

    Notes
    -----
    Unbiased if the training policy is absolutely continuous with respect to the rollout policy
    and log-probabilities are right. Plain sample means: no weight is truncated or normalised
    (W saturates at e^100). Source: the identity of TRM (arXiv 2512.23075), section 3.

    Without absolute continuity ``tv_seq`` is unbiased still, and ``error_low``, ``error_high`` and
    ``gain_low`` stay on their sides of the error (of rewards counted from r_lo) and the gain: see
    the proof of ``sequence_kl``.
    """
    table = summary.sequences
    groups = summary.groups()
    blocks = Blocks(groups)
    low, high = summary.reward_range
    width = high - low
    excess, residual = weight_minus_one(table), residual_of(table)
    columns = {
        "sup_error": width / 2 * np.abs(residual),
        "tv_seq": sequence_tv(table),
        "residual_square": residual * residual,
    }
    if summary.has("chi2"):
        columns["residual_square_path"] = table["residual_path"]
    with_reward = summary.has("reward")
    if with_reward:
        reward, M = table["reward"], table["ratio_sum"]
        centred = centred_reward(table, groups)
        below = (reward - low) * table["k3_sum"]
        # What centring takes from L': of mean 0 under absolute continuity, never positive.
        centring = unless_positive((reward - low - centred) * M)
        columns |= {
            "error_low": -below,
            "error_high": (high - reward) * table["k3_sum"] + width * unseen_mass(table),
            "gain_low": centred * M + centring - below,
            "J_mu": reward,
            "surrogate": centred * M,
            "gain": centred * excess,
            "error": centred * residual,
        }
    found: dict[str, Estimate | None] = dict(blocks.means(columns))
    if with_reward:
        variance = RewardVariance.of(summary, blocks)
        found["reward_var"] = Estimate(variance.value, math.nan, variance.jackknife_error)
        square = columns.get("residual_square_path", columns["residual_square"])
        found["l2"] = _l2(variance, blocks, square)
    fields: dict[str, Any] = {**dict.fromkeys(_OPTIONAL), **found}
    return ErrorEstimates(**fields, weights=diagnose_weights(table))


def _l2(variance: RewardVariance, blocks: Blocks, square: Floats) -> Estimate:
    mean = blocks.mean(square)
    value = math.sqrt(variance.value * mean.value)
    # Of the two factors Q is by far the less certain: the plain error takes v as known.
    plain = value * mean.standard_error / (2 * mean.value) if mean.value > 0 else 0.0
    without = np.sqrt(variance.leave_one_out * np.maximum(blocks.leave_one_out(square), 0.0))
    return Estimate(value, plain, jackknife_error(without))
