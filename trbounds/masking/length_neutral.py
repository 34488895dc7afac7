"""The length-neutral score, the one rule that needs the tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch

__all__ = ["length_neutral_scores"]

Floats = NDArray[np.float64]


def length_neutral_scores(
    batches: Iterable[TraceBatch], *, T: int, kl_max: float, tv_max: float | None = None
) -> Floats:
    """Score sequences by LN-TRM: ``sum_t |rho_t - 1| w_t / sum_t w_t``.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace.
    T : int
        Horizon: the longest response.
    kl_max : float
        delta, the largest token KL: ``w_t = min(1, sqrt((T-t) delta/2))``.
    tv_max : float, optional
        eps, the largest token TV: with it ``w_t`` is at most ``(T-t) eps`` too (TRM v3).

    Returns
    -------
    ndarray
        One score per sequence, in the order of a summary: by file name, then record. 0 for a
        sequence of which every weight is 0.

    Raises
    ------
    InputError
        If a sequence is longer than T.

    Notes
    -----
    Weights count tokens up to the horizon, not to the end of the own sequence, so that
    ``|Error| <= 2 E_mu[sum_t |rho_t - 1| w_t]`` holds. Source: TRM (arXiv 2512.23075), LN-TRM.
    """
    left = T - 1 - np.arange(T, dtype=np.float64)
    weights = np.minimum(1.0, np.sqrt(left * (kl_max / 2)))
    if tv_max is not None:
        weights = np.minimum(weights, left * tv_max)
    totals = np.concatenate([[0.0], np.cumsum(weights)])
    places: list[tuple[str, NDArray[np.int64], Floats]] = []
    for batch in batches:
        counted = batch.counted()
        lengths = counted.lengths
        if lengths.size and lengths.max() > T:
            raise InputError(f"found {lengths.max()} tokens, expected at most T = {T}")
        starts = np.repeat(counted.offsets[:-1], lengths)
        position = np.arange(counted.n_tokens, dtype=np.int64) - starts
        weighted = np.abs(counted.ratio_minus_one) * weights[position]
        total = totals[lengths]
        score = np.zeros(lengths.size)
        np.divide(counted.segment_sum(weighted), total, out=score, where=total > 0)
        places.append((counted.file, counted.record_numbers, score))
    files = sorted({file for file, _, _ in places})
    index = {file: number for number, file in enumerate(files)}
    file_of = np.concatenate([np.full(r.size, index[file]) for file, r, _ in places])
    record = np.concatenate([r for _, r, _ in places])
    scores = np.concatenate([s for _, _, s in places])
    return scores[np.lexsort((record, file_of))]
