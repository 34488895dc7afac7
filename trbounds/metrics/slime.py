r"""slime: what its policy loss logs of the gap between training and rollout.

Formulas, with ``d = log_probs - rollout_log_probs``; each is the mean over sequences of the mean
over the tokens of the loss mask, which is 0 without such a token:

========================================= =====================================================
``train/train_rollout_logprob_abs_diff``  ``|d|``
``train/tis``                             ``e^d``, before any clamp
``train/tis_abs``                         ``|e^d - 1|``
``train/tis_clipfrac``                    1 where ``e^d`` is outside of
                                          [``tis_clip_low``, ``tis_clip``]
========================================= =====================================================

By default the limits are 0 and 2; the share is the same whether weights are clamped or, with
``icepop_function``, masked. slime logs the last three with ``--use-tis`` or
``--get-mismatch-metrics`` only.

Assumed: the default mean over sequences (not ``--calculate-per-token-loss``), one sample for each
rollout, and no ``--use-rollout-logprobs`` (then the first compares with the current
log-probabilities). Held against the code of slime 0.3.1 and commit 624b824 of 21 August 2026,
executed:
``slime/backends/megatron_utils/loss.py``.
"""

from __future__ import annotations

from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums

__all__ = ["COLUMNS", "TOKEN_COLUMNS", "make_weights", "metrics"]

COLUMNS = ("absolute",)
"""What has to be summed."""

TOKEN_COLUMNS = ("weight", "weight_distance", "weight_above", "weight_below")
"""What has to be summed for token weights, besides."""


def make_weights(cap: float, floor: float | None, level: str) -> Weights:
    """Say what slime makes of log-ratios.

    Parameters
    ----------
    cap, floor : float
        ``tis_clip`` and, if it is above 0, ``tis_clip_low``.
    level : {"token"}
        slime has weights of tokens alone.

    Raises
    ------
    InputError
        For another `level`, or limits out of range.
    """
    if level != "token":
        raise InputError(f"found {level!r}, expected 'token'", field="level")
    return Weights(cap=cap, floor=floor)


def metrics(sums: SequenceSums, weights: Weights, level: str) -> dict[str, float]:
    """Compute slime's metrics of one step.

    Parameters
    ----------
    sums : SequenceSums
        The step, with :data:`COLUMNS` and :data:`TOKEN_COLUMNS`.
    weights : Weights
        Of :func:`make_weights`, as summed with.
    level : {"token"}
        Of the weights.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    outside = sums.sequence_mean("weight_above")
    if weights.floor is not None:
        outside = outside + sums.sequence_mean("weight_below")
    return {
        "train/train_rollout_logprob_abs_diff": float(sums.sequence_mean("absolute").mean()),
        "train/tis": float(sums.sequence_mean("weight").mean()),
        "train/tis_abs": float(sums.sequence_mean("weight_distance").mean()),
        "train/tis_clipfrac": float(outside.mean()),
    }
