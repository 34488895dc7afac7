"""The ragged batch of logged sequences that every reader yields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKEN_FIELDS = (
    "rollout_logprobs",
    "train_logprobs",
    "kl",
    "tv",
    "chi2",
    "entropy",
    "mask",
    "advantages",
    "weight_version",
)
"""Fields of a batch with one entry per token."""

_FLOATS = ("rollout_logprobs", "train_logprobs", "kl", "tv", "chi2", "entropy")

SEQUENCE_FIELDS = (
    "reward",
    "seq_id",
    "prompt_id",
    "group_id",
    "step",
    "length",
    "finished",
    "accepted",
    "temperature",
    "top_p",
    "top_k",
    "logprobs_mode",
)
"""Fields of a batch with one entry per sequence."""

Floats = NDArray[np.float64]


def offsets_of(lengths: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
    """Return the offsets of segments of these lengths: one more, from 0 to their sum."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def reduce_segments(
    ufunc: np.ufunc, values: NDArray[Any], offsets: NDArray[np.int64], *, empty: float = 0.0
) -> NDArray[Any]:
    """Reduce each segment of a flat array; right for empty segments too.

    Parameters
    ----------
    ufunc : numpy.ufunc
        ``numpy.add``, ``numpy.maximum`` or another binary ufunc.
    values : ndarray, shape (m,)
        The flat values.
    offsets : ndarray of int64, shape (n + 1,)
        Segment ``i`` is ``values[offsets[i]:offsets[i + 1]]``; ``offsets[n] == m``.
    empty : float
        The result for a segment without entries (``numpy.ufunc.reduceat`` alone would return
        an entry of the next segment there).

    Returns
    -------
    ndarray, shape (n,)
        Of the type that the ufunc gives; float64 where it gives no floats and a segment is empty.
    """
    starts = offsets[:-1]
    filled = offsets[1:] > starts
    if filled.all() and starts.size:
        return np.asarray(ufunc.reduceat(values, starts))
    out = np.full(starts.size, empty, dtype=values.dtype if values.dtype.kind == "f" else None)
    if filled.any():
        out[filled] = ufunc.reduceat(values, starts[filled])
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceBatch:
    """Logged sequences, ragged: flat token arrays, and offsets that cut them.

    Sequence ``i`` owns the tokens ``offsets[i]:offsets[i + 1]`` of every flat array. All
    logarithms are natural (nats). A sequence without tokens is allowed: its ratio product is 1
    and its sums are 0. The constructor does not look at values:
    :func:`trbounds.traces.validate.validate` does, and every reader calls it.

    Parameters
    ----------
    offsets : ndarray of int64, shape (n + 1,)
        Where each sequence starts; the last entry is the number of tokens.
    rollout_logprobs, train_logprobs : ndarray of float64, shape (tokens,)
        Log-probability of the sampled token under the rollout and the training policy, <= 0.
    kl, tv, chi2 : ndarray of float64, shape (tokens,), optional
        KL(rollout‖train) in nats, total variation in [0, 1], chi2(train‖rollout), each of the
        two next-token distributions at that token's context.
    entropy : ndarray of float64, shape (tokens,), optional
        Entropy of the rollout policy at that context, in nats.
    mask : ndarray of bool, shape (tokens,), optional
        True where a token counts. A masked token is left out: its ratio is 1, its divergences
        are 0, and its values are not validated (frameworks log fillers there).
    advantages : ndarray of float64, shape (tokens,), optional
        Advantages as the framework logged them.
    weight_version : ndarray of int64, shape (tokens,), optional
        Version of the rollout weights that sampled the token.
    reward : ndarray of float64, shape (n,), optional
        Reward of the whole sequence.
    seq_id, prompt_id, group_id : ndarray of int64 or str, shape (n,), optional
        Identifiers as logged.
    step : ndarray of int64, shape (n,), optional
        Training step.
    length : ndarray of int64, shape (n,), optional
        Length of the response as logged, held against the tokens that are there
        (:func:`trbounds.traces.findings.findings`); what they are is :attr:`lengths`.
    finished : ndarray of bool, shape (n,), optional
        Whether the response ended by itself.
    accepted : ndarray of bool, shape (n,), optional
        Whether the framework kept the sequence for its update. Sequences it rejected belong to
        the sample all the same.
    temperature, top_p : ndarray of float64, shape (n,), optional
        Sampling settings, where logged.
    top_k : ndarray of int64, shape (n,), optional
        Sampling setting, where logged; 0 or negative means no truncation.
    logprobs_mode : ndarray of str, shape (n,), optional
        What the rollout engine says its log-probabilities are.
    file : str
        Where the records came from.
    first_record : int
        Zero-based number in ``file`` of the first sequence.
    records : ndarray of int64, shape (n,), optional
        Record numbers where they are not consecutive (some records were left out).
    positions : ndarray of int64, shape (tokens,), optional
        Zero-based index of each token in its record, where masked tokens were taken out.
    """

    offsets: NDArray[np.int64]
    rollout_logprobs: Floats
    train_logprobs: Floats
    kl: Floats | None = None
    tv: Floats | None = None
    chi2: Floats | None = None
    entropy: Floats | None = None
    mask: NDArray[np.bool_] | None = None
    advantages: Floats | None = None
    weight_version: NDArray[np.int64] | None = None
    reward: Floats | None = None
    seq_id: NDArray[Any] | None = None
    prompt_id: NDArray[Any] | None = None
    group_id: NDArray[Any] | None = None
    step: NDArray[np.int64] | None = None
    length: NDArray[np.int64] | None = None
    finished: NDArray[np.bool_] | None = None
    accepted: NDArray[np.bool_] | None = None
    temperature: Floats | None = None
    top_p: Floats | None = None
    top_k: NDArray[np.int64] | None = None
    logprobs_mode: NDArray[Any] | None = None
    file: str = "<memory>"
    first_record: int = 0
    records: NDArray[np.int64] | None = None
    positions: NDArray[np.int64] | None = None

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return int(self.offsets.size - 1)

    @property
    def n_tokens(self) -> int:
        """Number of tokens, masked ones included."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sequence, masked ones included."""
        return np.diff(self.offsets)

    @property
    def record_numbers(self) -> NDArray[np.int64]:
        """Zero-based number in ``file`` of each sequence."""
        if self.records is not None:
            return self.records
        return self.first_record + np.arange(self.n_sequences, dtype=np.int64)

    @property
    def log_ratio(self) -> Floats:
        """``log rho`` of every token in nats; 0 where masked."""
        out = self.train_logprobs - self.rollout_logprobs
        if self.mask is not None:
            out[~self.mask] = 0.0
        return out

    @property
    def ratio_minus_one(self) -> Floats:
        """``rho - 1`` of every token, without cancellation; 0 where masked."""
        return np.expm1(self.log_ratio)

    def segment_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum a flat token array over each sequence; 0 for a sequence without tokens."""
        return reduce_segments(np.add, values, self.offsets)

    def segment_max(self, values: NDArray[Any], *, empty: float = 0.0) -> NDArray[Any]:
        """Largest entry of a flat token array in each sequence; ``empty`` where it has none."""
        return reduce_segments(np.maximum, values, self.offsets, empty=empty)

    def sequence_of(self, token: int) -> int:
        """Index in this batch of the sequence that owns a token."""
        return int(np.searchsorted(self.offsets, token, side="right")) - 1

    def place(self, token: int) -> tuple[str, int, int]:
        """File, record and position (zero-based in the record's lists) of a token."""
        sequence = self.sequence_of(token)
        position = (
            token - int(self.offsets[sequence])
            if self.positions is None
            else int(self.positions[token])
        )
        return self.file, int(self.record_numbers[sequence]), position

    def select(self, keep: NDArray[np.bool_]) -> TraceBatch:
        """Keep the sequences where ``keep`` (bool, shape (n,)) is true."""
        tokens = np.repeat(keep, self.lengths)
        return replace(
            self,
            offsets=offsets_of(self.lengths[keep]),
            records=self.record_numbers[keep],
            **self._map_tokens(lambda values: values[tokens]),
            **self._map_sequences(lambda values: values[keep]),
        )

    def counted(self) -> TraceBatch:
        """Take the masked tokens out; ``positions`` remembers where the others were.

        Returns
        -------
        TraceBatch
            The same sequences without ``mask``; ``self`` where there is none. A sequence of
            which every token is masked becomes one without tokens.
        """
        if self.mask is None:
            return self
        keep = self.mask
        starts = np.repeat(self.offsets[:-1], self.lengths)
        positions = np.arange(self.n_tokens, dtype=np.int64) - starts
        if self.positions is not None:
            positions = self.positions
        lengths = reduce_segments(np.add, keep.astype(np.int64), self.offsets)
        tokens = self._map_tokens(lambda values: values[keep])
        return replace(
            self,
            offsets=offsets_of(lengths),
            **{**tokens, "mask": None, "positions": positions[keep]},
        )

    def in_float64(self) -> TraceBatch:
        """Convert log-probabilities and divergences to contiguous float64.

        Returns
        -------
        TraceBatch
            ``self`` where they are, as readers give them; arrays of a caller need not be.
        """
        floats = self._map(_FLOATS, lambda values: np.ascontiguousarray(values, dtype=np.float64))
        if all(values is getattr(self, name) for name, values in floats.items()):
            return self
        return replace(self, **floats)

    def slices(self, max_tokens: int) -> Iterator[TraceBatch]:
        """Cut into batches of whole sequences, each of about ``max_tokens`` tokens or fewer.

        A single sequence longer than that is a batch of its own.
        """
        for start, stop in self.cuts(max_tokens):
            yield self._cut(start, stop)

    def cuts(self, max_tokens: int) -> Iterator[tuple[int, int]]:
        """Yield the first sequence of each of the :meth:`slices`, and the one after its last."""
        start = 0
        while start < self.n_sequences:
            limit = self.offsets[start] + max_tokens
            stop = max(start + 1, int(np.searchsorted(self.offsets, limit, side="right")) - 1)
            yield start, stop
            start = stop

    def _cut(self, start: int, stop: int) -> TraceBatch:
        if start == 0 and stop == self.n_sequences:
            return self
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return replace(
            self,
            offsets=self.offsets[start : stop + 1] - first,
            first_record=self.first_record + start,
            records=None if self.records is None else self.records[start:stop],
            **self._map_tokens(lambda values: values[first:last]),
            **self._map_sequences(lambda values: values[start:stop]),
        )

    def _map_tokens(self, function: Any) -> dict[str, Any]:
        return self._map((*TOKEN_FIELDS, "positions"), function)

    def _map_sequences(self, function: Any) -> dict[str, Any]:
        return self._map(SEQUENCE_FIELDS, function)

    def _map(self, names: tuple[str, ...], function: Any) -> dict[str, Any]:
        present = {name: getattr(self, name) for name in names}
        return {name: function(values) for name, values in present.items() if values is not None}

    def __repr__(self) -> str:
        extra = [
            field.name
            for field in fields(self)
            if field.name in (*TOKEN_FIELDS[2:], *SEQUENCE_FIELDS)
            and getattr(self, field.name) is not None
        ]
        return (
            f"TraceBatch({self.n_sequences} sequences, {self.n_tokens} tokens, "
            f"with {', '.join(extra) or 'log-probabilities only'}, file={self.file!r})"
        )
