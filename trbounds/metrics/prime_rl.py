"""prime-rl: ``mismatch_kl``.

With ``d = trainer_logprobs - inference_logprobs`` and ``k3 = e^d - d - 1`` of each token that
counts:

========================== ====================================================================
``mismatch_kl/all/mean``,  mean and largest k3 of all tokens of the step, and their standard
``/max``, ``/std``         deviation with n - 1
``mismatch_kl/mean``,      mean and largest over sequences of ``mean_t k3``; 0 without a token
``/max``
========================== ====================================================================

No clamp applies. The standard deviation is good to 1e-7 of the mean.

Held against the code of prime-rl 0.8.0 and commit 559b447 of 21 August 2026, executed:
``src/prime_rl/trainer/rl/train.py`` and ``loss.py``. ``mismatch_kl/all`` is logged since 0.6;
0.3 to 0.5 log ``mismatch_kl/mean`` and ``/max`` instead. Tokens whose loss has weight 0 because
their advantage is 0 (some versions after 0.8.0, where advantages differ within a sequence) do not
count there; here they do, since the policy sampled them.
"""

from __future__ import annotations

import math

import numpy as np

from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "metrics"]

COLUMNS = ("k3", "k3_square", "k3_max")
"""What has to be summed."""


def metrics(sums: SequenceSums) -> dict[str, float]:
    """Compute prime-rl's mismatch of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS`.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    each = sums.sequence_mean("k3")
    return {
        "mismatch_kl/all/mean": sums.token_mean("k3"),
        "mismatch_kl/all/std": _standard_deviation(sums),
        "mismatch_kl/all/max": float(sums["k3_max"].max()),
        "mismatch_kl/mean": float(each.mean()),
        "mismatch_kl/max": float(each.max()),
    }


def _standard_deviation(sums: SequenceSums) -> float:
    """Of k3 over all tokens; NaN of a single one, and beyond float64."""
    count = sums.n_tokens
    if count < 2:
        return math.nan
    mean = sums.token_mean("k3")
    with np.errstate(over="ignore", invalid="ignore"):
        variance = (sums["k3_square"].sum() - count * np.square(mean)) / (count - 1)
    return math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
