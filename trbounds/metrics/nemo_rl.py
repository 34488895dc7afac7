r"""NeMo-RL: the errors between generation and training that its GRPO loss logs.

Formulas, with ``d = prev_logprobs - generation_logprobs`` and means over the tokens with
``token_mask * sample_mask = 1`` of the whole step:

============================ ==================================================================
``token_mult_prob_error``    mean of ``exp(|d|)``
``gen_kl_error``             mean of ``e^d - 1 - d``: k3 of KL(generation || training)
``policy_kl_error``          mean of ``e^-d - 1 + d``
``js_divergence_error``      mean of half the k3 of both log-probabilities against
                             ``log((e^prev + e^generation)/2)``
``sampling_importance_ratio`` mean of ``e^d``, 0 where that overflows float32
============================ ==================================================================

No other clamp applies. Sequences of which the log says that the framework left them out
(``sample_loss_mask`` 0) do not count, as there. Assumed: the default KL type k3 and token-level
importance ratios. Source: ``nemo_rl/algorithms/loss``, clipped policy gradient.
"""

from __future__ import annotations

from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "metrics"]

COLUMNS = ("exp_absolute", "k3", "reverse_k3", "jensen_shannon", "ratio")
"""What has to be summed."""


def metrics(sums: SequenceSums) -> dict[str, float]:
    """Compute NeMo-RL's error metrics of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS`: the sequences that the framework kept.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    return {
        "token_mult_prob_error": sums.token_mean("exp_absolute"),
        "gen_kl_error": sums.token_mean("k3"),
        "policy_kl_error": sums.token_mean("reverse_k3"),
        "js_divergence_error": sums.token_mean("jensen_shannon"),
        "sampling_importance_ratio": sums.token_mean("ratio"),
    }
