"""Record both log-probabilities from inside a training loop, for frameworks that log neither.

Three lines in the loop write canonical Parquet shards that every command of trbounds reads. No
framework is imported; tensors of any array library on any device are accepted.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import threading
import time
import warnings
from collections.abc import Sequence
from operator import index
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace, to_numpy
from trbounds.checks import as_number
from trbounds.errors import InputError
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch, offsets_of
from trbounds.traces.columns import BOOLEANS, IDENTIFIERS, INTEGERS, TRUTH_VALUES

__all__ = ["Recorder"]

_LONGEST_IDENTIFIER = 128
_TEXTS = (*IDENTIFIERS, "logprobs_mode")
_ONE_KIND = (*BOOLEANS, *INTEGERS)


class Recorder:
    """Collects sequences and writes them as canonical Parquet shards.

    A shard is complete or absent: it is written under a temporary name and renamed. What is
    buffered is written when it holds enough tokens or is old enough (looked at when something is
    recorded), on :meth:`close`, at the end of a ``with`` block, and when the interpreter exits,
    after an exception or Ctrl-C too. A killed process loses what it had buffered and nothing else;
    SIGTERM kills unless it has a handler.

    Parameters
    ----------
    directory : path
        Where shards go; made if absent. Processes may share it: names hold the rank and a random
        part.
    shard_tokens : int
        Tokens in a shard, about. The buffer takes some 10 to 20 bytes a token.
    shard_seconds : float
        Age of the oldest buffered sequence, in seconds, from which the buffer is written.
    rank : int, optional
        Number of this process, for the names; the environment variable ``RANK`` by default, or 0.

    Raises
    ------
    InputError
        If a setting is not admissible or the directory cannot be made.
    MissingDependency
        If pyarrow is absent.

    Examples
    --------
    >>> import tempfile
    >>> from trbounds.traces import summarize
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with Recorder(directory) as recorder:
    ...         recorder.record(
    ...             rollout_logprobs=[[-0.5, -1.0], [-0.2]],
    ...             train_logprobs=[[-0.6, -0.9], [-0.2]],
    ...             reward=[1.0, 0.0],
    ...         )
    ...     summarize(directory).n_tokens
    3
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        shard_tokens: int = 2_000_000,
        shard_seconds: float = 300.0,
        rank: int | None = None,
    ) -> None:
        from trbounds.traces.arrow import import_pyarrow

        import_pyarrow("Recording traces")
        for name, value in (("shard_tokens", shard_tokens), ("shard_seconds", shard_seconds)):
            if not as_number(name, value) > 0:
                raise InputError(f"found {value}, expected more than 0", field=name)
        self._directory = os.fspath(directory)
        try:
            os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made: {error.strerror}", file=self._directory) from None
        self._shard_tokens = shard_tokens
        self._shard_seconds = shard_seconds
        self._rank = _checked_rank(os.environ.get("RANK", 0) if rank is None else rank)
        self._start_over()
        atexit.register(self.close)

    def record(
        self, *, rollout_logprobs: Any, train_logprobs: Any, mask: Any = None, **fields: Any
    ) -> None:
        """Add sequences to the buffer.

        Parameters
        ----------
        rollout_logprobs, train_logprobs : array, shape (n, width), or sequence of n 1-D arrays
            Log-probability of the sampled token under the rollout and the training policy, in
            nats. Padded on the right, or one array per sequence.
        mask : array of the same shape, optional
            True (or 1) where a token counts. Needed where arrays are padded. Rows are cut after
            their last such token.
        **fields
            Other canonical fields (see :class:`trbounds.traces.TraceBatch`): token fields of the
            same shape, or with one value per sequence; sequence fields (``reward``,
            ``prompt_id``, ``step``, ...) with one value per sequence or one for all. Identifiers
            are whole numbers or text; text of more than 128 characters is replaced by a digest.
            A field of value None is left out; None in the place of one number is recorded as
            NaN.

        Raises
        ------
        InputError
            If a field is unknown, of another shape, or not of numbers. Values are not looked at
            here: what reads the shards does that.
        """
        rows = _Rows(rollout_logprobs)
        if mask is not None:
            rows.cut(mask)
        given = {
            "rollout_logprobs": rollout_logprobs,
            "train_logprobs": train_logprobs,
            "mask": mask,
            **fields,
        }
        columns: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name in TOKEN_FIELDS:
                columns[name] = rows.tokens(name, value)
            elif name in SEQUENCE_FIELDS:
                columns[name] = rows.sequences(name, value)
            else:
                known = ", ".join((*TOKEN_FIELDS, *SEQUENCE_FIELDS))
                raise InputError(f"unknown, expected one of {known}", field=name)
        if mask is not None:
            columns["mask"] = columns["mask"].astype(bool)
        batch = TraceBatch(offsets=rows.offsets, **columns)
        if batch.n_sequences:
            self._add(batch)

    def flush(self) -> str | None:
        """Write what is buffered.

        Returns
        -------
        str or None
            Path of the shard; None if nothing was buffered or it could not be written. A full
            disk does not end a training run: the sequences are dropped with a warning.
        """
        self._forget_if_forked()
        with self._lock:
            if not self._buffer:
                return None
            from trbounds.traces.writing import write_parquet

            name = f"trace-rank{self._rank:05d}-{self._token}-{self._written:06d}.parquet"
            path = os.path.join(self._directory, name)
            try:
                write_parquet([_join(self._buffer)], path)
                shard: str | None = path
            except InputError as error:
                text = f"{self._tokens} tokens are lost: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                shard = None
            # Not before: after an interrupt the same shard is written again.
            self._empty(self._written + 1)
            return shard

    def close(self) -> None:
        """Write what is buffered; the recorder can be used again."""
        self.flush()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Recorder({self._directory!r}, {self._tokens} tokens to be written)"

    def _add(self, batch: TraceBatch) -> None:
        self._forget_if_forked()
        with self._lock:
            if self._buffer and _fields(self._buffer[0]) != _fields(batch):
                self.flush()
            if not self._buffer:
                self._oldest = time.monotonic()
            self._buffer.append(batch)
            self._tokens += batch.n_tokens
            age = time.monotonic() - self._oldest
            if self._tokens >= self._shard_tokens or age >= self._shard_seconds:
                self.flush()

    def _forget_if_forked(self) -> None:
        # The buffer of a forked process is a copy: its parent writes it. The lock may be held by
        # a thread that is not there.
        if self._process != os.getpid():
            self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._token = secrets.token_hex(4)
        self._empty(0)

    def _empty(self, written: int) -> None:
        self._written = written
        self._buffer: list[TraceBatch] = []
        self._tokens = 0
        self._oldest = time.monotonic()


