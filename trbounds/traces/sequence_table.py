"""One row per sequence: what every estimate, rule and standard error starts from."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.token_terms import TokenTerms

COLUMNS: dict[str, Any] = {
    "file": np.int32,
    "record": np.uint32,
    "length": np.int32,
    "step": np.int32,
    "group": np.int64,
    "reward": np.float64,
    "log_weight": np.float64,
    "ratio_sum": np.float64,
    "abs_ratio_sum": np.float64,
    "square_sum": np.float64,
    "k3_sum": np.float64,
    "kl_sum": np.float64,
    "tv_sum": np.float64,
    "chi2_sum": np.float64,
    "residual_path": np.float64,
    "rollout_logprob_sum": np.float64,
    "entropy_sum": np.float32,
    "kl_max": np.float32,
    "k2_max": np.float32,
    "finished": np.int8,
}
"""Columns and their types: 125 bytes a sequence.

========================= =====================================================================
column                    meaning
========================= =====================================================================
``file``, ``record``      index into the summary's ``files``; zero-based record in that file
``length``                tokens that count
``step``                  training step, -1 if not logged
``group``                 prompt (or else group) identifier; ``NO_GROUP`` if not logged
``reward``                NaN if not logged
``log_weight``            log W, the sum of log rho
``ratio_sum``             M, the sum of rho - 1
``abs_ratio_sum``         sum of abs(rho - 1)
``square_sum``            sum of (rho - 1)^2
``k3_sum``                sum of rho - 1 - log rho
``kl_sum``, ``tv_sum``,   sums of the logged divergences, NaN if not logged
``chi2_sum``
``residual_path``         sum of (W_{t-1} - 1)^2 chi2(c_t): its mean is Q without bias; NaN
                          without chi2; W saturates at e^100
