"""TRL: ``sampling/*`` of GRPO with vLLM importance sampling.

With ``d = old_per_token_logps - sampling_per_token_logps`` over the tokens of the loss mask:
``sampling/sampling_logp_difference/mean`` and ``/max`` are the mean and the largest of ``|d|`` over
all tokens. ``sampling/importance_sampling_ratio/mean``, ``/min`` and ``/max`` are over the
sequences' ``r_i = exp(sum_t d)`` or, in the modes "token_truncate" and "token_mask", over the
tokens' ``e^d``, after the mode: "..._mask" sets what is above the cap, or below the floor if there
is one, to 0, "..._truncate" cuts it there. By default the mode is "sequence_mask", the cap
(``vllm_importance_sampling_clip_max``, before 1.6 ``vllm_importance_sampling_cap``) is 3, and there
is no floor (``vllm_importance_sampling_clip_min``).

Names are TRL's own; Weights & Biases, TensorBoard and trackio get them with ``train/`` in front,
from transformers.

Assumed: one process and one generation for each logged line (TRL takes the mean of the means of
several), and log-probabilities that are all there (TRL gives tokens that vLLM could not score the
ratio 1). Held against the code of ``trl/trainer/grpo_trainer.py`` of TRL 1.16.0, executed.
"""

from __future__ import annotations

import numpy as np

from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "TOKEN_COLUMNS", "make_weights", "metrics"]

COLUMNS = ("log_ratio", "absolute", "absolute_max")
"""What has to be summed."""

TOKEN_COLUMNS = ("applied", "applied_max", "applied_min")
"""What has to be summed for token weights, besides."""

_MODES = ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate")


def make_weights(cap: float, floor: float | None, level: str) -> Weights:
    """Say what TRL makes of log-ratios.

    Parameters
    ----------
    cap, floor : float
        ``vllm_importance_sampling_clip_max`` and ``_clip_min``.
    level : {"sequence_mask", "sequence_truncate", "token_mask", "token_truncate"}
        ``vllm_importance_sampling_mode``.

    Raises
    ------
    InputError
        For an unknown mode, or limits out of range.
    """
    if level not in _MODES:
        raise InputError(f"found {level!r}, expected one of {', '.join(_MODES)}", field="level")
    return Weights(cap=cap, floor=floor, masks=level.endswith("mask"))


def metrics(sums: SequenceSums, weights: Weights, level: str) -> dict[str, float]:
    """Compute TRL's sampling metrics of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS`, for token modes also :data:`TOKEN_COLUMNS`.
    weights : Weights
        Of :func:`make_weights`, as summed with.
    level : str
        The mode.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    if level.startswith("token"):
        smallest, largest = sums["applied_min"].min(), sums["applied_max"].max()
        mean = sums.token_mean("applied")
    else:
        with np.errstate(over="ignore"):
            ratio = weights.applied(np.exp(sums["log_ratio"]))
        smallest, mean, largest = ratio.min(), float(ratio.mean()), ratio.max()
    return {
        "sampling/sampling_logp_difference/mean": sums.token_mean("absolute"),
        "sampling/sampling_logp_difference/max": float(sums["absolute_max"].max()),
        "sampling/importance_sampling_ratio/min": float(smallest),
        "sampling/importance_sampling_ratio/mean": mean,
        "sampling/importance_sampling_ratio/max": float(largest),
    }
