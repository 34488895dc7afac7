r"""NeMo-RL: the errors between generation and training that its policy loss logs.

Formulas, with ``d = prev_logprobs - generation_logprobs`` and means over the tokens with
``token_mask * sample_mask = 1`` of the whole step:

============================== ================================================================
``token_mult_prob_error``      mean of ``exp(|d|)``
``gen_kl_error``               mean of ``e^d - 1 - d``: k3 of KL(generation || training)
``policy_kl_error``            mean of ``e^-d - 1 + d``
``js_divergence_error``        mean of half the k3 of both log-probabilities against
                               ``log((e^prev + e^generation)/2)``
``sampling_importance_ratio``  mean of ``e^d``, 0 where that overflows float32
``max_``, ``mean_``,           largest, mean and smallest over sequences of
``min_seq_mult_prob_error_     ``mean_t exp(|d|)``
after_mask``
============================== ================================================================

No other clamp applies. Sequences of which the log says that the framework left them out
(``sample_loss_mask`` 0) do not count, as there; so the last three are those after its masking
(``seq_logprob_error_threshold``). Without a threshold ``max_seq_mult_prob_error`` and its kin are
the same; with one they count sequences that the log cannot tell from others that were left out.

Assumed: the default KL type k3, token-level importance ratios, no ``force_on_policy_ratio`` (then
the loss compares with its current log-probabilities), and one global batch a step (of several,
NeMo-RL takes the mean of their means). Held against the sources of NeMo-RL 0.7.0 and commit 7ea279a
of 22 August 2026: ``nemo_rl/algorithms/loss/loss_functions.py``, and ``nemo_rl/algorithms/grpo.py``
for sequences. 0.4 to 0.6 have the same formulas of tokens, 0.3 the first and fifth alone.
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
    each = sums.sequence_mean("exp_absolute")[sums.length > 0]
    return {
        "token_mult_prob_error": sums.token_mean("exp_absolute"),
        "gen_kl_error": sums.token_mean("k3"),
        "policy_kl_error": sums.token_mean("reverse_k3"),
        "js_divergence_error": sums.token_mean("jensen_shannon"),
        "sampling_importance_ratio": sums.token_mean("ratio"),
        "max_seq_mult_prob_error_after_mask": float(each.max()),
        "mean_seq_mult_prob_error_after_mask": float(each.mean()),
        "min_seq_mult_prob_error_after_mask": float(each.min()),
    }
