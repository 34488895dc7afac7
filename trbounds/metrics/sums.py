"""Sums over each sequence, from which every framework's metric is made."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.compiling import on_all_cores, uses_numba
from trbounds.errors import InputError
from trbounds.metrics.importance import Weights
from trbounds.metrics.terms import COLUMNS, Block, Column
from trbounds.traces.batch import TraceBatch
from trbounds.traces.compiled import COMPILED_FROM
from trbounds.traces.heap import keep_freed_memory
from trbounds.traces.sequence_table import check_numbers, group_numbers

__all__ = ["SequenceSums", "sum_sequences"]

Floats = NDArray[np.float64]

# Few enough that what is computed of a block stays in the second-level cache.
_BLOCK_TOKENS = 65_536
_SLICE = 1 << 18
"""Tokens taken at a time: unmasked, or by a thread."""


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
        By names of :data:`trbounds.metrics.terms.COLUMNS`; ``sums[name]`` is one of them.
    """

    length: NDArray[np.int64]
    step: NDArray[np.int64]
    group: NDArray[np.int64]
    kept: NDArray[np.bool_]
    columns: Mapping[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    @functools.cached_property
    def n_tokens(self) -> int:
        """Number of tokens that count."""
        return int(self.length.sum())

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return self.length.size

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64] | slice) -> SequenceSums:
        """Keep the sequences where `keep` is true, or those of which it has the numbers."""
        return SequenceSums(
            length=self.length[keep],
            step=self.step[keep],
            group=self.group[keep],
            kept=self.kept[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
        )

    def by_step(self) -> Iterator[tuple[int, SequenceSums]]:
        """Yield each training step with its sequences."""
        order = np.argsort(self.step, kind="stable")
        ordered = self.select(order)
        steps, starts = np.unique(ordered.step, return_index=True)
        stops = [*starts[1:].tolist(), order.size]
        for step, start, stop in zip(steps.tolist(), starts.tolist(), stops, strict=True):
            yield step, ordered.select(slice(start, stop))

    def token_mean(self, name: str) -> float:
        """Mean over all tokens of what a column sums."""
        return float(self[name].sum()) / self.n_tokens

    def sequence_mean(self, name: str) -> Floats:
        """Mean over the tokens of each sequence; 0 without a token, as ``0 / 1e-8`` is."""
        return np.asarray(self[name] / np.maximum(self.length, 1), dtype=np.float64)


def sum_sequences(
    batches: Iterable[TraceBatch],
    columns: Iterable[str],
    weights: Weights,
    *,
    extra: Mapping[str, Column] | None = None,
    kernel: str = "auto",
) -> SequenceSums:
    """Sum over the tokens of every sequence, in one pass.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace.
    columns : iterable of str
        What to sum: keys of :data:`trbounds.metrics.terms.COLUMNS`.
    weights : Weights
        What the framework makes of log-ratios.
    extra : mapping of str to Column, optional
        Further columns.
    kernel : {"auto", "numpy", "numba"}
        "numba" (the extra ``fast``) compiles most of the pass over the tokens; "auto" takes it
        where it is installed and there is enough to do. The same numbers to 1e-11.

    Returns
    -------
    SequenceSums
        In the order of the batches; 25 bytes a sequence, and 8 for each column.

    Raises
    ------
    InputError
        If no token counts, `kernel` is unknown, or a record or a step has a number that is out of
        range.
    MissingDependency
        If numba is asked for and absent.
    """
    wanted = {name: COLUMNS[name] for name in columns} | dict(extra or {})
    keep_freed_memory()
    parts: list[SequenceSums] = []
    n_tokens = 0
    for batch in batches:
        check_numbers(batch)
        n_tokens += batch.n_tokens
        compiled = uses_numba(kernel, worth=n_tokens >= COMPILED_FROM)
        work = functools.partial(_sum_batch, columns=wanted, weights=weights, compiled=compiled)
        share = on_all_cores if compiled and batch.n_tokens > 2 * _SLICE else map
        parts += share(work, batch.slices(_SLICE))
    if not any(part.n_tokens for part in parts):
        raise InputError("found no token that counts, expected at least one", field="paths")
    return SequenceSums(
        length=np.concatenate([part.length for part in parts]),
        step=np.concatenate([part.step for part in parts]),
        group=np.concatenate([part.group for part in parts]),
        kept=np.concatenate([part.kept for part in parts]),
        columns={name: np.concatenate([part[name] for part in parts]) for name in wanted},
    )


def _sum_batch(
    batch: TraceBatch, columns: Mapping[str, Column], weights: Weights, compiled: bool
) -> SequenceSums:
    batch = batch.counted()
    n = batch.n_sequences
    found = _sum_compiled(batch, columns, weights) if compiled else {}
    found |= _sum_blocks(
        batch, {name: columns[name] for name in columns if name not in found}, weights
    )
    return SequenceSums(
        length=batch.lengths,
        step=np.full(n, -1) if batch.step is None else batch.step.astype(np.int64),
        group=group_numbers(batch),
        kept=np.ones(n, bool) if batch.accepted is None else batch.accepted,
        columns=found,
    )


def _sum_compiled(
    batch: TraceBatch, columns: Mapping[str, Column], weights: Weights
) -> dict[str, Floats]:
    from trbounds.metrics.numba_terms import COMPILED, sum_columns

    chosen = {
        name: column
        for name, column in columns.items()
        if (column.term, column.reduction) in COMPILED
    }
    rows = sum_columns(batch, list(chosen.values()), weights)
    return dict(zip(chosen, rows.T, strict=True))


def _sum_blocks(
    batch: TraceBatch, columns: Mapping[str, Column], weights: Weights
) -> dict[str, Floats]:
    found = {name: np.empty(batch.n_sequences) for name in columns}
    if not columns:
        return found
    # What is beyond float64 is as infinite here as it is in float32 there.
    with np.errstate(over="ignore"):
        for start, stop in batch.cuts(_BLOCK_TOKENS):
            first, last = batch.offsets[start], batch.offsets[stop]
            block = Block(
                batch.rollout_logprobs[first:last].astype(np.float64, copy=False),
                batch.train_logprobs[first:last].astype(np.float64, copy=False),
                batch.offsets[start : stop + 1] - first,
                weights,
            )
            for name, column in columns.items():
                found[name][start:stop] = block.reduce(column)
    return found