``rollout_logprob_sum``   sum of log mu
``entropy_sum``           sum of the rollout entropy (float32), NaN if not logged
``kl_max``, ``k2_max``    largest kl, largest (log rho)^2 / 2 (float32); kl_max NaN if not logged
``finished``              1, 0, or -1 if not logged
========================= =====================================================================
"""

NO_GROUP = int(np.iinfo(np.int64).min)
"""``group`` of a sequence that names no prompt: it is a group of its own."""


_LOOSE = 16
"""Chunks that are joined at a time: joining takes as long as reading a small batch."""


class SequenceTable:
    """A table of sequences as a set of columns, appended to in chunks.

    ``table[name]`` is a column of :data:`COLUMNS`. Rows are in order of (file, record) after
    :meth:`sort`.
    """

    def __init__(self, chunks: list[dict[str, NDArray[Any]]] | None = None) -> None:
        self._chunks = [] if chunks is None else chunks
        self._loose = 0  # how many of the last chunks have not been joined yet

    def __len__(self) -> int:
        return sum(chunk["file"].size for chunk in self._chunks)

    def __getitem__(self, name: str) -> NDArray[Any]:
        self._join()
        return self._chunks[0][name]

    @classmethod
    def of(cls, terms: TokenTerms) -> SequenceTable:
        """Make the rows of a block; ``file`` is 0."""
        batch = terms.batch
        columns = {
            "log_weight": terms.log_weight,
            "ratio_sum": terms.sum_by_sequence(terms.ratio),
            "abs_ratio_sum": terms.sum_by_sequence(terms.abs_ratio),
            "square_sum": terms.sum_by_sequence(terms.square),
            "k3_sum": terms.sum_by_sequence(terms.k3),
            "rollout_logprob_sum": terms.rollout_sum,
            "k2_max": 0.5 * terms.max_by_sequence(terms.abs_log_ratio) ** 2,
        }
        for name in ("kl", "tv", "chi2", "entropy"):
            values = getattr(batch, name)
            if values is not None:
                columns[f"{name}_sum"] = terms.sum_by_sequence(values)
        if batch.kl is not None:
            columns["kl_max"] = terms.max_by_sequence(batch.kl)
        if batch.chi2 is not None and terms.log_weight_before is not None:
            path = np.expm1(terms.log_weight_before)
            path *= path
            path *= batch.chi2
            columns["residual_path"] = terms.sum_by_sequence(path)
        return cls.from_statistics(batch, columns)

    @classmethod
    def from_statistics(
        cls, batch: TraceBatch, statistics: dict[str, NDArray[Any]]
    ) -> SequenceTable:
        """Make rows of what was computed from the tokens, and what the batch says besides.

        Parameters
        ----------
        batch : TraceBatch
            Without a mask, and as :func:`check_numbers` wants it.
        statistics : dict of str to ndarray
            Columns from ``log_weight`` to ``k2_max``; those that are absent become NaN.
        """
        n = batch.n_sequences
        columns: dict[str, Any] = {
            "file": np.zeros(n),
            "record": batch.record_numbers,
            "length": batch.lengths,
            "step": np.full(n, -1) if batch.step is None else batch.step,
            "group": group_numbers(batch),
            "reward": np.full(n, np.nan) if batch.reward is None else batch.reward,
            "finished": np.full(n, -1) if batch.finished is None else batch.finished,
            **statistics,
        }
        nothing = np.full(n, np.nan)
        return cls([{name: columns.get(name, nothing).astype(COLUMNS[name]) for name in COLUMNS}])

    def absorb(self, other: SequenceTable, file_index: NDArray[np.int32]) -> None:
        """Append the rows of another, its file ``i`` becoming ``file_index[i]``."""
        for chunk in other._chunks:
            self._chunks.append({**chunk, "file": file_index[chunk["file"]]})
        self._loose += len(other._chunks)
        if self._loose < _LOOSE:
            return
        self._chunks[-self._loose :] = [_concatenate(self._chunks[-self._loose :])]
        self._loose = 0
        # Joining equals with equals copies each row a logarithmic number of times.
        while len(self._chunks) > 1 and self._size(-1) * 2 >= self._size(-2):
            self._chunks[-2:] = [_concatenate(self._chunks[-2:])]

    def sort(self, rank: NDArray[np.int32]) -> None:
        """Number files by ``rank`` and order the rows by (file, record)."""
        self._join()
        columns = self._chunks[0]
        columns["file"] = rank[columns["file"]]
        order = np.lexsort((columns["record"], columns["file"]))
        if np.any(order[1:] < order[:-1]):
            for name in COLUMNS:
                columns[name] = columns[name][order]

    def duplicate(self) -> int | None:
        """Row of the first sequence that is in the sorted table twice, if any."""
        same = (np.diff(self["file"]) == 0) & (self["record"][1:] == self["record"][:-1])
        found = np.flatnonzero(same)
        return int(found[0]) if found.size else None

    def _size(self, index: int) -> int:
        return int(self._chunks[index]["file"].size)

    def _join(self) -> None:
        if len(self._chunks) != 1:
            self._chunks = [_concatenate(self._chunks)]
        self._loose = 0


def _concatenate(chunks: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    # Column by column, emptying the chunks, so that the peak is one column above the table.
    return {
        name: np.concatenate([np.empty(0, kind), *(chunk.pop(name) for chunk in chunks)])
        for name, kind in COLUMNS.items()
    }


def group_numbers(batch: TraceBatch) -> NDArray[np.int64]:
    """Return the column ``group`` of a batch."""
    labels = batch.group_id if batch.prompt_id is None else batch.prompt_id
    if labels is None:
        return np.full(batch.n_sequences, NO_GROUP)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    numbers = {label: _group_number(str(label)) for label in set(labels.tolist())}
    return np.array([numbers[label] for label in labels.tolist()], dtype=np.int64)


def _group_number(label: str) -> int:
    # A whole number is itself: a file may say 7 on one line and "7" on another.
    if len(label) <= 20 and label.isascii() and label.removeprefix("-").isdigit():
        number = int(label)
        if str(number) == label and NO_GROUP < number <= -(NO_GROUP + 1):
            return number
    # The same number in every process, without a dictionary to carry along; two among a million
    # prompts share one with probability 3e-8.
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "big") >> 1


def check_numbers(batch: TraceBatch) -> None:
    """Check that the numbers of records and steps fit into the table.

    Parameters
    ----------
    batch : TraceBatch
        What rows will be made of.

    Raises
    ------
    InputError
        At the first that does not.
    """
    for name, values in (("record", batch.record_numbers), ("step", batch.step)):
        if values is None:
            continue
        limit = np.iinfo(COLUMNS[name])
        bad = np.flatnonzero((values < limit.min) | (values > limit.max))
        if bad.size:
            raise InputError(
                f"found {values[bad[0]]}, expected at most {limit.max}",
                file=batch.file,
                record=int(batch.record_numbers[bad[0]]),
                field=name,
            )
