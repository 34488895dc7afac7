"""The length-neutral score LN-TRM: |rho - 1| weighted by what can still follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch

Floats = NDArray[np.float64]


def length_neutral_weights(T: int, kl_max: float, tv_max: float | None = None) -> Floats:
    """Weights ``w_t = min(1, (T-t) tv_max, sqrt((T-t) kl_max/2))`` of LN-TRM.

    Parameters
    ----------
    T : int
        Horizon: the longest response.
    kl_max : float
        delta, the largest token KL in nats.
    tv_max : float, optional
        eps, the largest token TV (TRM v3).

    Returns
    -------
    ndarray, shape (T,)

    Notes
    -----
    Weights count tokens up to the horizon, not to the end of the own sequence, so that
    ``|Error| <= 2 E_mu[sum_t |rho_t - 1| w_t]`` holds. Source: TRM (arXiv 2512.23075), LN-TRM.
    """
    left = T - 1 - np.arange(T, dtype=np.float64)
    weights = np.minimum(1.0, np.sqrt(left * (kl_max / 2)))
    return weights if tv_max is None else np.minimum(weights, left * tv_max)


def length_neutral_score(batch: TraceBatch, weights: Floats) -> tuple[Floats, Floats]:
    """Score sequences by LN-TRM: ``sum_t |rho_t - 1| w_t / sum_t w_t``.

    Parameters
    ----------
    batch : TraceBatch
        Without masked tokens.
    weights : ndarray, shape (T,)
        Of :func:`length_neutral_weights`.

    Returns
    -------
    score, total : ndarray
        Per sequence: the score, 0 where every weight is 0, and ``sum_t w_t``.

    Raises
    ------
    InputError
        If a sequence is longer than T.
    """
    lengths = batch.lengths
    if lengths.size and lengths.max() > weights.size:
        raise InputError(
            f"found a sequence of {lengths.max()} tokens, expected at most T = {weights.size}"
        )
    position = np.arange(batch.n_tokens) - np.repeat(batch.offsets[:-1], lengths)
    weighted = batch.segment_sum(np.abs(batch.ratio_minus_one) * weights[position])
    total = np.concatenate([[0.0], np.cumsum(weights)])[lengths]
    score = np.zeros(lengths.size)
    np.divide(weighted, total, out=score, where=total > 0)
    return score, total
