"""Reading the tokens again, block by block, beside the rows of a summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.heap import keep_freed_memory
from trbounds.traces.summary import TraceSummary

_BLOCK_TOKENS = 131_072


class Block(NamedTuple):
    """Some whole sequences of a trace.

    ``batch`` is without masked tokens, ``whole`` with them; ``rows`` are the rows of the summary
    that its sequences have.
    """

    batch: TraceBatch
    whole: TraceBatch
    rows: NDArray[np.int64]


def blocks_of(summary: TraceSummary, batches: Iterable[TraceBatch]) -> Iterator[Block]:
    """Cut batches into blocks of about 131,072 tokens and find their sequences in a summary.

    Parameters
    ----------
    summary : TraceSummary
        Of the same trace.
    batches : iterable of TraceBatch
        Every sequence once, in any order.

    Yields
    ------
    Block

    Raises
    ------
    InputError
        If the sequences are not those of the summary.
    """
    keep_freed_memory()
    table = summary.sequences
    ends = np.searchsorted(table["file"], np.arange(len(summary.files) + 1))
    number = {file: index for index, file in enumerate(summary.files)}
    seen = np.zeros(summary.n_sequences, dtype=bool)
    count = 0
    for joined in batches:
        if joined.file not in number:
            raise InputError("found other files than in the summary: the trace changed")
        first, last = ends[number[joined.file]], ends[number[joined.file] + 1]
        for whole in joined.slices(_BLOCK_TOKENS):
            batch = whole.counted().in_float64()
            records = table["record"][first:last]
            # What is beyond the end is compared with the last record, which is another.
            place = np.searchsorted(records, batch.record_numbers)
            rows = first + np.minimum(place, max(records.size - 1, 0))
            if not records.size or not (
                np.array_equal(table["record"][rows], batch.record_numbers)
                and np.array_equal(table["length"][rows], batch.lengths)
            ):
                raise _changed()
            seen[rows] = True
            count += batch.n_sequences
            yield Block(batch, whole, rows)
    if not (seen.all() and count == summary.n_sequences):
        raise _changed()


def _changed() -> InputError:
    return InputError("found other sequences than in the summary: the trace changed")
