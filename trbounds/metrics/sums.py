"""Sums over each sequence, from which every framework's metric is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.traces.batch import TraceBatch
from trbounds.traces.sequence_table import SequenceTable, check_numbers
from trbounds.traces.token_terms import LOG_RATIO_CLAMP, k3_of

__all__ = ["COLUMNS", "SequenceSums", "sum_sequences"]

Floats = NDArray[np.float64]

_BLOCK_TOKENS = 131_072
_LOG_LARGEST_FLOAT32 = float(np.log(np.finfo(np.float32).max))


class _Block:
    """Terms of the tokens of a block, each computed if it is asked for, once."""

    def __init__(self, batch: TraceBatch, weights: Weights) -> None:
        self.batch, self.weights = batch, weights

    @cached_property
    def d(self) -> Floats:
        return self.batch.log_ratio

    @cached_property
    def absolute(self) -> Floats:
        return np.abs(self.d)

    @cached_property
    def ratio_minus_one(self) -> Floats:
        return np.expm1(self.d)

    @cached_property
    def ratio(self) -> Floats:
        # Not e^d - 1 with 1 added again: that leaves a small ratio without its digits.
        return np.exp(self.d)

    @cached_property
    def clamped(self) -> Floats:
        # The same as clamping d, as e^d grows with d, without another exponential.
        limits = np.exp([-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP])
        return np.clip(self.ratio, *limits)

    @cached_property
    def weight(self) -> Floats:
        if self.weights.drops_overflow:
            return np.where(self.d > _LOG_LARGEST_FLOAT32, 0.0, self.ratio)
        return self.clamped if self.weights.clamps else self.ratio

    @cached_property
    def applied(self) -> Floats:
        return self.weights.applied(self.weight)

    @cached_property
    def k3(self) -> Floats:
        return k3_of(self.d, self.ratio_minus_one)

    def reverse_k3(self) -> Floats:
        return k3_of(-self.d, np.expm1(-self.d))

    def jensen_shannon(self) -> Floats:
        """Half the k3 of both policies against ``m = (pi + mu)/2``."""
        d = self.d
        # log pi - log m and log mu - log m, each the log of a number at most 2.
        to_train = np.log(2.0) - np.logaddexp(0.0, -d)
        to_rollout = np.log(2.0) - np.logaddexp(0.0, d)
        small = self.absolute < 1e-2
        # Near 0, log 2 - log(1 + e^-d) = d/2 - d^2/8 + d^4/192 without cancellation.
        series = d[small] ** 2 / 8 - d[small] ** 4 / 192
        to_train[small], to_rollout[small] = d[small] / 2 - series, -d[small] / 2 - series
        return 0.5 * (k3_of(to_train, np.expm1(to_train)) + k3_of(to_rollout, np.expm1(to_rollout)))


def _sum(term: Callable[[_Block], NDArray[np.generic]]) -> Callable[[_Block], Floats]:
    return lambda block: block.batch.segment_sum(term(block)).astype(np.float64)


def _count(term: Callable[[_Block], NDArray[np.bool_]]) -> Callable[[_Block], Floats]:
    return _sum(lambda block: term(block).astype(np.float64))


COLUMNS: Mapping[str, Callable[[_Block], Floats]] = MappingProxyType(
    {
        "train": _sum(lambda block: block.batch.train_logprobs),
        "rollout": _sum(lambda block: block.batch.rollout_logprobs),
        "log_ratio": _sum(lambda block: block.d),
        "k3": _sum(lambda block: block.k3),
        "k3_square": _sum(lambda block: block.k3**2),
        "k3_max": lambda block: block.batch.segment_max(block.k3),
        "reverse_k3": _sum(_Block.reverse_k3),
        "clamped_square": _sum(lambda block: block.clamped**2),
        "absolute": _sum(lambda block: block.absolute),
        "absolute_max": lambda block: block.batch.segment_max(block.absolute),
        "exp_absolute": _sum(lambda block: np.exp(block.absolute)),
        "jensen_shannon": _sum(_Block.jensen_shannon),
        "weight": _sum(lambda block: block.weight),
        "weight_distance": _sum(lambda block: np.abs(block.ratio_minus_one)),
        "weight_above": _count(lambda block: block.weight > block.weights.cap),
        "weight_below": _count(lambda block: block.weight < block.weights.low),
        "applied": _sum(lambda block: block.applied),
        "applied_square": _sum(lambda block: block.applied**2),
        "applied_max": lambda block: block.batch.segment_max(block.applied, empty=-np.inf),
        "applied_min": lambda block: -block.batch.segment_max(-block.applied, empty=-np.inf),
    }
)
"""What can be summed over the tokens of a sequence, with ``d = log pi - log mu``:

