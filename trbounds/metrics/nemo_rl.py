r"""NeMo-RL: ``train/*``, the errors between generation and training that its policy loss logs.

Formulas, with ``d = prev_logprobs - generation_logprobs`` and means over the tokens with
``token_mask * sample_mask = 1`` of the whole step:

============================== ================================================================
``token_mult_prob_error``      mean of ``exp(|d|)``
``gen_kl_error``               mean of ``e^d - 1 - d``: k3 of KL(generation || training)
``policy_kl_error``            mean of ``e^-d - 1 + d``
``js_divergence_error``        mean of half the k3 of both log-probabilities against
                               ``log((e^prev + e^generation)/2)``
``sampling_importance_ratio``  mean of the weight that the loss has: ``w = e^d``, 0 where that
                               overflows float32, after truncation
``is_oob_ratio``               with truncation only: share of tokens ("seq-mask-tis": of
                               sequences) outside of the limits
``max_``, ``mean_``,           largest, mean and smallest over sequences of
``min_seq_mult_prob_error_     ``mean_t exp(|d|)``
after_mask``
============================== ================================================================

Truncation is ``truncated_importance_sampling_type``, with ``_ratio`` as its upper limit and
``_ratio_min`` as its lower one: "tis" cuts w there, "icepop" sets w outside to 0, "seq-mask-tis"
sets every w of a sequence to 0 whose ``exp(mean_t d)`` is outside. By default there is none,
"none" here; many of NeMo-RL's recipes have one.

No other clamp applies. Sequences of which the log says that the framework left them out
(``sample_loss_mask`` 0) do not count, as there; so the last three are those after its masking
(``seq_logprob_error_threshold``). Without a threshold ``max_seq_mult_prob_error`` and its kin are
the same; with one they count sequences that the log cannot tell from others that were left out.

Assumed: the default KL type k3, token-level importance ratios, no ``force_on_policy_ratio`` (then
the loss compares with its current log-probabilities), and one global batch a step (of several,
NeMo-RL takes the mean of their means). Held against the code of NeMo-RL 0.7.0 and commit 7ea279a of
22 August 2026, executed: ``nemo_rl/algorithms/loss/loss_functions.py``, and
``nemo_rl/algorithms/grpo.py`` for sequences. 0.4 to 0.6 have the same formulas of tokens, 0.3 the
first and fifth alone. Of truncation 0.4 and 0.5 have "tis" without a lower limit and no share, 0.3
nothing; the share of 0.6 is larger by 1 for every microbatch of a step after the first.
"""

from __future__ import annotations

import math

import numpy as np

from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "make_weights", "metrics"]

COLUMNS = (
    "exp_absolute",
    "k3",
    "reverse_k3",
    "jensen_shannon",
    "log_ratio",
    "weight",
    "weight_above",
    "weight_below",
    "applied",
)
"""What has to be summed."""

_TYPES = ("none", "tis", "icepop", "seq-mask-tis")


def make_weights(cap: float, floor: float | None, level: str) -> Weights:
    """Say what NeMo-RL makes of log-ratios.

    Parameters
    ----------
    cap, floor : float
        ``truncated_importance_sampling_ratio`` and, if it is above 0, ``_ratio_min``.
    level : {"none", "tis", "icepop", "seq-mask-tis"}
        ``truncated_importance_sampling_type``.

    Raises
    ------
    InputError
        For an unknown type, limits without a type or a type without its limits, or limits out of
        range.
    """
    if level not in _TYPES:
        raise InputError(f"found {level!r}, expected one of {', '.join(_TYPES)}", field="level")
    if level == "none" and not (cap == math.inf and floor is None):
        raise InputError(
            f"found a limit of the weights, expected with it one of {', '.join(_TYPES[1:])}",
            field="level",
        )
    if level != "none" and cap == math.inf:
        raise InputError(f"not given, expected a number with {level!r}", field="cap")
    if level in ("icepop", "seq-mask-tis") and floor is None:
        raise InputError(f"not given, expected a number with {level!r}", field="floor")
    return Weights(cap=cap, floor=floor, masks=level == "icepop", drops_overflow=True)


def metrics(sums: SequenceSums, weights: Weights, level: str) -> dict[str, float]:
    """Compute NeMo-RL's error metrics of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS`: the sequences that the framework kept.
    weights : Weights
        Of :func:`make_weights`, as summed with.
    level : {"none", "tis", "icepop", "seq-mask-tis"}
        The type of truncation.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    each = sums.sequence_mean("exp_absolute")[sums.length > 0]
    ratio, outside = _truncated(sums, weights, level)
    found = {
        "token_mult_prob_error": sums.token_mean("exp_absolute"),
        "gen_kl_error": sums.token_mean("k3"),
        "policy_kl_error": sums.token_mean("reverse_k3"),
        "js_divergence_error": sums.token_mean("jensen_shannon"),
        "sampling_importance_ratio": ratio,
        "max_seq_mult_prob_error_after_mask": float(each.max()),
        "mean_seq_mult_prob_error_after_mask": float(each.mean()),
        "min_seq_mult_prob_error_after_mask": float(each.min()),
    }
    if level != "none":
        found["is_oob_ratio"] = outside
    return {f"train/{name}": value for name, value in found.items()}


def _truncated(sums: SequenceSums, weights: Weights, level: str) -> tuple[float, float]:
    """Mean weight, and the share outside of the limits."""
    if level == "seq-mask-tis":
        mean = sums.sequence_mean("log_ratio")
        # As logarithms, which do not overflow.
        out = (mean < math.log(weights.low)) | (mean > math.log(weights.cap))
        kept = np.where(out, 0.0, sums["weight"])
        return float(kept.sum() / sums.n_tokens), float(out.mean())
    outside = sums.token_mean("weight_above")
    if weights.floor is not None:
        outside += sums.token_mean("weight_below")
    return sums.token_mean("applied"), outside
