"""The summary of a block by the compiled token pass; the same numbers as the numpy one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch
from trbounds.traces.extremes import Extremes, is_minimum
from trbounds.traces.histogram import BIN_OFFSET, BIN_SHIFT, Histogram
from trbounds.traces.pair_moments import PairMoments
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.stopping import BUDGETS, StoppedSums
from trbounds.traces.token_counts import CERTAIN, TokenCounts
from trbounds.traces.token_terms import LOG_WEIGHT_CAP, k3_of

Floats = NDArray[np.float64]

COMPILED_FROM = 1 << 22
"""Tokens from which loading the compiled pass (about half a second) pays by default."""

_BIN_OF = (BIN_SHIFT, BIN_OFFSET)


class BlockParts(NamedTuple):
    """The parts of a summary to which the tokens of a block are added."""

    positions: PositionSums
    stopped: StoppedSums
    extremes: Extremes
    histograms: dict[str, Histogram]
    pairs: PairMoments

    def add_compiled(
        self, batch: TraceBatch, block: TraceBatch
    ) -> tuple[SequenceTable, TokenCounts]:
        """Add the tokens that count, ``batch``, of a block, in place. Needs numba.

        Returns
        -------
        SequenceTable
            The rows of the block.
        TokenCounts
        """
        return _Pass(self, batch).run(block)


class _Pass:
    """The passes over one block."""

    def __init__(self, parts: BlockParts, batch: TraceBatch) -> None:
        self.parts, self.batch = parts, batch
        self.columns: dict[str, NDArray[Any]] = {}

    def run(self, block: TraceBatch) -> tuple[SequenceTable, TokenCounts]:
        batch = self.batch
        self.parts.positions.count(batch.lengths)
        counts = self._ratios()
        for name in ("kl", "tv", "chi2", "entropy"):
            values = getattr(batch, name)
            if values is not None:
                self._column(name, values)
        above = self._between_columns() if batch.n_tokens else 0
        self._path()
        if block.mask is not None:
            self.parts.pairs.add_masked(block, block.mask)
        table = SequenceTable.from_statistics(batch, self.columns)
        return table, counts._replace(kl_above_log_chi2=above)

    def _histogram(self, name: str) -> NDArray[np.int64]:
        return self.parts.histograms.setdefault(name, Histogram()).counts

    def _ratios(self) -> TokenCounts:
        from trbounds.traces.numba_kernels import ratio_pass

        n, parts = self.batch.n_sequences, self.parts
        positions = parts.positions
        sums, ends = np.zeros((n, 6)), np.empty((n, 3))
        rollout, train = self.batch.rollout_logprobs, self.batch.train_logprobs
        found = ratio_pass(
            rollout,
            train,
            self.batch.offsets,
            (LOG_WEIGHT_CAP, CERTAIN),
            sums,
            ends,
            (
                positions.sums("ratio"),
                positions.sums("abs_ratio"),
                positions.sums("square"),
                positions.squares("square"),
                positions.sums("k3"),
                positions.squares("k3"),
            ),
            positions.maxima("abs_log_ratio"),
            (self._histogram("abs_log_ratio"), self._histogram("k3")),
            _BIN_OF,
            parts.pairs.sums,
            parts.pairs.offset,
        )
        names = ("log_weight", "ratio_sum", "abs_ratio_sum", "square_sum", "k3_sum")
        self.columns.update(zip((*names, "rollout_logprob_sum"), sums.T, strict=True))
        largest = np.maximum(ends[:, 0], 0.0)
        self.columns["k2_max"] = 0.5 * largest * largest
        if self.batch.n_tokens:
            self._ratio_extremes(ends, rollout, train)
        return TokenCounts(*found)

    def _ratio_extremes(self, ends: Floats, rollout: Floats, train: Floats) -> None:
        def log_ratio(cut: slice) -> Floats:
            return train[cut] - rollout[cut]

        def k3(cut: slice) -> Floats:
            x = log_ratio(cut)
            return k3_of(x, np.expm1(x))

        self._note("abs_log_ratio_max", ends[:, 0], lambda cut: np.abs(log_ratio(cut)))
        self._note("k2_min", 0.5 * ends[:, 1] ** 2, lambda cut: 0.5 * log_ratio(cut) ** 2)
        self._note("k3_min", ends[:, 2], k3)

    def _column(self, name: str, values: Floats) -> None:
        from trbounds.traces.numba_kernels import column_pass

        n, positions = self.batch.n_sequences, self.parts.positions
        sums, ends = np.empty(n), np.empty((n, 2))
        if name == "entropy":  # which has no sums by position
            zeros = [np.zeros(positions.T) for _ in range(5)]
            pairs, maxima = ((zeros[0], zeros[1]), (zeros[2], zeros[3])), zeros[4]
        else:
            pairs = positions.sums(name), positions.squares(name)
            maxima = positions.maxima(name)
        bins = self._histogram(name)
        column_pass(values, self.batch.offsets, sums, ends, pairs, maxima, bins, _BIN_OF)
        self.columns[f"{name}_sum"] = sums
        if name == "kl":
            self.columns["kl_max"] = np.maximum(ends[:, 1], 0.0)
        if self.batch.n_tokens:
            self._note(f"{name}_max", ends[:, 1], lambda cut: values[cut])
            self._note(f"{name}_min", ends[:, 0], lambda cut: values[cut])

    def _note(self, name: str, ends: Floats, values: Callable[[slice], Floats]) -> None:
        """Find the token with an extreme in the first sequence that has it, if it is one."""
        extremes, offsets = self.parts.extremes, self.batch.offsets
        find = np.argmin if is_minimum(name) else np.argmax
        index = int(find(ends))
        # The compiled values may differ from numpy's in the last digit, which decides.
        if extremes.exceeded(name, float(ends[index]), margin=1e-12):
            return
        start = int(offsets[index])
        found = values(slice(start, int(offsets[index + 1])))
        token = int(find(found))
        extremes.note(name, float(found[token]), self.batch.place(start + token))

    def _between_columns(self) -> int:
        """Find the extremes of one column against another; count kl above log(1 + chi2)."""
        from trbounds.traces.numba_kernels import excess_pass, quotient_pass, root_pass

        batch = self.batch
        kl, tv, chi2 = batch.kl, batch.tv, batch.chi2
        found, above = {}, 0
        if tv is not None and kl is not None:
            found["pinsker_excess"] = root_pass(tv, kl, 0.5)
        if tv is not None and chi2 is not None:
            found["tv_chi2_excess"] = root_pass(tv, chi2, 0.25)
        if kl is not None and chi2 is not None:
            *found["kl_log_chi2_excess"], above = excess_pass(kl, chi2)
            tiny = float(np.finfo(np.float64).tiny)
            found["chi2_over_kl"] = quotient_pass(chi2, kl, tiny)
        for name, (token, value) in found.items():
            self.parts.extremes.note(name, float(value), batch.place(int(token)))
        return int(above)

    def _path(self) -> None:
        from trbounds.traces.numba_kernels import path_pass

        batch, stopped = self.batch, self.parts.stopped
        if batch.chi2 is None:
            return
        residual = np.empty(batch.n_sequences)
        stopped.n_sequences += batch.n_sequences
        path_pass(
            batch.rollout_logprobs,
            batch.train_logprobs,
            batch.chi2,
            batch.offsets,
            LOG_WEIGHT_CAP,
            BUDGETS,
            residual,
            stopped.crossed,
            stopped.sums,
        )
        self.columns["residual_path"] = residual
