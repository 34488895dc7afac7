"""Rules on tokens: which tokens of each sequence they keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.masking.rules import Rule
from trbounds.masking.statistics import (
    TOKEN_STATISTICS,
    check_logged,
    compute_statistics,
)
from trbounds.masking.terms import TERMS
from trbounds.masking.token_pass import Block, blocks_of
from trbounds.traces.batch import TraceBatch
from trbounds.traces.summary import TraceSummary

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What a rule keeps of every sequence, in the order of the summary.

    Parameters
    ----------
    accept : ndarray of bool
        Whether no token is masked.
    count : ndarray of int64
        Tokens kept.
    ratio_sum : ndarray of float64
        Sum of ``rho - 1`` over them.
    """

    accept: Flags
    count: NDArray[np.int64]
    ratio_sum: NDArray[np.float64]

    @classmethod
    def whole(cls, summary: TraceSummary, accept: Flags) -> KeptTokens:
        """Keep all tokens of accepted sequences and none of the others."""
        table = summary.sequences
        count = np.where(accept, table["length"], 0).astype(np.int64)
        return cls(accept, count, np.where(accept, table["ratio_sum"], 0.0))


class TokenMasks(NamedTuple):
    """The masks of some sequences: of each rule, one flag for every token that counts."""

    block: Block
    keep: list[Flags]

    def in_record(self, keep: Flags) -> Flags:
        """One flag for every token of the records; false where the log masks it too."""
        mask = self.block.whole.mask
        if mask is None:
            return keep
        out = np.zeros(mask.size, dtype=bool)
        out[mask] = keep
        return out


def token_masks(
    summary: TraceSummary,
    rules: Sequence[Rule],
    batches: Iterable[TraceBatch],
    statistics: Mapping[str, NDArray[Any]] | None = None,
) -> Iterator[TokenMasks]:
    """Apply rules to every token, some sequences at a time.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rules : sequence of Rule
        A token is kept where the rule holds with its own terms and the statistics of its
        sequence.
    batches : iterable of TraceBatch
        The same trace again.
    statistics : mapping of str to ndarray, optional
        What the rules compare of sequences (:func:`compute_statistics`).

    Yields
    ------
    TokenMasks

    Raises
    ------
    InputError
        If the trace lacks what a rule needs, or is not that of the summary.
    """
    names = {name for rule in rules for name in rule.token_statistics}
    for name in names:
        check_logged(name, TOKEN_STATISTICS[name].needs, summary, TOKEN_STATISTICS)
    if statistics is None:
        statistics = compute_statistics(summary, [n for rule in rules for n in rule.statistics])
    whole = {name: statistics[name] for rule in rules for name in rule.statistics}
    for block in blocks_of(summary, batches):
        columns: dict[str, NDArray[Any]] = {
            name: TERMS[TOKEN_STATISTICS[name].term].of(block.batch) for name in names
        }
        for name, values in whole.items():
            columns[name] = np.repeat(values[block.rows], block.batch.lengths)
        yield TokenMasks(block, [rule.accept(columns) for rule in rules])


def keep_tokens(
    summary: TraceSummary,
    rules: Sequence[Rule],
    batches: Iterable[TraceBatch],
    statistics: Mapping[str, NDArray[Any]] | None = None,
) -> dict[Rule, KeptTokens]:
    """Count what rules on tokens keep of every sequence; parameters as for :func:`token_masks`.

    Returns
    -------
    dict of Rule to KeptTokens
        For :func:`trbounds.masking.mask`; 17 bytes a sequence and rule.
    """
    n = summary.n_sequences
    found = {
        rule: KeptTokens(np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64), np.zeros(n))
        for rule in rules
    }
    for masks in token_masks(summary, rules, batches, statistics):
        batch, rows = masks.block.batch, masks.block.rows
        terms = batch.ratio_minus_one
        for rule, keep in zip(rules, masks.keep, strict=True):
            kept = found[rule]
            kept.count[rows] = batch.segment_sum(keep.astype(np.int64))
            kept.accept[rows] = kept.count[rows] == batch.lengths
            kept.ratio_sum[rows] = batch.segment_sum(np.where(keep, terms, 0.0))
    return found
