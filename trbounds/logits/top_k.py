"""Divergences from top-k logs: intervals, because the rest of the vocabulary was not logged.

For each row let S be the tokens that both policies logged, and merge all others into one. The
divergences of the merged distributions are lower bounds (data processing), and each is computed as
a sum of non-negative terms, so that leaving a term out keeps it a lower bound. Where one policy
logged tokens A with mass a and the other tokens B with mass b, of which the other one holds at most
what it did not log, v and u, and a b > u v, two merged tokens of masses (a, v) and (u, b) say more:
divergences are jointly convex and homogeneous, so they are least at these ends. For the total
variation the rest adds at most half of what both policies have outside S, which gives an upper
bound; KL and χ² have none, since a token outside S may have any ratio.

A logged log-probability l stands for every number within max(10, |l|) 2^-bits of it, with the bits
of the stored dtype (23 for float32): the rounding of the file, and as much again of what computed
it. The ends hold for all of them. So a float32 log cannot tell two policies apart whose
log-probabilities differ by 1e-6, and says so by a lower end of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace
from trbounds.divergences.elementwise import expm1_minus_float64
from trbounds.divergences.exact import Divergences
from trbounds.errors import InputError
from trbounds.logits.files import LogitsFile, TopKBatch

_PAIR_LIMIT = 4_000_000  # comparisons of ids held at once
_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
_LARGEST = 700.0  # of a number whose exponential is taken
_SUM_ERROR = 2.0**-50  # of a sum of probabilities


@dataclass(frozen=True, kw_only=True, eq=False)
class DivergenceIntervals:
    """What top-k logs say about each divergence: ``lower <= exact <= upper``.

    Attributes
    ----------
    first_row : int
        Zero-based number of the first row in the file.
    lower, upper : Divergences
        Float64 arrays, one entry per row. Upper bounds of kl, kl_reverse, chi2, entropy and
        max_abs_log_ratio are inf.
    """

    first_row: int
    lower: Divergences
    upper: Divergences


def top_k_divergences(file: LogitsFile) -> Iterator[DivergenceIntervals]:
    """Bound the divergences of each row of a top-k log.

    Parameters
    ----------
    file : LogitsFile
        With ``is_top_k``.

    Yields
    ------
    DivergenceIntervals
        For consecutive rows.

    Raises
    ------
    InputError
        If the file holds full logits; or a row has NaN, a probability above 1, probabilities
        that sum to more than 1, a token twice, or an id below -1.
    """
    for batch in file.top_k_batches():
        k = batch.rollout_topk_ids.shape[1] * batch.train_topk_ids.shape[1]
        step = max(1, _PAIR_LIMIT // k)
        for start in range(0, batch.rollout_topk_ids.shape[0], step):
            yield _intervals(batch, slice(start, start + step), file.path)


@dataclass(frozen=True)
class _Logged:
    """What one policy logged of some rows.

    Attributes
    ----------
    ids : ndarray of int64, shape (rows, k)
        Token ids; -1 where there is none.
    log_p, error : ndarray, shape (rows, k)
        Log-probabilities, -inf where there is no token; and how far each may be off.
    """

    ids: NDArray[np.int64]
    log_p: NDArray[np.float64]
    error: NDArray[np.float64]


def _policy(batch: TopKBatch, policy: str, rows: slice, path: str) -> _Logged:
    ids = getattr(batch, f"{policy}_topk_ids")[rows].astype(np.int64)
    stored = getattr(batch, f"{policy}_topk_logprobs")[rows]
    log_p = np.where(ids == -1, -np.inf, stored.astype(np.float64))
    unit = 2.0 ** -_BITS[stored.dtype.name]
    resolution = 10.0 * unit
    ordered = np.sort(ids, axis=1)
    total = np.exp(np.minimum(log_p, 0.0)).sum(axis=1)
    field = f"{policy}_topk_logprobs"
    for bad, name, problem in (
        ((ids < -1).any(axis=1), f"{policy}_topk_ids", "found an id below -1"),
        (
            ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1),
            f"{policy}_topk_ids",
            "found a token twice, expected each once",
        ),
        (np.isnan(log_p).any(axis=1), field, "found NaN, expected log-probabilities"),
        (
            (log_p > resolution).any(axis=1),
            field,
            "found a log-probability above 0, expected natural log-probabilities",
        ),
        (
            total > 1.0 + resolution,
            field,
            "probabilities sum to more than 1, expected natural log-probabilities",
        ),
    ):
        if bad.any():
            record = batch.first_row + (rows.start or 0) + int(bad.argmax())
            raise InputError(problem, file=path, record=record, field=name)
    error = np.maximum(resolution, unit * np.abs(np.where(np.isfinite(log_p), log_p, 0.0)))
    return _Logged(ids, np.minimum(log_p, 0.0), error)


def _intervals(batch: TopKBatch, rows: slice, path: str) -> DivergenceIntervals:
    rollout = _policy(batch, "rollout", rows, path)
    train = _policy(batch, "train", rows, path)
    match = (rollout.ids[:, :, None] == train.ids[:, None, :]) & (rollout.ids[:, :, None] >= 0)
    where = match.argmax(axis=2)
    partner = np.take_along_axis(train.log_p, where, axis=1)
    partner_error = np.take_along_axis(train.error, where, axis=1)
    common = match.any(axis=2) & np.isfinite(rollout.log_p) & np.isfinite(partner)

    mu = np.where(common, np.exp(rollout.log_p), 0.0)
    pi = np.where(common, np.exp(partner), 0.0)
    mu_error, pi_error = _mass_error(mu, rollout.error), _mass_error(pi, partner_error)
    mu_rest, pi_rest = _rest(mu, mu_error), _rest(pi, pi_error)
    split, mu_others, pi_others = _others(
        (mu_rest, *_alone(rollout, common)),
        (pi_rest, *_alone(train, (match & common[:, :, None]).any(axis=1))),
    )

    # Lower ends: the least mass, and the log-ratio as near to 0 as the errors allow.
    log_ratio = np.subtract(partner, rollout.log_p, where=common, out=np.zeros_like(mu))
    nearest = np.maximum(np.abs(log_ratio) - rollout.error - partner_error, 0.0)
    near = [_nearest_log_ratio(m, p) for m, p in zip(mu_others, pi_others, strict=True)]
    d = np.c_[np.copysign(nearest, log_ratio), near[0], np.where(split, near[1], 0.0)]
    weight = np.c_[mu * np.exp(-rollout.error), mu_others[0][0], mu_others[1][0]]
    counted = np.where(weight > 0.0, np.minimum(d, _LARGEST), 0.0)
    rise = np.expm1(counted)
    kl = (weight * expm1_minus_float64(array_namespace(d), counted)).sum(axis=1)
    gap, gap_error = np.abs(pi - mu), mu_error + pi_error
    least_tv = np.maximum(gap - gap_error, 0.0).sum(axis=1)
    for m, p in zip(mu_others, pi_others, strict=True):
        least_tv += np.maximum(np.maximum(p[0] - m[1], m[0] - p[1]), 0.0)
    # The other policy may hold less than (a, v) and (u, b) say: only ratios beyond them are sure.
    far = np.where(split, np.maximum(np.maximum(-d[:, -2], d[:, -1]), 0.0), np.abs(d[:, -2]))
    far = np.maximum(far, np.abs(_nearest_log_ratio(mu_rest, pi_rest)))
    most_tv = (gap + gap_error).sum(axis=1) + mu_rest[1] + pi_rest[1]
    n = common.shape[0]
    lower = Divergences(
        kl=kl,
        kl_reverse=np.maximum((weight * rise * counted).sum(axis=1) - kl, 0.0),
        tv=np.minimum(0.5 * least_tv, 1.0),
        chi2=(weight * rise * rise).sum(axis=1),
        entropy=_merged_entropy(rollout),
        max_abs_log_ratio=np.maximum(nearest.max(axis=1), far),
        unsupported_mass=np.zeros(n),
    )
    unknown = np.full(n, np.inf)
    upper = Divergences(
        kl=unknown,
        kl_reverse=unknown,
        tv=np.minimum(0.5 * most_tv, 1.0),
        chi2=unknown,
        entropy=unknown,
        max_abs_log_ratio=unknown,
        unsupported_mass=pi_rest[1],
    )
    return DivergenceIntervals(
        first_row=batch.first_row + (rows.start or 0), lower=lower, upper=upper
    )


def _mass_error(p: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far probabilities may be off whose logarithms may be off by `error`."""
    return p * np.expm1(np.minimum(error, _LARGEST))


