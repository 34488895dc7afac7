r"""verl: ``rollout_corr/*``.

Formulas, with ``d_t = log pi(y_t) - log mu(y_t)`` (``old_log_prob - rollout_log_prob``), N
sequences, T_i tokens of sequence i, "mean" over all tokens of the batch, "mean_i" over sequences:

========================== ====================================================================
``kl``                     mean of ``-d``
``k3_kl``                  mean of ``e^d - d - 1``
``training_ppl``           mean_i of ``exp(-mean_t log pi)``; ``training_log_ppl`` without exp
``rollout_ppl``            mean_i of ``exp(-mean_t log mu)``; ``rollout_log_ppl`` without exp
``log_ppl_diff``           mean_i of ``x_i = mean_t log mu - mean_t log pi``;
                           ``log_ppl_abs_diff`` of ``|x_i|``; ``_max``, ``_min`` over sequences
``ppl_ratio``              mean_i of ``exp(x_i)``
``chi2_token``             mean of ``e^(2d)`` with d clamped to [-20, 20], minus 1
``chi2_seq``               mean_i of ``exp(2 s_i)``, ``s_i = sum_t d_t`` clamped to [-20, 20],
                           minus 1
``rollout_is_mean``        mean of ``a``, the weight that the loss has: ``w = e^d`` (``rollout_is``
                           "token"), or ``w = e^(s_i)`` at every token of i ("sequence"),
                           exponents clamped to [-20, 20], cut at the threshold C
``rollout_is_max``,        largest and smallest a over tokens; for "sequence" of ``e^(s_i)``
``rollout_is_min``         unclamped, the largest cut at ``e^20``
``rollout_is_ratio_        share of tokens ("sequence": of sequences, unclamped) with w above C,
fraction_high``, ``_low``  below c
``rollout_is_std``         standard deviation of a over tokens
``rollout_is_eff_          ``1 / mean of (a / (mean a + 1e-8))^2``: a share between 0 and 1
sample_size``
``rollout_is_seq_*``       of ``mean_t a``: mean, std (n - 1), max, min, largest distance from 1
                           (``max_deviation``); of ``mean_t w``: the share above C and below c
``rollout_is_oob_ratio``   with two thresholds only: share of tokens with w outside of [c, C]
========================== ====================================================================

``rollout_is_threshold`` is C, then c is 1/C; or it is "c_C", then weights outside of [c, C] become
0 (IcePop) and none is cut. verl logs ``rollout_is_*`` where ``rollout_is`` is set. It computes in
the dtype of the log-probabilities and adds 1e-8 to its token counts; here it is float64, which
leaves ``rollout_is_std`` good to 1e-7 of the mean.

Held against the code of verl 0.9.1, executed: ``verl/trainer/ppo/rollout_corr_helper.py``, which is
the same in 0.9.0 and in commit 1dda039 of 22 August 2026. Earlier versions differ in
``rollout_is_*``: 0.6.1 to 0.7.1 take all of w before truncation, spread and effective sample of w
clamped to [1/C, C]; 0.8.0 takes the shares of sequences, too, of ``mean_t a``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums
from trbounds.traces.token_terms import LOG_RATIO_CLAMP

__all__ = ["COLUMNS", "TOKEN_COLUMNS", "make_weights", "metrics"]

Floats = NDArray[np.float64]

COLUMNS = ("train", "rollout", "log_ratio", "k3", "clamped_chi2")
"""What has to be summed."""

TOKEN_COLUMNS = (
    "weight",
    "weight_above",
    "weight_below",
    "applied",
    "applied_square",
    "applied_max",
    "applied_min",
)
"""What has to be summed for token weights, besides."""


def make_weights(cap: float, floor: float | None, level: str) -> Weights:
    """Say what verl makes of log-ratios.

    Parameters
    ----------
    cap, floor : float
        ``rollout_is_threshold``: its only, or its upper and its lower number.
    level : {"token", "sequence", "none"}
        ``rollout_is``; "none" where it is not set.

    Raises
    ------
    InputError
        For an unknown `level`, or limits out of range.
    """
    if level not in ("token", "sequence", "none"):
        raise InputError(f"found {level!r}, expected 'token', 'sequence' or 'none'", field="level")
    return Weights(cap=cap, floor=floor, masks=floor is not None, clamps=True)


def metrics(sums: SequenceSums, weights: Weights, level: str) -> dict[str, float]:
    """Compute verl's off-policy and importance-sampling metrics of one batch.

    Parameters
    ----------
    sums : SequenceSums
        The batch, with :data:`COLUMNS`, for "token" also :data:`TOKEN_COLUMNS`.
    weights : Weights
        Of :func:`make_weights`, as summed with.
    level : {"token", "sequence", "none"}
        ``rollout_is``; "none" where it is not set, then there is no ``rollout_is_*``.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    train, rollout = sums.sequence_mean("train"), sums.sequence_mean("rollout")
    difference = rollout - train
    sequence = np.clip(sums["log_ratio"], -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    with np.errstate(over="ignore"):
        by_sequence = {
            "training_ppl": np.exp(-train),
            "training_log_ppl": -train,
            "rollout_ppl": np.exp(-rollout),
            "rollout_log_ppl": -rollout,
            "log_ppl_diff": difference,
            "log_ppl_abs_diff": np.abs(difference),
            "ppl_ratio": np.exp(difference),
            "chi2_seq": np.expm1(2 * sequence),
        }
    means = np.mean(list(by_sequence.values()), axis=1)
    found = {
        "kl": -sums.token_mean("log_ratio"),
        "k3_kl": sums.token_mean("k3"),
        **dict(zip(by_sequence, means, strict=True)),
        "log_ppl_diff_max": difference.max(),
        "log_ppl_diff_min": difference.min(),
        "chi2_token": sums.token_mean("clamped_chi2"),
    }
    if level != "none":
        found |= _of_weights(sums, weights, level)
    return {f"rollout_corr/{name}": float(value) for name, value in found.items()}


def _of_weights(sums: SequenceSums, weights: Weights, level: str) -> dict[str, float]:
    found = _of_tokens(sums) if level == "token" else _of_sequences(sums, weights)
    outside = found.pop("outside")
    if weights.floor is not None:
        found["rollout_is_oob_ratio"] = outside
    each, raw = _by_sequence(sums, weights, level)
    return found | {
        "rollout_is_seq_mean": each.mean(),
        "rollout_is_seq_std": each.std(ddof=1) if each.size > 1 else 0.0,
        "rollout_is_seq_max": each.max(),
        "rollout_is_seq_min": each.min(),
        "rollout_is_seq_max_deviation": np.abs(each - 1).max(),
        "rollout_is_seq_fraction_high": (raw > weights.cap).mean(),
        "rollout_is_seq_fraction_low": (raw < weights.low).mean(),
    }


def _of_tokens(sums: SequenceSums) -> dict[str, float]:
    above, below = sums.token_mean("weight_above"), sums.token_mean("weight_below")
    return {
        "rollout_is_max": float(sums["applied_max"].max()),
        "rollout_is_min": float(sums["applied_min"].min()),
        "rollout_is_ratio_fraction_high": above,
        "rollout_is_ratio_fraction_low": below,
        "outside": above + below,
        **_spread(sums.token_mean("applied"), sums.token_mean("applied_square")),
    }


def _of_sequences(sums: SequenceSums, weights: Weights) -> dict[str, float]:
    tokens = sums.length / sums.n_tokens
    log_ratio = sums["log_ratio"]
    raw = _sequence_weight(log_ratio)
    applied = weights.applied(raw)
    # Of the cap, not of its inverse: that has no logarithm where there is no cap.
    low = -math.log(weights.cap) if weights.floor is None else math.log(weights.floor)
    return {
        "rollout_is_max": float(np.exp(min(log_ratio.max(), LOG_RATIO_CLAMP))),
        "rollout_is_min": float(np.exp(log_ratio.min())),
        "rollout_is_ratio_fraction_high": float((log_ratio > math.log(weights.cap)).mean()),
        "rollout_is_ratio_fraction_low": float((log_ratio < low).mean()),
        "outside": float(tokens @ ((raw < weights.low) | (raw > weights.cap))),
        **_spread(float(tokens @ applied), float(tokens @ (applied * applied))),
    }


def _spread(mean: float, square: float) -> dict[str, float]:
    return {
        "rollout_is_mean": mean,
        "rollout_is_std": max(square - mean**2, 0.0) ** 0.5,
        # Where every weight became 0 there is no sample.
        "rollout_is_eff_sample_size": (mean + 1e-8) ** 2 / square if square else math.nan,
    }


def _by_sequence(sums: SequenceSums, weights: Weights, level: str) -> tuple[Floats, Floats]:
    """Mean over tokens of applied and of raw weights; 0 for a sequence without tokens."""
    if level == "token":
        return sums.sequence_mean("applied"), sums.sequence_mean("weight")
    raw = _sequence_weight(sums["log_ratio"])
    filled = sums.length > 0
    return np.where(filled, weights.applied(raw), 0.0), np.where(filled, raw, 0.0)


def _sequence_weight(log_ratio: Floats) -> Floats:
    return np.asarray(
        np.exp(np.clip(log_ratio, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)), dtype=np.float64
    )