def _checked_rank(rank: int | str) -> int:
    """Return the rank now: a shard whose name cannot be made is lost when it is written."""
    try:
        found = int(rank) if isinstance(rank, str) else index(rank)
    except (TypeError, ValueError):
        found = -1
    if found < 0:
        raise InputError(f"found {rank!r}, expected a whole number of at least 0", field="rank")
    return found


class _Rows:
    """The sequences of one call: flattens arrays by their lengths."""

    def __init__(self, like: Any) -> None:
        try:
            rows = _host(like) if _is_array(like) else [_host(row) for row in like]
        except InputError as error:
            raise InputError(error.problem, field="rollout_logprobs") from None
        except (TypeError, ValueError):
            expected = "expected an array of two dimensions, or a list of arrays of numbers"
            raise InputError(expected, field="rollout_logprobs") from None
        self.width: int | None = None
        if isinstance(rows, np.ndarray):
            if rows.ndim != 2:
                raise InputError(
                    f"found shape {rows.shape}, expected two dimensions, or a list of arrays",
                    field="rollout_logprobs",
                )
            self.width = rows.shape[1]
        elif any(row.ndim != 1 for row in rows):
            raise InputError("expected one-dimensional arrays", field="rollout_logprobs")
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        self._kept_lengths = self.lengths
        self._kept: NDArray[np.bool_] | None = None

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each sequence starts in what :meth:`tokens` returns."""
        return offsets_of(self._kept_lengths)

    def cut(self, mask: Any) -> None:
        """Leave out what follows the last token of a sequence that counts."""
        values = self.tokens("mask", mask)
        if bool(((values != 0) & (values != 1)).any()):
            raise InputError("expected true and false, or 1 and 0", field="mask")
        counted = values.astype(bool)
        owner = np.repeat(np.arange(self.lengths.size), self.lengths)
        position = np.arange(owner.size) - self.offsets[owner]
        ends = np.zeros_like(self.lengths)
        np.maximum.at(ends, owner[counted], position[counted] + 1)
        self._kept, self._kept_lengths = position < ends[owner], ends

    def tokens(self, name: str, value: Any) -> NDArray[Any]:
        """Flatten a token field; one value per sequence is repeated."""
        flat = _numbers(name, self._flat(name, value))
        return flat if self._kept is None else flat[self._kept]

    def _flat(self, name: str, value: Any) -> NDArray[Any]:
        rows = _host(value) if _is_array(value) else value
        if isinstance(rows, np.ndarray):
            if rows.ndim == 2:
                if rows.shape != (self.lengths.size, self.width):
                    expected = f"({self.lengths.size}, {self.width})"
                    raise InputError(f"found shape {rows.shape}, expected {expected}", field=name)
                return rows.ravel()
        elif isinstance(rows, Sequence) and any(np.ndim(_host(row)) for row in rows):
            arrays = [_host(row) for row in rows]
            found = [row.size if row.ndim == 1 else -1 for row in arrays]
            if found != self.lengths.tolist():
                raise InputError(
                    f"found lengths {_few(found)}, expected {_few(self.lengths.tolist())} as in "
                    "rollout_logprobs",
                    field=name,
                )
            return np.concatenate(arrays)
        return np.repeat(self.sequences(name, rows), self.lengths)

    def sequences(self, name: str, value: Any) -> NDArray[Any]:
        """Return one value per sequence."""
        values = _identifiers(value) if name in _TEXTS else _numbers(name, _host(value))
        n = self.lengths.size
        if values.ndim == 0:
            values = np.full(n, values)
        if values.shape != (n,):
            raise InputError(f"found shape {values.shape}, expected ({n},)", field=name)
        return values


def _numbers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers, NaN for None; refuse what is not a number now, not when it is written."""
    try:
        found = values.astype(np.float64) if values.dtype.kind == "O" else values
    except (TypeError, ValueError):
        found = values
    if found.dtype.kind not in ("biuf" if name in TRUTH_VALUES else "iuf"):
        raise InputError(f"found entries of type {found.dtype}, expected numbers", field=name)
    return found


