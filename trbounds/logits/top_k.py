"""Divergences from top-k logs: intervals, because the rest of the vocabulary was not logged.

For each row let S be the tokens that both policies logged, and merge all others into one. The
divergences of the merged distributions are lower bounds (data processing), and each is computed as
a sum of non-negative terms, so that leaving a term out keeps it a lower bound. For the total
variation the rest adds at most half of what both policies left unlogged, which gives an upper
bound; KL and χ² have none, since a token outside S may have any ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace
from trbounds.divergences.exact import Divergences
from trbounds.divergences.special import expm1_minus_float64
from trbounds.errors import InputError
from trbounds.logits.files import LogitsFile, TopKBatch

__all__ = ["DivergenceIntervals", "top_k_divergences"]

_PAIR_LIMIT = 4_000_000  # comparisons of ids held at once


@dataclass(frozen=True, kw_only=True)
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


def _policy(
    batch: TopKBatch, policy: str, rows: slice, path: str
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Return ids, log-probabilities and the resolution of their sum, checked."""
    ids = getattr(batch, f"{policy}_topk_ids")[rows].astype(np.int64)
    stored = getattr(batch, f"{policy}_topk_logprobs")[rows]
    logprobs = np.where(ids == -1, -np.inf, stored.astype(np.float64))
    resolution = _resolution(stored)
    ordered = np.sort(ids, axis=1)
    total = np.exp(np.minimum(logprobs, 0.0)).sum(axis=1)
    field = f"{policy}_topk_logprobs"
    for bad, name, problem in (
        ((ids < -1).any(axis=1), f"{policy}_topk_ids", "found an id below -1"),
        (
            ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1),
            f"{policy}_topk_ids",
            "found a token twice, expected each once",
        ),
        (np.isnan(logprobs).any(axis=1), field, "found NaN, expected log-probabilities"),
        (
            (logprobs > resolution).any(axis=1),
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
    return ids, np.minimum(logprobs, 0.0), resolution


def _resolution(stored: NDArray[Any]) -> float:
    """Return how far a sum of stored probabilities may be off: log-probabilities near 10."""
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[stored.dtype.name]
    return 10.0 * 2.0**-bits


def _intervals(batch: TopKBatch, rows: slice, path: str) -> DivergenceIntervals:
    ids_mu, log_mu, error_mu = _policy(batch, "rollout", rows, path)
    ids_pi, log_pi, error_pi = _policy(batch, "train", rows, path)
    match = (ids_mu[:, :, None] == ids_pi[:, None, :]) & (ids_mu[:, :, None] >= 0)
    partner = np.take_along_axis(log_pi, match.argmax(axis=2), axis=1)
    common = match.any(axis=2) & np.isfinite(log_mu) & np.isfinite(partner)
    n = common.shape[0]

    mu = np.where(common, np.exp(log_mu), 0.0)
    pi = np.where(common, np.exp(partner), 0.0)
    log_ratio = np.subtract(partner, log_mu, where=common, out=np.zeros_like(mu))
    rest_mu = np.clip(1.0 - mu.sum(axis=1), 0.0, 1.0)
    rest_pi = np.clip(1.0 - pi.sum(axis=1), 0.0, 1.0)
    # Rounding alone could have made a smaller rest: it is then left out of the ratios.
    counts = (rest_mu > error_mu) & (rest_pi > error_pi)
    rest_ratio = np.where(counts, rest_pi, 1.0) / np.where(counts, rest_mu, 1.0)
    mu = np.c_[mu, np.where(counts, rest_mu, 0.0)]
    log_ratio = np.c_[log_ratio, np.log(rest_ratio)]

    rise = np.expm1(log_ratio)
    kl_terms = mu * expm1_minus_float64(array_namespace(log_ratio), log_ratio)
    common_tv = 0.5 * np.abs(pi - mu[:, :-1]).sum(axis=1)
    kl = kl_terms.sum(axis=1)
    lower = Divergences(
        kl=kl,
        kl_reverse=np.maximum((mu * rise * log_ratio).sum(axis=1) - kl, 0.0),
        tv=np.minimum(common_tv + 0.5 * np.abs(rest_pi - rest_mu), 1.0),
        chi2=(mu * rise * rise).sum(axis=1),
        entropy=_merged_entropy(log_mu, error_mu),
        max_abs_log_ratio=np.abs(log_ratio).max(axis=1),
        unsupported_mass=np.zeros(n),
    )
    unknown = np.full(n, np.inf)
    upper = Divergences(
        kl=unknown,
        kl_reverse=unknown,
        tv=np.minimum(common_tv + 0.5 * (rest_pi + rest_mu), 1.0),
        chi2=unknown,
        entropy=unknown,
        max_abs_log_ratio=unknown,
        unsupported_mass=np.minimum(rest_pi + error_pi, 1.0),
    )
    return DivergenceIntervals(
        first_row=batch.first_row + (rows.start or 0), lower=lower, upper=upper
    )


def _merged_entropy(log_mu: NDArray[np.float64], error: float) -> NDArray[np.float64]:
    """Return the entropy of the rollout policy with all unlogged tokens merged into one."""
    mu = np.exp(log_mu)
    rest = np.clip(1.0 - mu.sum(axis=1), 0.0, 1.0)
    rest = np.where(rest > error, rest, 1.0)
    logged = np.where(mu > 0.0, log_mu, 0.0)
    merged: NDArray[np.float64] = -(mu * logged).sum(axis=1) - rest * np.log(rest)
    return merged
