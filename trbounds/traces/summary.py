"""The summary of a trace: one pass over the tokens, then no token is needed again."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.estimates import (
    PairedDifference,
    StepSeries,
    dense_groups,
    paired_differences,
    step_series,
)
from trbounds.traces.extremes import Extremes
from trbounds.traces.histogram import Histogram, token_histograms
from trbounds.traces.partition import Part
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.stopping import StoppedSums
from trbounds.traces.token_terms import TokenTerms

__all__ = ["COUNTS", "Partial", "Skipped", "TraceSummary"]

_BLOCK_TOKENS = 131_072
"""Tokens looked at together: few enough for the cache, many enough to be worth numpy's calls."""

_MAX_SKIPPED = 1_000

_OPTIONAL = ("kl", "tv", "chi2", "entropy", "advantages", "weight_version")
_OPTIONAL_SEQUENCE = ("reward", "prompt_id", "group_id", "step", "finished")

COUNTS = {
    "tokens": "tokens that count",
    "masked_tokens": "tokens left out by the mask",
    "finished": "sequences that ended by themselves",
    "empty_sequences": "sequences without a token that counts",
    "saturated_sequences": "sequences of which a prefix weight was cut at e^100",
    "truncated_sampling": "sequences logged with top_p < 1 or top_k > 0",
    "mixed_versions": "sequences sampled by more than one version of the weights",
    "equal_logprobs": "tokens with the same log-probability under both policies",
    "zero_rollout_logprobs": "tokens with rollout log-probability exactly 0",
    "zero_train_logprobs": "tokens with training log-probability exactly 0",
    "kl_above_log_chi2": "tokens with kl > log(1 + chi2)",
    "skipped": "records and files left out because of an error",
}
"""What ``TraceSummary.counts`` counts."""


@dataclass(frozen=True, order=True)
class Skipped:
    """A record (or a whole file: ``record`` is -1) that was left out, and why."""

    file: str
    record: int
    field: str
    problem: str

    @classmethod
    def of(cls, error: InputError) -> Skipped:
        """Take the place and the problem from an error."""
        record = -1 if error.record is None else error.record
        return cls(error.file or "", record, error.field or "", error.problem)


@dataclass(frozen=True)
class Partial:
    """What a summary holds of its inputs when the run that made it did not come to its end.

    Parameters
    ----------
    done : frozenset of Part
        Parts of the inputs that are in the summary.
    left : int
        Number of parts that are not.
    """

    done: frozenset[Part]
    left: int

    def merge(self, other: Partial) -> Partial:
        """Return what the merged summary lacks."""
        return Partial(self.done | other.done, self.left + other.left)

    def __str__(self) -> str:
        return f"partial: {len(self.done)} of {len(self.done) + self.left} parts of the inputs"


