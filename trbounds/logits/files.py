"""Logits files: what one holds, checked, and its rows in bounded memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.logits.sources import ArraySource, open_sources

_LOGITS = ("rollout_logits", "train_logits")
_TOP_K = (
    "rollout_topk_ids",
    "rollout_topk_logprobs",
    "train_topk_ids",
    "train_topk_logprobs",
)
_ROW_FIELDS = ("token_ids", "seq_id", "position")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_BATCH_BYTES = 4_000_000  # of one array


class StoredPrecisionWarning(UserWarning):
    """Logits stored in half precision: the divergences include the rounding of the file.

    bfloat16 keeps 8 significant bits, float16 keeps 11. On 151,936 tokens with logits of standard
    deviation 3, storing both policies multiplies a true KL of 4.1e-4 by 1.6 in bfloat16 (1.01 in
    float16), one of 4.7e-5 by 4.0 (1.04), and one of 4.2e-6 by 18 (1.6): the closer the policies,
    the larger the factor, without a limit (measured by ``benchmarks/bench_divergences.py``). Logits
    that an engine computed in bfloat16 lose nothing by being stored so, but those of the other
    engine do. Store float32.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitsBatch:
    """Consecutive rows of a logits file.

    Attributes
    ----------
    first_row : int
        Zero-based number of the first row in the file.
    rollout_logits, train_logits : ndarray, shape (rows, V)
        As stored.
    """

    first_row: int
    rollout_logits: NDArray[Any]
    train_logits: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TopKBatch:
    """Consecutive rows of a top-k log.

    Attributes
    ----------
    first_row : int
        Zero-based number of the first row in the file.
    rollout_topk_ids, train_topk_ids : ndarray of int, shape (rows, k)
        Token ids, each at most once in a row; -1 fills rows with fewer than k tokens.
    rollout_topk_logprobs, train_topk_logprobs : ndarray, shape (rows, k)
        Natural logarithms of their probabilities.
    """

    first_row: int
    rollout_topk_ids: NDArray[Any]
    rollout_topk_logprobs: NDArray[Any]
    train_topk_ids: NDArray[Any]
    train_topk_logprobs: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitsFile:
    """A checked logits file; `read_logits` makes it.

    Attributes
    ----------
    path : str
        Where it is.
    n : int
        Number of rows (token positions).
    vocabulary : int or None
        Size of the vocabulary; None for top-k logs, which do not say.
    token_ids : ndarray of int64, shape (n,), or None
        The sampled tokens.
    offsets : ndarray of int64, shape (sequences + 1,), or None
        Sequence i owns the rows offsets[i] to offsets[i + 1].
    seq_id, position : ndarray of int64, shape (n,), or None
        Sequence and zero-based position of each row, where logged.
    """

    path: str
    n: int
    vocabulary: int | None
    token_ids: NDArray[np.int64] | None
    offsets: NDArray[np.int64] | None
    seq_id: NDArray[np.int64] | None
    position: NDArray[np.int64] | None
    _sources: Mapping[str, ArraySource]

    @property
    def is_top_k(self) -> bool:
        """Whether only the top-k log-probabilities were logged."""
        return self.vocabulary is None

    def batches(self, rows: int | None = None) -> Iterator[LogitsBatch]:
        """Yield the logits in order.

        Parameters
        ----------
        rows : int, optional
            Rows in a batch; about 4 MB of each policy by default.

        Raises
        ------
        InputError
            If `rows` is not at least 1, this is a top-k log, or the file turns out to be damaged.
        """
        if self.is_top_k:
            raise InputError("holds top-k log-probabilities, expected full logits", file=self.path)
        for first, arrays in self._blocks(_LOGITS, rows):
            yield LogitsBatch(first_row=first, **arrays)

    def top_k_batches(self, rows: int | None = None) -> Iterator[TopKBatch]:
        """Yield the top-k log-probabilities in order.

        Parameters
        ----------
        rows : int, optional
            Rows in a batch; about 4 MB of each array by default.

        Raises
        ------
        InputError
            If `rows` is not at least 1, or this file holds full logits or turns out to be damaged.
        """
        if not self.is_top_k:
            raise InputError("holds full logits, expected top-k log-probabilities", file=self.path)
        for first, arrays in self._blocks(_TOP_K, rows):
            yield TopKBatch(first_row=first, **arrays)

    def _blocks(
        self, fields: tuple[str, ...], rows: int | None
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        if rows is not None and not (isinstance(rows, Integral) and rows >= 1):
            raise InputError(f"found {rows!r}, expected a whole number of at least 1", field="rows")
        sources = [self._sources[field] for field in fields]
        widest = max(s.shape[1] * s.dtype.itemsize for s in sources)
        step = rows or max(1, _BATCH_BYTES // widest)
        first = 0
        for blocks in zip(*(s.blocks(step) for s in sources), strict=True):
            yield first, dict(zip(fields, blocks, strict=True))
            first += blocks[0].shape[0]


def read_logits(path: str | os.PathLike[str]) -> LogitsFile:
    """Open a logits file, check its description, and read everything but the logits.

    Parameters
    ----------
    path : path
        An .npz file (compressed or not), a .safetensors file, or a directory of .npy files (or
        one of the files in it), which are memory-mapped. Either ``rollout_logits`` and
        ``train_logits`` of shape (n, V) in float64, float32, float16 or bfloat16; or, for top-k
        logs, ``rollout_topk_ids``, ``rollout_topk_logprobs``, ``train_topk_ids`` and
        ``train_topk_logprobs`` of shape (n, k). Optionally ``token_ids``, ``seq_id`` and
        ``position`` of shape (n,), and ``offsets``. Other arrays are ignored.

    Returns
    -------
    LogitsFile
        Checked but for the logits themselves, which its batches read.

    Raises
    ------
    InputError
        If the file is missing, truncated or of unknown format; an array is missing; shapes or
        vocabularies differ; a dtype is none of the above (float8, say); a token id is outside
        the vocabulary; or offsets do not cut the rows.
    MissingDependency
        If the file holds bfloat16 and ml_dtypes is not installed.

    Warns
    -----
    StoredPrecisionWarning
        If the logits are stored in float16 or bfloat16.

    Notes
    -----
    bfloat16 in .npy and .npz files is what numpy writes for it, two plain bytes per number.

    Examples
    --------
    >>> from trbounds.logits import example_logits_path, read_logits
    >>> file = read_logits(example_logits_path())
    >>> file.n, file.vocabulary
    (100, 257)
    """
    name = os.fspath(path)
    if Path(name).suffix == ".npy" and Path(name).exists():
        name = str(Path(name).parent)
    sources = open_sources(name, (*_LOGITS, *_TOP_K, *_ROW_FIELDS, "offsets"))
    top_k = any(field in sources for field in _TOP_K)
    fields = _TOP_K if top_k else _LOGITS
    for field in fields:
        if field not in sources:
            held = ", ".join(sources) or "no array of logits"
            raise InputError(f"missing; the file holds {held}", file=name, field=field)
    n, width = _check_matrix(sources[fields[0]], name, fields[0])
    if top_k:
        _check_top_k(sources, name, n)
    else:
        _check_logits(sources, name, (n, width))
    vocabulary = None if top_k else width
    rows = {f: _row_field(sources[f], name, f, n) for f in _ROW_FIELDS if f in sources}
    if "token_ids" in rows:
        _check_range(rows["token_ids"], name, "token_ids", vocabulary)
    offsets = _offsets(sources["offsets"], name, n) if "offsets" in sources else None
    return LogitsFile(
        path=name,
        n=n,
        vocabulary=vocabulary,
        offsets=offsets,
        **{f: rows.get(f) for f in _ROW_FIELDS},
        _sources={f: sources[f] for f in fields},
    )


def _check_matrix(source: ArraySource, file: str, field: str) -> tuple[int, int]:
    if len(source.shape) != 2 or source.shape[1] == 0:
        raise InputError(f"found shape {source.shape}, expected (n, width)", file=file, field=field)
    return source.shape[0], source.shape[1]


def _check_float(source: ArraySource, file: str, field: str) -> None:
    if source.dtype.name not in _FLOATS:
        raise InputError(
            f"found dtype {source.dtype.name}, expected one of {', '.join(_FLOATS)}",
            file=file,
            field=field,
        )


def _check_logits(sources: Mapping[str, ArraySource], file: str, shape: tuple[int, int]) -> None:
    for field in _LOGITS:
        _check_float(sources[field], file, field)
    if sources["train_logits"].shape != shape:
        raise InputError(
            f"found shape {sources['train_logits'].shape}, expected {shape} as in 'rollout_logits'",
            file=file,
            field="train_logits",
        )
    stored = {sources[field].dtype.name for field in _LOGITS}
    if half := sorted(stored & {"float16", "bfloat16"}):
        warnings.warn(
            f"{file} stores logits in {' and '.join(half)}: their rounding is part of every "
            "divergence measured from them and can multiply a small KL several times",
            StoredPrecisionWarning,
            stacklevel=3,
        )


def _check_top_k(sources: Mapping[str, ArraySource], file: str, n: int) -> None:
    for policy in ("rollout", "train"):
        ids, logprobs = f"{policy}_topk_ids", f"{policy}_topk_logprobs"
        shape = _check_matrix(sources[ids], file, ids)
        if shape[0] != n:
            raise InputError(
                f"found {shape[0]} rows, expected {n} as in '{_TOP_K[0]}'", file=file, field=ids
            )
        if sources[ids].dtype.kind not in "iu":
            raise InputError(
                f"found dtype {sources[ids].dtype.name}, expected integers", file=file, field=ids
            )
        _check_float(sources[logprobs], file, logprobs)
        if sources[logprobs].shape != shape:
            raise InputError(
                f"found shape {sources[logprobs].shape}, expected {shape} as in '{ids}'",
                file=file,
                field=logprobs,
            )


def _integers(source: ArraySource, file: str, field: str) -> NDArray[np.int64]:
    if len(source.shape) != 1 or source.dtype.kind not in "iu":
        raise InputError(
            f"found shape {source.shape} of {source.dtype.name}, expected one axis of integers",
            file=file,
            field=field,
        )
    blocks = list(source.blocks(1_000_000))
    return np.concatenate(blocks).astype(np.int64) if blocks else np.empty(0, dtype=np.int64)


def _row_field(source: ArraySource, file: str, field: str, n: int) -> NDArray[np.int64]:
    if source.shape != (n,):
        raise InputError(
            f"found shape {source.shape}, expected ({n},): one entry per row",
            file=file,
            field=field,
        )
    return _integers(source, file, field)


def _check_range(ids: NDArray[np.int64], file: str, field: str, vocabulary: int | None) -> None:
    bad = ids < 0 if vocabulary is None else (ids < 0) | (ids >= vocabulary)
    if bad.any():
        row = int(bad.argmax())
        limit = "" if vocabulary is None else f" and below the vocabulary, {vocabulary}"
        raise InputError(
            f"found token id {ids[row]}, expected at least 0{limit}",
            file=file,
            record=row,
            field=field,
        )


def _offsets(source: ArraySource, file: str, n: int) -> NDArray[np.int64]:
    if len(source.shape) != 1 or not 1 <= source.shape[0] <= 2 * n + 1_000:
        raise InputError(
            f"found shape {source.shape}, expected (sequences + 1,)", file=file, field="offsets"
        )
    offsets = _integers(source, file, "offsets")
    if offsets[0] != 0 or offsets[-1] != n:
        raise InputError(
            f"found {offsets[0]} to {offsets[-1]}, expected 0 to {n}, the number of rows",
            file=file,
            field="offsets",
        )
    falling = np.diff(offsets) < 0
    if falling.any():
        where = int(falling.argmax())
        raise InputError(
            f"found {offsets[where + 1]} after {offsets[where]}, expected no decrease",
            file=file,
            record=where + 1,
            field="offsets",
        )
    return offsets
