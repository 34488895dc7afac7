"""Sums over each sequence, from which every framework's metric is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.token_terms import TokenTerms, k3_of

__all__ = ["SAFETY_BOUND", "SequenceSums", "sum_sequences"]

Floats = NDArray[np.float64]

SAFETY_BOUND = 20.0
"""verl clamps log-ratios to this before some exponentials."""

_BLOCK_TOKENS = 131_072
_LOG_LARGEST_FLOAT32 = float(np.log(np.finfo(np.float32).max))


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceSums:
    """One number per sequence of each kind; logarithms are natural.

    Parameters
    ----------
    length : ndarray of int64
        Tokens that count.
    step : ndarray of int64
        Training step, -1 if not logged.
    group : ndarray of int64
        Prompt.
    kept : ndarray of bool
        Whether the framework kept the sequence for its update; true where not logged.
    train, rollout : ndarray
        Sums of ``log pi`` and ``log mu``.
    log_ratio : ndarray
        Sum of ``d = log pi - log mu``.
    k3, reverse_k3 : ndarray
        Sums of ``e^d - d - 1`` and ``e^-d + d - 1``.
    ratio, clamped_square : ndarray
        Sums of ``e^d``, 0 where that overflows float32, and of ``e^(2d)`` with d clamped to
        [-20, 20].
    absolute, absolute_max, exp_absolute : ndarray
        Sum and largest of ``|d|``, sum of ``e^|d|``.
    jensen_shannon : ndarray
        Sum of half the k3 of either log-probability against that of the even mixture.
    weight, capped_weight, capped_weight_square, weight_above, weight_below : ndarray
        With ``w = e^d`` (d clamped): the sum of w; the sums of w and of its square with w clamped
        to [1/cap, cap]; how many lie above cap, and below 1/cap.
    weight_max, weight_min : ndarray
        Largest and smallest w; -inf and inf without a token.
    """

    length: NDArray[np.int64]
    step: NDArray[np.int64]
    group: NDArray[np.int64]
    kept: NDArray[np.bool_]
    train: Floats
    rollout: Floats
    log_ratio: Floats
    k3: Floats
    reverse_k3: Floats
    ratio: Floats
    clamped_square: Floats
    absolute: Floats
    absolute_max: Floats
    exp_absolute: Floats
    jensen_shannon: Floats
    weight: Floats
    capped_weight: Floats
    capped_weight_square: Floats
    weight_above: Floats
    weight_below: Floats
    weight_max: Floats
    weight_min: Floats

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return self.length.size

    def select(self, keep: NDArray[np.bool_]) -> SequenceSums:
        """Keep the sequences where `keep` is true."""
        return SequenceSums(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def token_mean(self, name: str) -> float:
        """Mean over all tokens of what a column sums."""
        return float(getattr(self, name).sum() / self.length.sum())

    def sequence_mean(self, name: str) -> Floats:
        """Mean over the tokens of each sequence; 0 without a token, as ``0 / 1e-8`` is."""
        return np.asarray(getattr(self, name) / np.maximum(self.length, 1), dtype=np.float64)


def sum_sequences(batches: Iterable[TraceBatch], *, cap: float) -> SequenceSums:
    """Sum over the tokens of every sequence, in one pass.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace.
    cap : float
        Largest token weight, above 1; the smallest is its inverse.

    Returns
    -------
    SequenceSums
        In the order of the batches; 170 bytes a sequence.

    Raises
    ------
    InputError
        If `cap` is not a finite number above 1, or no token counts.
    """
    if not (np.isfinite(cap) and cap > 1):
        raise InputError(f"found {cap:g}, expected a finite number above 1", field="cap")
    parts = [_sum_block(block.counted(), cap) for b in batches for block in b.slices(_BLOCK_TOKENS)]
    if not sum(int(part.length.sum()) for part in parts):
        raise InputError("found no token that counts, expected at least one", field="paths")
    return SequenceSums(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(SequenceSums)
        }
    )


def _sum_block(batch: TraceBatch, cap: float) -> SequenceSums:
    terms = TokenTerms.of(batch)
    d, total = terms.log_ratio, terms.sum_by_sequence
    weight = np.exp(np.clip(d, -SAFETY_BOUND, SAFETY_BOUND))
    capped = np.clip(weight, 1 / cap, cap)
    table = SequenceTable.of(terms)
    ratio = np.where(d > _LOG_LARGEST_FLOAT32, 0.0, np.exp(np.minimum(d, _LOG_LARGEST_FLOAT32)))
    # What is beyond float64 is as infinite here as it is in float32 there.
    with np.errstate(over="ignore"):
        inverse, exp_absolute = np.expm1(-d), np.exp(terms.abs_log_ratio)
    return SequenceSums(
        length=batch.lengths,
        step=table["step"].astype(np.int64),
        group=table["group"],
        kept=np.ones(batch.n_sequences, bool) if batch.accepted is None else batch.accepted,
        train=total(batch.train_logprobs),
        rollout=total(batch.rollout_logprobs),
        log_ratio=total(d),
        k3=total(terms.k3),
        reverse_k3=total(k3_of(-d, inverse)),
        ratio=total(ratio),
        clamped_square=total(weight * weight),
        absolute=total(terms.abs_log_ratio),
        absolute_max=terms.max_by_sequence(terms.abs_log_ratio),
        exp_absolute=total(exp_absolute),
        jensen_shannon=total(_jensen_shannon(d)),
        weight=total(weight),
        capped_weight=total(capped),
        capped_weight_square=total(capped * capped),
        weight_above=total((weight > cap).astype(np.float64)),
        weight_below=total((weight < 1 / cap).astype(np.float64)),
        weight_max=batch.segment_max(weight, empty=-np.inf),
        weight_min=-batch.segment_max(-weight, empty=-np.inf),
    )


def _jensen_shannon(d: Floats) -> Floats:
    """Half the k3 of both policies against ``m = (pi + mu)/2``, from ``d = log pi - log mu``."""
    # log pi - log m and log mu - log m, each the log of a number at most 2.
    to_train = np.log(2.0) - np.logaddexp(0.0, -d)
    to_rollout = np.log(2.0) - np.logaddexp(0.0, d)
    small = np.abs(d) < 1e-2
    # Near 0, log 2 - log(1 + e^-d) = d/2 - d^2/8 + d^4/192 without cancellation.
    series = d[small] ** 2 / 8 - d[small] ** 4 / 192
    to_train[small], to_rollout[small] = d[small] / 2 - series, -d[small] / 2 - series
    return 0.5 * (k3_of(to_train, np.expm1(to_train)) + k3_of(to_rollout, np.expm1(to_rollout)))
