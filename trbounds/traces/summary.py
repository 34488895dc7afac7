"""The summary of a trace: one pass over the tokens, then no token is needed again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trbounds.compiling import Kernel, on_all_cores, usable_cores, uses_numba
from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.compiled import COMPILED_FROM, BlockParts
from trbounds.traces.extremes import Extremes
from trbounds.traces.groups import dense_groups
from trbounds.traces.heap import keep_freed_memory
from trbounds.traces.histogram import Histogram, token_histograms
from trbounds.traces.omissions import Partial, Skipped
from trbounds.traces.pair_moments import PairMoments
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.sequence_table import SequenceTable, check_numbers
from trbounds.traces.step_series import StepSeries, step_series
from trbounds.traces.stopping import StoppedSums
from trbounds.traces.token_counts import TokenCounts, count_block
from trbounds.traces.token_terms import TokenTerms
from trbounds.traces.validate import check_reward_range

_BLOCK_TOKENS = 131_072
"""Tokens looked at together: few enough for the cache, many enough to be worth numpy's calls."""

_THREAD_TOKENS = 1 << 18
"""Tokens that a thread takes at least, so that handing them over is cheap."""

_MAX_SKIPPED = 1_000

_OPTIONAL = (
    *("kl", "tv", "chi2", "entropy", "advantages", "weight_version"),
    *("reward", "prompt_id", "group_id", "step", "finished", "accepted"),
)


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
    pairs : PairMoments
        How the two log-probabilities go together, for :mod:`trbounds.traces.findings`.
    counts : Counter
        See :data:`trbounds.traces.token_counts.COUNTS`.
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

    Raises
    ------
    InputError
        If the range of rewards is none, or so wide that squares would overflow.
    """

    def __init__(self, *, reward_range: tuple[float, float] = (0.0, 1.0)) -> None:
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        check_reward_range(*self.reward_range)
        self.positions = PositionSums()
        self.stopped = StoppedSums()
        self.extremes = Extremes()
        self.histograms: dict[str, Histogram] = {}
        self.pairs = PairMoments()
        self.counts: Counter[str] = Counter()
        self.present: frozenset[str] | None = None
        self.seen: frozenset[str] = frozenset()
        self.partial: Partial | None = None
        self._files: dict[str, int] = {}
        self._table = SequenceTable()
        self._skipped: frozenset[Skipped] = frozenset()
        self._sorted = True

    @classmethod
    def of(
        cls,
        batch: TraceBatch,
        *,
        reward_range: tuple[float, float] = (0.0, 1.0),
        kernel: Kernel = "auto",
    ) -> TraceSummary:
        """Summarise one validated batch.

        Parameters
        ----------
        batch : TraceBatch
            Checked by :func:`trbounds.traces.validate` (readers do).
        reward_range : tuple of float
            The admissible rewards it was checked with.
        kernel : {"auto", "numpy", "numba"}
            The same numbers to 1e-13. "numba" (the extra ``fast``) compiles the pass over the
            tokens and uses all cores; "auto" takes it where it is installed and there are many
            tokens, this batch and what was added before.

        Raises
        ------
        InputError
            If `kernel` is unknown, or a record or a step has a number that is out of range.
        MissingDependency
            If numba is asked for and absent.
        """
        out = cls(reward_range=reward_range)
        out.add(batch, kernel=kernel)
        return out

    def add(self, batch: TraceBatch, *, kernel: Kernel = "auto") -> None:
        """Add one validated batch in place; see :meth:`of`.

        Not for several threads at a time: each sums up on its own, then :meth:`absorb`. If it is
        interrupted (Ctrl-C, no memory), part of the batch is in the summary: start anew.

        Raises
        ------
        InputError
            If `kernel` is unknown, or a record or a step has a number that is out of range; the
            summary is as before.
        MissingDependency
            If numba is asked for and absent.
        """
        compiled = uses_numba(kernel, worth=self.n_tokens + batch.n_tokens >= COMPILED_FROM)
        check_numbers(batch)
        keep_freed_memory()
        cores = usable_cores() if compiled else 1
        if cores == 1 or batch.n_tokens < 2 * _THREAD_TOKENS:
            for block in batch.slices(batch.n_tokens if compiled else _BLOCK_TOKENS):
                self._add_block(block, compiled=compiled)
            return
        # With room for one more sequence, so that the last cut leaves nothing over.
        share = max(-(-batch.n_tokens // cores), _THREAD_TOKENS) + int(batch.lengths.max())

        def summarise(block: TraceBatch) -> TraceSummary:
            out = TraceSummary(reward_range=self.reward_range)
            out._add_block(block, compiled=True)
            return out

        for part in on_all_cores(summarise, batch.slices(share)):
            self.absorb(part)

    def _add_block(self, block: TraceBatch, *, compiled: bool) -> None:
        block = block.in_float64()
        batch = block.counted()
        parts = BlockParts(self.positions, self.stopped, self.extremes, self.histograms, self.pairs)
        table, counts = (
            parts.add_compiled(batch, block) if compiled else _add_with_numpy(parts, batch, block)
        )
        self._table.absorb(table, self._file_index([block.file]))
        self.counts.update(count_block(counts, batch, block))
        self._note_fields(frozenset(name for name in _OPTIONAL if getattr(block, name) is not None))
        self._sorted = False

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
        return list(self._files)

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

    def steps(self) -> StepSeries:
        """Series by training step."""
        return step_series(self.sequences)

    def quantile(self, name: str, q: float) -> float:
        """Quantile of a value over all tokens that count, to within 1/16 relative (k2: 1/8).

        From exact counts, so that it does not depend on how summaries were merged; the bins are
        those of DDSketch [1]_ with linear interpolation within an octave.

        Parameters
        ----------
        name : str
            ``abs_log_ratio``, ``k2``, ``k3``; where every sequence has it ``kl``, ``tv``, ``chi2``
            or ``entropy``.
        q : float
            In [0, 1].

        Raises
        ------
        InputError
            If the value is unknown or not logged, `q` is outside of [0, 1], or there is no token.

        References
        ----------
        .. [1] C. Masson, J. E. Rim and H. K. Lee, "DDSketch: a fast and fully-mergeable quantile
           sketch with relative-error guarantees", PVLDB 12 (2019).
        """
        if not self.n_tokens:
            raise InputError("the summary holds no token")
        counted = "abs_log_ratio" if name == "k2" else name
        histogram = self.histograms.get(counted)
        if histogram is None or (counted in _OPTIONAL and not self.has(counted)):
            raise InputError(f"found {name!r}, expected a value that every token has", field="name")
        value = histogram.quantile(q)
        if f"{counted}_max" in self.extremes:
            value = min(value, self.extremes[f"{counted}_max"].value)
        return 0.5 * value**2 if name == "k2" else value

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.tbs`` file; see :func:`trbounds.traces.summary_file.save`."""
        # Here and below, because the file's form follows from the summary, and imports it.
        from trbounds.traces.summary_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TraceSummary:
        """Read a ``.tbs`` file; see :func:`trbounds.traces.summary_file.load`."""
        from trbounds.traces.summary_file import load

        return load(path)

    def absorb(self, other: TraceSummary) -> None:
        """Add another summary in place; as :meth:`merge`, without copying this one.

        Raises
        ------
        InputError
            If the two were read with different reward ranges, or are one and the same.
        """
        if other is self:
            raise InputError("found the summary itself, expected another", field="other")
        if other.reward_range != self.reward_range:
            raise InputError(
                f"found {other.reward_range} and {self.reward_range}, expected one range in all "
                "parts",
                field="reward_range",
            )
        self._table.absorb(other._table, self._file_index(other._files))
        self.positions.absorb(other.positions)
        self.stopped.absorb(other.stopped)
        self.extremes.absorb(other.extremes)
        self.pairs.absorb(other.pairs)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).absorb(histogram)
        self.counts.update(other.counts)
        if other.present is not None:
            self._note_fields(other.present)
        self.seen |= other.seen
        if other.partial is not None:
            self.partial = (
                other.partial if self.partial is None else other.partial.merge(self.partial)
            )
        if other._skipped:
            self._skipped = _first_skipped(self._skipped | other._skipped)
        self._sorted = False

    def _file_index(self, files: Iterable[str]) -> NDArray[np.int32]:
        """Return the numbers of files; those that are new get the next ones."""
        numbers = [self._files.setdefault(file, len(self._files)) for file in files]
        return np.array(numbers, dtype=np.int32)

    def _note_fields(self, present: frozenset[str]) -> None:
        self.present = present if self.present is None else self.present & present
        self.seen |= present

    def _sort(self) -> None:
        if self._sorted:
            return
        files = sorted(self._files)
        rank = np.empty(len(files), dtype=np.int32)
        rank[[self._files[file] for file in files]] = np.arange(len(files), dtype=np.int32)
        self._table.sort(rank)
        self._files = {file: number for number, file in enumerate(files)}
        row = self._table.duplicate()
        if row is not None:
            raise InputError(
                "found twice: two parts of the trace overlap",
                file=files[self._table["file"][row]],
                record=int(self._table["record"][row]),
            )
        self._sorted = True

    def __repr__(self) -> str:
        return (
            f"TraceSummary({self.n_sequences} sequences, {self.n_tokens} tokens, "
            f"{len(self._files)} files, longest {self.T})"
        )


def _first_skipped(skipped: frozenset[Skipped]) -> frozenset[Skipped]:
    if len(skipped) <= _MAX_SKIPPED:
        return skipped
    return frozenset(sorted(skipped)[:_MAX_SKIPPED])


def _add_with_numpy(
    parts: BlockParts, batch: TraceBatch, block: TraceBatch
) -> tuple[SequenceTable, TokenCounts]:
    terms = TokenTerms.of(batch)
    parts.positions.add(terms)
    parts.stopped.add(terms)
    parts.extremes.absorb(Extremes.of(terms))
    for name, histogram in token_histograms(terms).items():
        parts.histograms.setdefault(name, Histogram()).absorb(histogram)
    parts.pairs.add(terms, block)
    return SequenceTable.of(terms), TokenCounts.of(terms)