class TraceSummary:
    """Everything the rest of trbounds needs of a trace, in bounded memory.

    A summary holds 125 bytes a sequence, 232 bytes a position and about 100 KiB besides. Two
    summaries merge; any partition of a trace, merged in any order, gives the same result up to
    1e-12 of the sums of absolute values.

    Attributes
    ----------
    sequences : SequenceTable
        One row per sequence, in order of (file, record).
    positions : PositionSums
        Means, standard errors and maxima by position.
    stopped : StoppedSums
        The stopped path sum of chi2 on a grid of budgets.
    extremes : Extremes
        Observed token extremes with their places.
    histograms : dict of str to Histogram
        Of token values.
    counts : Counter
        See :data:`COUNTS`.
    files : list of str
        Sorted; ``sequences["file"]`` indexes it.
    present : frozenset of str or None
        Optional fields that every sequence has; None while there is no sequence.
    seen : frozenset of str
        Optional fields that some sequence has.
    reward_range : tuple of float
        The admissible rewards the trace was read with.
    partial : Partial or None
        What is missing, if the run was interrupted; None for a complete summary.
    """

    def __init__(self, *, reward_range: tuple[float, float] = (0.0, 1.0)) -> None:
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        self.positions = PositionSums()
        self.stopped = StoppedSums()
        self.extremes = Extremes()
        self.histograms: dict[str, Histogram] = {}
        self.counts: Counter[str] = Counter()
        self.present: frozenset[str] | None = None
        self.seen: frozenset[str] = frozenset()
        self.partial: Partial | None = None
        self._files: list[str] = []
        self._table = SequenceTable()
        self._skipped: frozenset[Skipped] = frozenset()
        self._sorted = True

    @classmethod
    def of(
        cls, batch: TraceBatch, *, reward_range: tuple[float, float] = (0.0, 1.0)
    ) -> TraceSummary:
        """Summarise one validated batch.

        Parameters
        ----------
        batch : TraceBatch
            Checked by :func:`trbounds.traces.validate` (readers do).
        reward_range : tuple of float
            The admissible rewards it was checked with.
        """
        out = cls(reward_range=reward_range)
        for block in batch.slices(_BLOCK_TOKENS):
            part = cls._of_block(block, out.reward_range)
            if block is batch:
                return part
            out.absorb(part)
        return out

    @classmethod
    def _of_block(cls, block: TraceBatch, reward_range: tuple[float, float]) -> TraceSummary:
        out = cls(reward_range=reward_range)
        terms = TokenTerms.of(block.counted())
        out._files = [block.file]
        out._table = SequenceTable.of(terms)
        out.positions = PositionSums.of(terms)
        out.stopped = StoppedSums.of(terms)
        out.extremes = Extremes.of(terms)
        out.histograms = token_histograms(terms)
        out.counts = _count(terms, block)
        names = (*_OPTIONAL, *_OPTIONAL_SEQUENCE)
        out.present = frozenset(name for name in names if getattr(block, name) is not None)
        out.seen = out.present
        return out

    def merge(self, other: TraceSummary) -> TraceSummary:
        """Return the summary of both traces together.

        Associative and commutative. Neither argument changes.

        Raises
        ------
        InputError
            If the two were read with different reward ranges.
        """
        out = TraceSummary(reward_range=self.reward_range)
        out.absorb(self)
        out.absorb(other)
        return out

    def record_skip(self, error: InputError) -> None:
        """Note a record or file that was left out; the first 1000 places are listed."""
        self.counts["skipped"] += 1
        self._skipped = _first_skipped(self._skipped | {Skipped.of(error)})

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return len(self._table)

    @property
    def n_tokens(self) -> int:
        """Number of tokens that count."""
        return self.counts["tokens"]

    @property
    def T(self) -> int:
        """Longest sequence, in tokens that count."""
        return self.positions.T

    @property
    def files(self) -> list[str]:
        """Files with at least one sequence, sorted."""
        self._sort()
        return self._files

    @property
    def sequences(self) -> SequenceTable:
        """The table of sequences, in order of (file, record).

        Raises
        ------
        InputError
            If a record is there twice.
        """
        self._sort()
        return self._table

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out, sorted; the first 1000 places of ``counts["skipped"]``."""
        return sorted(self._skipped)

    def has(self, *names: str) -> bool:
        """Whether every sequence has these optional fields."""
        return self.present is not None and self.present.issuperset(names)

    def groups(self) -> NDArray[np.int64]:
        """Number the prompts 0, 1, ...: one entry per row of ``sequences``.

        A sequence that names no prompt is a group of its own.
        """
        return dense_groups(self.sequences)

    def paired_differences(self) -> dict[str, PairedDifference]:
        """Differences whose expectation is 0 if the logs are right; see ``estimates``."""
        return paired_differences(self.sequences)

    def steps(self) -> StepSeries:
        """Series by training step."""
        return step_series(self.sequences)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.tbs`` file; see :func:`trbounds.traces.summary_file.save`."""
        from trbounds.traces.summary_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TraceSummary:
        """Read a ``.tbs`` file; see :func:`trbounds.traces.summary_file.load`."""
        from trbounds.traces.summary_file import load

        return load(path)

    def absorb(self, other: TraceSummary) -> None:
        """Add another summary in place; as :meth:`merge`, without copying this one."""
        if other.reward_range != self.reward_range:
            raise InputError(
                f"found {other.reward_range} and {self.reward_range}, expected one range in all "
                "parts",
                field="reward_range",
            )
        known = {file: index for index, file in enumerate(self._files)}
        for file in other._files:
            if file not in known:
                known[file] = len(known)
                self._files.append(file)
        index = np.array([known[file] for file in other._files], dtype=np.int32)
        self._table.absorb(other._table, index)
        self.positions.absorb(other.positions)
        self.stopped.absorb(other.stopped)
        self.extremes.absorb(other.extremes)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).absorb(histogram)
        self.counts.update(other.counts)
        if other.present is not None:
            self.present = other.present if self.present is None else self.present & other.present
        self.seen |= other.seen
        if other.partial is not None:
            self.partial = (
                other.partial if self.partial is None else other.partial.merge(self.partial)
            )
        if other._skipped:
            self._skipped = _first_skipped(self._skipped | other._skipped)
        self._sorted = False

    def _sort(self) -> None:
        if self._sorted:
            return
        order = sorted(range(len(self._files)), key=self._files.__getitem__)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        self._table.sort(rank)
        self._files = [self._files[index] for index in order]
        self._sorted = True
        row = self._table.duplicate()
        if row is not None:
            raise InputError(
                "found twice: two parts of the trace overlap",
                file=self._files[self._table["file"][row]],
                record=int(self._table["record"][row]),
            )

    def __repr__(self) -> str:
        return (
            f"TraceSummary({self.n_sequences} sequences, {self.n_tokens} tokens, "
            f"{len(self._files)} files, longest {self.T})"
        )


def _first_skipped(skipped: frozenset[Skipped]) -> frozenset[Skipped]:
    if len(skipped) <= _MAX_SKIPPED:
        return skipped
    return frozenset(sorted(skipped)[:_MAX_SKIPPED])


def _count(terms: TokenTerms, block: TraceBatch) -> Counter[str]:
    batch = terms.batch
    counts = {
        "tokens": batch.n_tokens,
        "masked_tokens": block.n_tokens - batch.n_tokens,
        "finished": 0 if batch.finished is None else np.count_nonzero(batch.finished),
        "saturated_sequences": terms.saturated,
        "empty_sequences": np.count_nonzero(batch.lengths == 0),
        "equal_logprobs": batch.n_tokens - np.count_nonzero(terms.log_ratio),
        "zero_rollout_logprobs": batch.n_tokens - np.count_nonzero(batch.rollout_logprobs),
        "zero_train_logprobs": batch.n_tokens - np.count_nonzero(batch.train_logprobs),
    }
    if terms.kl_log_chi2_excess is not None:
        counts["kl_above_log_chi2"] = np.count_nonzero(terms.kl_log_chi2_excess > 0.0)
    truncated = np.zeros(batch.n_sequences, dtype=bool)
    if batch.top_p is not None:
        truncated |= batch.top_p < 1.0
    if batch.top_k is not None:
        truncated |= batch.top_k > 0
    counts["truncated_sampling"] = np.count_nonzero(truncated)
    if batch.weight_version is not None:
        version = batch.weight_version.astype(np.float64)
        mixed = terms.max_by_sequence(version) != -terms.max_by_sequence(-version)
        counts["mixed_versions"] = np.count_nonzero(mixed)
    return Counter({name: int(count) for name, count in counts.items() if count})
