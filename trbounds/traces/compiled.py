"""The summary of a block by the compiled token pass; the same numbers as the numpy one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency
from trbounds.traces.batch import TraceBatch
from trbounds.traces.extremes import Extreme, Extremes
from trbounds.traces.histogram import BIN_OFFSET, BIN_SHIFT, Histogram
from trbounds.traces.pair_moments import PairMoments
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.stopping import BUDGETS, StoppedSums
from trbounds.traces.token_counts import TokenCounts
from trbounds.traces.token_terms import LOG_WEIGHT_CAP

__all__ = ["COMPILED_FROM", "BlockParts", "uses_numba"]

Floats = NDArray[np.float64]

COMPILED_FROM = 1 << 22
"""Tokens from which loading the compiled pass (about half a second) pays by default."""

_RATIOS = ("ratio", "abs_ratio", "square", "fourth", "k3", "k3_square")


def uses_numba(kernel: str, n_tokens: int) -> bool:
    """Whether to take the compiled pass.

    Parameters
    ----------
    kernel : {"auto", "numpy", "numba"}
        "auto" takes numba where it is installed and there is enough to do.
    n_tokens : int
        Tokens that are known to come.

    Raises
    ------
    InputError
        If the name is unknown.
    MissingDependency
        If numba is asked for and absent.
    """
    if kernel not in ("auto", "numpy", "numba"):
        raise InputError(f"found {kernel!r}, expected 'auto', 'numpy' or 'numba'", field="kernel")
    found = find_spec("numba") is not None
    if kernel == "numba" and not found:
        raise MissingDependency("numba", extra="fast", purpose="kernel='numba'")
    return kernel == "numba" or (kernel == "auto" and found and n_tokens >= COMPILED_FROM)


class BlockParts(NamedTuple):
    """The parts of a summary of one block of tokens."""

    table: SequenceTable
    positions: PositionSums
    stopped: StoppedSums
    extremes: Extremes
    histograms: dict[str, Histogram]
    pairs: PairMoments
    counts: TokenCounts

    @classmethod
    def of(cls, batch: TraceBatch, block: TraceBatch) -> BlockParts:
        """Summarise the tokens that count, ``batch``, of a block. Needs numba."""
        return _Pass(batch, block).run()


class _Pass:
    """What the passes over one block have found so far."""

    def __init__(self, batch: TraceBatch, block: TraceBatch) -> None:
        self.batch, self.block = batch, block
        lengths = batch.lengths
        self.T = int(lengths.max(initial=0))
        self.columns: dict[str, NDArray[Any]] = {}
        alive = lengths.size - np.cumsum(np.bincount(lengths, minlength=1))[:-1]
        self.positions = {"n_sequences": np.array([lengths.size]), "alive": alive}
        self.extremes = Extremes()
        self.histograms: dict[str, Histogram] = {}

    def run(self) -> BlockParts:
        counts = self._ratios()
        for name in ("kl", "tv", "chi2", "entropy"):
            values = getattr(self.batch, name)
            if values is not None:
                self._column(name, np.ascontiguousarray(values))
        above = self._between_columns() if self.batch.n_tokens else 0
        stopped = self._path()
        return BlockParts(
            SequenceTable.from_statistics(self.batch, self.columns),
            PositionSums.from_state(self.positions),
            stopped,
            self.extremes,
            self.histograms,
            self._moments(),
            counts._replace(kl_above_log_chi2=above),
        )

    def _logs(self) -> tuple[Floats, Floats, NDArray[np.int64]]:
        batch = self.batch
        rollout = np.ascontiguousarray(batch.rollout_logprobs)
        return rollout, np.ascontiguousarray(batch.train_logprobs), batch.offsets

    def _ratios(self) -> TokenCounts:
        from trbounds.traces.numba_kernels import ratio_pass

        n = self.batch.n_sequences
        sums, ends = np.zeros((n, 6)), np.empty((n, 3))
        pairs, maxima = np.zeros((len(_RATIOS), 2, self.T)), np.zeros(self.T)
        log_bins, k3_bins = Histogram(), Histogram()
        rollout, train, offsets = self._logs()
        found = ratio_pass(
            rollout,
            train,
            offsets,
            LOG_WEIGHT_CAP,
            sums,
            ends,
            pairs,
            maxima,
            log_bins.counts,
            k3_bins.counts,
            BIN_SHIFT,
            BIN_OFFSET,
        )
        names = ("log_weight", "ratio_sum", "abs_ratio_sum", "square_sum", "k3_sum")
        self.columns.update(zip((*names, "rollout_logprob_sum"), sums.T, strict=True))
        largest = np.maximum(ends[:, 0], 0.0)
        self.columns["k2_max"] = 0.5 * largest * largest
        places = ("sum_ratio", "sum_abs_ratio", "sum_square", "squares_square", "sum_k3")
        self.positions.update(zip((*places, "squares_k3"), pairs, strict=True))
        self.positions["max_abs_log_ratio"] = maxima
        self.histograms.update(abs_log_ratio=log_bins, k3=k3_bins)
        if self.batch.n_tokens:
            self._ratio_extremes(ends, rollout, train)
        return TokenCounts(*found)

    def _ratio_extremes(self, ends: Floats, rollout: Floats, train: Floats) -> None:
        from trbounds.traces.token_terms import k3_of

        for name, column, smallest in (
            ("abs_log_ratio_max", 0, False),
            ("k2_min", 1, True),
            ("k3_min", 2, True),
        ):
            cut = self._sequence_of_extreme(ends[:, column], smallest=smallest)
            x = train[cut] - rollout[cut]
            if name == "k3_min":
                values = k3_of(x, np.expm1(x))
            else:
                values = np.abs(x) if name == "abs_log_ratio_max" else 0.5 * x * x
            self._note(name, values, cut.start, smallest=smallest)

    def _column(self, name: str, values: Floats) -> None:
        from trbounds.traces.numba_kernels import column_pass

        n = self.batch.n_sequences
        sums, ends, pairs = np.zeros(n), np.empty((n, 2)), np.zeros((2, 2, self.T))
        maxima = np.zeros(self.T)
        bins = Histogram()
        offsets = self.batch.offsets
        column_pass(values, offsets, sums, ends, pairs, maxima, bins.counts, BIN_SHIFT, BIN_OFFSET)
        self.columns[f"{name}_sum"] = sums
        if name == "kl":
            self.columns["kl_max"] = np.maximum(ends[:, 1], 0.0)
        if name != "entropy":
            self.positions.update({f"sum_{name}": pairs[0], f"squares_{name}": pairs[1]})
            self.positions[f"max_{name}"] = maxima
        self.histograms[name] = bins
        if self.batch.n_tokens:
            for kind, column in (("max", 1), ("min", 0)):
                cut = self._sequence_of_extreme(ends[:, column], smallest=kind == "min")
                self._note(f"{name}_{kind}", values[cut], cut.start, smallest=kind == "min")

    def _sequence_of_extreme(self, ends: Floats, *, smallest: bool) -> slice:
        """Return the tokens of the first sequence that has the extreme."""
        index = int(np.argmin(ends) if smallest else np.argmax(ends))
        return slice(int(self.batch.offsets[index]), int(self.batch.offsets[index + 1]))

    def _note(self, name: str, values: Floats, start: int, *, smallest: bool = False) -> None:
        token = int(np.argmin(values) if smallest else np.argmax(values))
        place = self.batch.place(start + token)
        self.extremes[name] = Extreme(float(values[token]), *place)

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
            self.extremes[name] = Extreme(float(value), *batch.place(int(token)))
        return int(above)

    def _path(self) -> StoppedSums:
        from trbounds.traces.numba_kernels import path_pass

        chi2 = self.batch.chi2
        if chi2 is None:
            return StoppedSums()
        residual = np.empty(self.batch.n_sequences)
        crossed, sums = np.zeros(BUDGETS.size, dtype=np.int64), np.zeros((4, 2, BUDGETS.size))
        rollout, train, offsets = self._logs()
        path_pass(rollout, train, chi2, offsets, LOG_WEIGHT_CAP, BUDGETS, residual, crossed, sums)
        self.columns["residual_path"] = residual
        names = ("weight", "weight_square", "tail", "tail_square")
        state = dict(zip(names, sums, strict=True))
        n = np.array([self.batch.n_sequences])
        return StoppedSums.from_state({"n_sequences": n, "crossed": crossed, **state})

    def _moments(self) -> PairMoments:
        from trbounds.traces.numba_kernels import moments_pass

        state = PairMoments().state()
        rollout, train, offsets = self._logs()
        moments_pass(rollout, train, offsets, state["pairs"], state["offset"])
        out = PairMoments.from_state(state)
        if self.block.mask is not None:
            out.add_masked(self.block, self.block.mask)
        return out
