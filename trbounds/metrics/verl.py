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
``rollout_is_mean``        mean of ``w``: ``e^d`` (``rollout_is`` "token") or ``e^(s_i)`` at every
                           token of i ("sequence"), exponents clamped to [-20, 20]
``rollout_is_max``,        largest and smallest w over tokens; for "sequence" from the unclamped
``rollout_is_min``         ``s_i``, the largest cut at ``e^20``
``rollout_is_ratio_        share of tokens ("sequence": of sequences) with w above the threshold C,
fraction_high``, ``_low``  below 1/C
``rollout_is_std``         standard deviation over tokens of w clamped to [1/C, C]
``rollout_is_eff_          ``1 / mean of (w / (mean w + 1e-8))^2``, w clamped to [1/C, C]: a share
sample_size``              between 0 and 1
``rollout_is_seq_*``       of ``mean_t w``: mean, std (n - 1), max, min, largest distance from 1
                           (``max_deviation``), share above C and below 1/C
========================== ====================================================================

C is ``rollout_is_threshold``. Weights are those before truncation at C, as verl logs them. verl
computes in the dtype of the log-probabilities and adds 1e-8 to its token counts; here it is
float64. Source: ``verl/trainer/ppo/rollout_corr_helper.py``.
"""

from __future__ import annotations

import numpy as np

from trbounds.errors import InputError
from trbounds.metrics.sums import SAFETY_BOUND, SequenceSums

__all__ = ["COLUMNS", "metrics"]

COLUMNS = (
    "train",
    "rollout",
    "log_ratio",
    "k3",
    "clamped_square",
    "weight",
    "capped_weight",
    "capped_weight_square",
    "weight_above",
    "weight_below",
    "weight_max",
    "weight_min",
)
"""What has to be summed."""


def metrics(sums: SequenceSums, *, cap: float = 2.0, level: str = "token") -> dict[str, float]:
    """Compute verl's off-policy and importance-sampling metrics of one batch.

    Parameters
    ----------
    sums : SequenceSums
        The batch, with :data:`COLUMNS`, summed with the same `cap`.
    cap : float
        ``rollout_is_threshold``.
    level : {"token", "sequence"}
        ``rollout_is``.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.

    Raises
    ------
    InputError
        For an unknown `level`.
    """
    if level not in ("token", "sequence"):
        raise InputError(f"found {level!r}, expected 'token' or 'sequence'", field="level")
    train, rollout = sums.sequence_mean("train"), sums.sequence_mean("rollout")
    difference = rollout - train
    sequence = np.clip(sums["log_ratio"], -SAFETY_BOUND, SAFETY_BOUND)
    found = {
        "training_ppl": np.exp(-train).mean(),
        "training_log_ppl": (-train).mean(),
        "kl": -sums.token_mean("log_ratio"),
        "k3_kl": sums.token_mean("k3"),
        "rollout_ppl": np.exp(-rollout).mean(),
        "rollout_log_ppl": (-rollout).mean(),
        "log_ppl_diff": difference.mean(),
        "log_ppl_abs_diff": np.abs(difference).mean(),
        "log_ppl_diff_max": difference.max(),
        "log_ppl_diff_min": difference.min(),
        "ppl_ratio": np.exp(difference).mean(),
        "chi2_token": sums.token_mean("clamped_square") - 1,
        "chi2_seq": np.exp(2 * sequence).mean() - 1,
    }
    weights = _token_weights(sums) if level == "token" else _sequence_weights(sums, sequence, cap)
    found |= weights | _by_sequence(sums, sequence, cap, level)
    return {f"rollout_corr/{name}": float(value) for name, value in found.items()}


def _token_weights(sums: SequenceSums) -> dict[str, float]:
    mean, square = sums.token_mean("capped_weight"), sums.token_mean("capped_weight_square")
    return {
        "rollout_is_mean": sums.token_mean("weight"),
        "rollout_is_max": float(sums["weight_max"].max()),
        "rollout_is_min": float(sums["weight_min"].min()),
        "rollout_is_ratio_fraction_high": sums.token_mean("weight_above"),
        "rollout_is_ratio_fraction_low": sums.token_mean("weight_below"),
        **_spread(mean, square),
    }


def _sequence_weights(
    sums: SequenceSums, log_weight: np.ndarray[tuple[int], np.dtype[np.float64]], cap: float
) -> dict[str, float]:
    tokens = sums.length / sums.length.sum()
    weight = np.exp(log_weight)
    capped = np.clip(weight, 1 / cap, cap)
    return {
        "rollout_is_mean": float(tokens @ weight),
        "rollout_is_max": float(np.exp(min(sums["log_ratio"].max(), SAFETY_BOUND))),
        "rollout_is_min": float(np.exp(sums["log_ratio"].min())),
        "rollout_is_ratio_fraction_high": float((sums["log_ratio"] > np.log(cap)).mean()),
        "rollout_is_ratio_fraction_low": float((sums["log_ratio"] < -np.log(cap)).mean()),
        **_spread(float(tokens @ capped), float(tokens @ (capped * capped))),
    }


def _spread(mean: float, square: float) -> dict[str, float]:
    return {
        "rollout_is_std": max(square - mean**2, 0.0) ** 0.5,
        "rollout_is_eff_sample_size": (mean + 1e-8) ** 2 / square,
    }


def _by_sequence(
    sums: SequenceSums,
    log_weight: np.ndarray[tuple[int], np.dtype[np.float64]],
    cap: float,
    level: str,
) -> dict[str, float]:
    mean = sums.sequence_mean("weight")
    if level == "sequence":
        mean = np.where(sums.length > 0, np.exp(log_weight), 0.0)
    return {
        "rollout_is_seq_mean": mean.mean(),
        "rollout_is_seq_std": mean.std(ddof=1) if mean.size > 1 else 0.0,
        "rollout_is_seq_max": mean.max(),
        "rollout_is_seq_min": mean.min(),
        "rollout_is_seq_max_deviation": np.abs(mean - 1).max(),
        "rollout_is_seq_fraction_high": (mean > cap).mean(),
        "rollout_is_seq_fraction_low": (mean < 1 / cap).mean(),
    }