def _rest(p: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the least and the largest mass of all tokens but these."""
    rest, error = 1.0 - p.sum(axis=1), error.sum(axis=1) + _SUM_ERROR
    return np.maximum(rest - error, 0.0), np.clip(rest + error, 0.0, 1.0)


def _alone(policy: _Logged, common: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return the mass of the tokens that only this policy logged, and what it did not log."""
    p = np.exp(policy.log_p)
    alone = np.where(common, 0.0, p)
    total, error = alone.sum(axis=1), _mass_error(alone, policy.error).sum(axis=1) + _SUM_ERROR
    ends = np.maximum(total - error, 0.0), np.minimum(total + error, 1.0)
    return ends, _rest(p, _mass_error(p, policy.error))


def _others(mu: tuple[Any, ...], pi: tuple[Any, ...]) -> tuple[NDArray[np.bool_], list[Any], Any]:
    """Return where the other tokens become two merged ones, and both masses under each policy.

    Each policy comes as its masses of all other tokens, of those that it alone logged, and of those
    that it did not log.
    """
    split = mu[1][0] * pi[1][0] > mu[2][1] * pi[2][1]
    nothing = np.zeros_like(mu[0][0])

    def ends(first: Any, second: Any) -> tuple[Any, Any]:
        low, high = (np.where(split, a, b) for a, b in zip(first, second, strict=True))
        return low, high

    none = nothing, nothing
    return (
        split,
        [ends(mu[1], mu[0]), ends(mu[2], none)],
        [ends(pi[2], pi[0]), ends(pi[1], none)],
    )


def _nearest_log_ratio(mu: tuple[Any, Any], pi: tuple[Any, Any]) -> NDArray[np.float64]:
    """Return the log-ratio nearest to 0 of two masses, each between two ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lowest, highest = np.log(pi[0]) - np.log(mu[1]), np.log(pi[1]) - np.log(mu[0])
    nearest: NDArray[np.float64] = np.maximum(lowest, 0.0) + np.minimum(highest, 0.0)
    return nearest


def _merged_entropy(rollout: _Logged) -> NDArray[np.float64]:
    """Return the least entropy of the rollout policy, all unlogged tokens merged into one."""
    mu = np.exp(rollout.log_p)
    error = _mass_error(mu, rollout.error)
    ends = [mu * np.exp(-rollout.error), np.minimum(mu + error, 1.0)]
    rest = _rest(mu, error)
    # -p log p rises and falls: its least value lies at one end.
    least = np.minimum(*(_entropy_term(end) for end in ends)).sum(axis=1)
    entropy: NDArray[np.float64] = least + np.minimum(*(_entropy_term(end) for end in rest))
    return entropy


def _entropy_term(p: NDArray[np.float64]) -> NDArray[np.float64]:
    term: NDArray[np.float64] = p * -np.log(np.where(p > 0.0, p, 1.0))
    return term
