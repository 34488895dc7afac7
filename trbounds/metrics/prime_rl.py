"""prime-rl: ``mismatch_kl``.

With ``d = trainer_logprobs - inference_logprobs`` over the tokens of the loss mask, a sequence has
``m_i = sum_t (e^d - d - 1) / max(T_i, 1)``. ``mismatch_kl/mean`` is the mean of m_i over sequences,
``mismatch_kl/max`` the largest. No clamp applies.

Assumed: one value per sequence, as in ``src/prime_rl/trainer/rl/loss.py``; versions that log the
mean over all tokens instead give ``mismatch_kl/all/mean``, which is here too.
"""

from __future__ import annotations

from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "metrics"]

COLUMNS = ("k3",)
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
        "mismatch_kl/mean": float(each.mean()),
        "mismatch_kl/max": float(each.max()),
        "mismatch_kl/all/mean": sums.token_mean("k3"),
    }