======================== ======================================================================
``train``, ``rollout``   ``log pi``, ``log mu``
``log_ratio``            d
``k3``, ``reverse_k3``   ``e^d - d - 1``, ``e^-d + d - 1``
``k3_square``,           k3 squared, and its largest
``k3_max``
``clamped_square``       ``e^(2d)``, d clamped to [-20, 20]
``absolute``,            ``|d|``, and its largest
``absolute_max``
``exp_absolute``         ``e^|d|``
``jensen_shannon``       half the k3 of either log-probability against that of the even mixture
``weight``               ``w = e^d``; where the framework does so, with d clamped to [-20, 20], or
                         0 where that overflows float32
``weight_distance``      ``|e^d - 1|``
``weight_above``,        1 where w is above the cap, below the floor (or the cap's inverse)
``weight_below``
``applied``,             w after the limits of :class:`Weights`, and its square
``applied_square``
``applied_max``,         its largest and smallest; -inf and inf without a token
``applied_min``
======================== ======================================================================
"""


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
    columns : mapping of str to ndarray
        By names of :data:`COLUMNS`; ``sums[name]`` is one of them.
    """

    length: NDArray[np.int64]
    step: NDArray[np.int64]
    group: NDArray[np.int64]
    kept: NDArray[np.bool_]
    columns: Mapping[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return self.length.size

    def select(self, keep: NDArray[np.bool_]) -> SequenceSums:
        """Keep the sequences where `keep` is true."""
        return SequenceSums(
            length=self.length[keep],
            step=self.step[keep],
            group=self.group[keep],
            kept=self.kept[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
        )

    def token_mean(self, name: str) -> float:
        """Mean over all tokens of what a column sums."""
        return float(self[name].sum() / self.length.sum())

    def sequence_mean(self, name: str) -> Floats:
        """Mean over the tokens of each sequence; 0 without a token, as ``0 / 1e-8`` is."""
        return np.asarray(self[name] / np.maximum(self.length, 1), dtype=np.float64)


def sum_sequences(
    batches: Iterable[TraceBatch], columns: Iterable[str], weights: Weights
) -> SequenceSums:
    """Sum over the tokens of every sequence, in one pass.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace.
    columns : iterable of str
        What to sum: keys of :data:`COLUMNS`.
    weights : Weights
        What the framework makes of log-ratios.

    Returns
    -------
    SequenceSums
        In the order of the batches; 25 bytes a sequence, and 8 for each column.

    Raises
    ------
    InputError
        If no token counts, or a record or a step has a number that is out of range.
    """
    names = tuple(columns)
    parts = []
    for batch in batches:
        check_numbers(batch)
        parts += [
            _sum_block(block.counted(), names, weights) for block in batch.slices(_BLOCK_TOKENS)
        ]
    if not sum(int(part.length.sum()) for part in parts):
        raise InputError("found no token that counts, expected at least one", field="paths")
    return SequenceSums(
        length=np.concatenate([part.length for part in parts]),
        step=np.concatenate([part.step for part in parts]),
        group=np.concatenate([part.group for part in parts]),
        kept=np.concatenate([part.kept for part in parts]),
        columns={name: np.concatenate([part[name] for part in parts]) for name in names},
    )


def _sum_block(batch: TraceBatch, names: tuple[str, ...], weights: Weights) -> SequenceSums:
    block, table = _Block(batch, weights), SequenceTable.from_statistics(batch, {})
    # What is beyond float64 is as infinite here as it is in float32 there.
    with np.errstate(over="ignore"):
        columns = {name: COLUMNS[name](block) for name in names}
    return SequenceSums(
        length=batch.lengths,
        step=table["step"].astype(np.int64),
        group=table["group"],
        kept=np.ones(batch.n_sequences, bool) if batch.accepted is None else batch.accepted,
        columns=columns,
    )
