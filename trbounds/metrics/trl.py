"""TRL: ``sampling/*`` of GRPO with vLLM importance sampling.

With ``d = old_per_token_logps - sampling_per_token_logps`` over the tokens of the loss mask:
``sampling/sampling_logp_difference/mean`` and ``/max`` are the mean and the largest of ``|d|`` over
all tokens. ``sampling/importance_sampling_ratio/mean``, ``/min`` and ``/max`` are over the
sequences' ``r_i = exp(sum_t d)``, after the mode: "sequence_mask" (the default) sets r_i above the
cap to 0, "sequence_truncate" cuts it at the cap. The default cap is 3.0.

Assumed: one process (TRL takes the mean of the means of its processes), and a mode by sequence.
Source: ``trl/trainer/grpo_trainer.py``.
"""

from __future__ import annotations

import numpy as np

from trbounds.errors import InputError
from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "metrics"]

COLUMNS = ("log_ratio", "absolute", "absolute_max")
"""What has to be summed."""


def metrics(
    sums: SequenceSums, *, cap: float = 3.0, level: str = "sequence_mask"
) -> dict[str, float]:
    """Compute TRL's sampling metrics of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS`.
    cap : float
        ``vllm_importance_sampling_cap``, above 0.
    level : {"sequence_mask", "sequence_truncate"}
        ``vllm_importance_sampling_mode``.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.

    Raises
    ------
    InputError
        For an unknown mode, or a cap that is not above 0.
    """
    if level not in ("sequence_mask", "sequence_truncate"):
        raise InputError(
            f"found {level!r}, expected 'sequence_mask' or 'sequence_truncate'", field="level"
        )
    if not cap > 0:
        raise InputError(f"found {cap:g}, expected a number above 0", field="cap")
    with np.errstate(over="ignore"):
        ratio = np.exp(sums["log_ratio"])
    ratio = np.where(ratio > cap, 0.0 if level == "sequence_mask" else cap, ratio)
    return {
        "sampling/sampling_logp_difference/mean": sums.token_mean("absolute"),
        "sampling/sampling_logp_difference/max": float(sums["absolute_max"].max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
    }