def _identifiers(value: Any) -> NDArray[Any]:
    """Return integers of 64 bits, or text of everything else."""
    values = _host(value)
    if values.dtype.kind == "i":
        return values
    if not _is_array(value):  # numpy makes floats of large integers
        values = np.asarray(value, dtype=object)
    texts = [_short(str(entry)) for entry in values.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(values.shape)


def _short(text: str) -> str:
    """Replace a long identifier, such as a whole prompt, by its digest."""
    if len(text) <= _LONGEST_IDENTIFIER:
        return text.encode("utf-8", "backslashreplace").decode()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or hasattr(value, "__dlpack__")


def _host(value: Any) -> NDArray[Any]:
    """Copy to a numpy array; floats narrower than float32 are widened, which is exact."""
    if not _is_array(value) or isinstance(value, np.ndarray | np.generic):
        values = to_numpy(value)
        return values.astype(np.float32) if values.dtype == np.float16 else values
    xp = array_namespace(value)
    if xp.isdtype(value.dtype, "real floating") and value.dtype not in (xp.float32, xp.float64):
        value = xp.astype(value, xp.float32)
    return to_numpy(value)


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:4]))
    return f"[{shown}, ...]" if len(numbers) > 4 else f"[{shown}]"


def _fields(batch: TraceBatch) -> dict[str, Any]:
    """Return the columns, and which are text: a shard has one schema.

    And of what type those are that take one only: a wrong one would spoil what is right.
    """
    names = (*TOKEN_FIELDS, *SEQUENCE_FIELDS)
    found = {name: getattr(batch, name) for name in names}
    return {
        name: values.dtype.kind if name in _ONE_KIND else values.dtype == object
        for name, values in found.items()
        if values is not None
    }


def _join(batches: Sequence[TraceBatch]) -> TraceBatch:
    lengths = np.concatenate([batch.lengths for batch in batches])
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in _fields(batches[0])
    }
    return TraceBatch(offsets=offsets_of(lengths), **columns)
