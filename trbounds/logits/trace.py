"""From a logits file to a canonical trace with exact divergences."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.compiling import Kernel
from trbounds.errors import InputError
from trbounds.logits.files import LogitsBatch, LogitsFile
from trbounds.logits.kernels import Device, Precision, RowDivergences, row_divergences
from trbounds.traces.arrow import import_pyarrow
from trbounds.traces.validate import RANGES
from trbounds.traces.writing import replacing

_FIELDS = (
    "kl",
    "tv",
    "chi2",
    "entropy",
    "kl_reverse",
    "max_abs_log_ratio",
    "unsupported_mass",
)


def file_divergences(
    file: LogitsFile,
    *,
    precision: Precision = "float64",
    kernel: Kernel = "auto",
    device: Device = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute the exact divergences of every row of a logits file.

    Parameters
    ----------
    file : LogitsFile
        Full logits.
    precision, kernel, device : str
        As for `row_divergences`.
    on_progress : callable, optional
        Receives the number of rows done, after every batch.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``kl``, ``tv``, ``chi2``, ``entropy``, ``kl_reverse``, ``max_abs_log_ratio``,
        ``unsupported_mass``; with ``token_ids`` first the ``rollout_logprobs`` and
        ``train_logprobs`` of the sampled tokens. Memory grows with the number of rows, by 72 bytes
        each, not with the vocabulary.

    Raises
    ------
    InputError
        If `file` holds top-k logs, a row is not valid logits, or a sampled token has rollout
        probability 0.
    """
    sampled = () if file.token_ids is None else ("rollout_logprobs", "train_logprobs")
    columns = {name: np.empty(file.n) for name in (*sampled, *_FIELDS)}
    for batch in file.batches():
        rows = slice(batch.first_row, batch.first_row + batch.rollout_logits.shape[0])
        result = _divergences(batch, file.path, precision, kernel, device)
        for name in _FIELDS:
            columns[name][rows] = getattr(result, name)
        if file.token_ids is not None:
            for policy in ("rollout", "train"):
                columns[f"{policy}_logprobs"][rows] = _sampled(
                    batch, policy, result, file.token_ids[rows]
                )
        if on_progress is not None:
            on_progress(rows.stop)
    impossible = columns.get("rollout_logprobs", np.empty(0)) == -np.inf
    if impossible.any():
        raise InputError(
            "the sampled token has rollout probability 0",
            file=file.path,
            record=int(impossible.argmax()),
            field="token_ids",
        )
    return columns


def divergences_to_trace(
    file: LogitsFile,
    out_path: str | os.PathLike[str],
    *,
    precision: Precision = "float64",
    kernel: Kernel = "auto",
    device: Device = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Write a canonical trace with the exact divergences of every row of a logits file.

    Parameters
    ----------
    file : LogitsFile
        Full logits, with ``token_ids``. Its ``offsets`` cut the rows into sequences; without
        them, a sequence is a run of rows with the same ``seq_id`` and consecutive ``position``;
        without these, each row is a sequence of one token.
    out_path : path
        The Parquet file. Written under a temporary name, then renamed.
    precision, kernel, device : str
        As for `row_divergences`.
    on_progress : callable, optional
        Receives the number of rows done, after every batch.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        What `file_divergences` gives.

    Raises
    ------
    InputError
        If `file` holds top-k logs or no token ids, a row is not valid logits, a sampled token is
        less likely than readers of traces believe, a sequence has rows of several ``seq_id``, or
        the file cannot be written.
    MissingDependency
        If pyarrow is not installed.

    Notes
    -----
    Columns: ``seq_id``, and lists with one float64 per token: ``rollout_logprobs``,
    ``train_logprobs``, ``kl``, ``tv``, ``chi2``, ``entropy``, ``kl_reverse``,
    ``max_abs_log_ratio``, ``unsupported_mass``, and ``position`` where the file has it. A
    divergence is inf where one policy lacks mass that the other has; readers of traces take finite
    numbers only, so a column that holds one is left out (see `fits_trace`). Memory grows with the
    number of tokens, by 80 bytes each, not with the vocabulary.
    """
    if file.token_ids is None:
        raise InputError(
            "missing: a trace needs the sampled tokens", file=file.path, field="token_ids"
        )
    pa = import_pyarrow("Writing Parquet")
    import pyarrow.parquet as pq

    offsets = _sequence_offsets(file)
    table: dict[str, Any] = {"seq_id": pa.array(_sequence_ids(file, offsets))}
    columns = file_divergences(
        file, precision=precision, kernel=kernel, device=device, on_progress=on_progress
    )
    for policy in ("rollout", "train"):
        _check_sampled(columns[f"{policy}_logprobs"], policy, file.path)
    cuts = pa.array(offsets)
    for name, values in columns.items():
        if not fits_trace(name, values):
            continue
        table[name] = pa.LargeListArray.from_arrays(cuts, pa.array(values))
    if file.position is not None:
        table["position"] = pa.LargeListArray.from_arrays(cuts, pa.array(file.position))
    with replacing(out_path) as temporary:
        pq.write_table(pa.table(table), temporary, compression="zstd")
    return columns


def fits_trace(name: str, values: NDArray[np.float64]) -> bool:
    """Tell whether readers of traces accept a column.

    Parameters
    ----------
    name : str
        Of the column.
    values : ndarray
        One number per token.
    """
    low, high = RANGES.get(name, (0.0, float(np.finfo(np.float64).max)))
    return bool(np.all((values >= low) & (values <= high)))


def _check_sampled(logprobs: NDArray[np.float64], policy: str, path: str) -> None:
    least = RANGES[f"{policy}_logprobs"][0]
    if (low := logprobs < least).any():
        row = int(low.argmax())
        raise InputError(
            f"the {policy} log-probability of the sampled token is {logprobs[row]:g}, expected at "
            f"least {least:g} in a trace",
            file=path,
            record=row,
            field="token_ids",
        )


def _divergences(
    batch: LogitsBatch, path: str, precision: Precision, kernel: Kernel, device: Device
) -> RowDivergences:
    try:
        return row_divergences(
            batch.rollout_logits,
            batch.train_logits,
            precision=precision,
            kernel=kernel,
            device=device,
        )
    except InputError as error:
        record = None if error.record is None else batch.first_row + error.record
        raise InputError(error.problem, file=path, record=record, field=error.field) from None


def _sampled(
    batch: LogitsBatch, policy: str, result: RowDivergences, tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the log-probability of the sampled token of each row."""
    logits = getattr(batch, f"{policy}_logits")
    sampled = logits[np.arange(tokens.size), tokens].astype(np.float64)
    normaliser = getattr(result, f"{policy}_log_normaliser")
    # Rounding of the normaliser can put a probability of 1 above it: by 1e-7 in float32.
    logprobs: NDArray[np.float64] = np.minimum(sampled - normaliser, 0.0)
    return logprobs


def _sequence_offsets(file: LogitsFile) -> NDArray[np.int64]:
    if file.offsets is not None:
        return file.offsets
    if file.seq_id is None or file.position is None:
        return np.arange(file.n + 1)
    follows = (np.diff(file.seq_id) == 0) & (np.diff(file.position) == 1)
    return np.concatenate([[0], np.flatnonzero(~follows) + 1, [file.n]]).astype(np.int64)


def _sequence_ids(file: LogitsFile, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = np.diff(offsets)
    if file.seq_id is None:
        return np.arange(lengths.size)
    some = lengths > 0
    first = file.seq_id[offsets[:-1][some]]
    expected = np.repeat(first, lengths[some])
    if (other := file.seq_id != expected).any():
        row = int(other.argmax())
        raise InputError(
            f"found {file.seq_id[row]}, expected {expected[row]} as in the other rows of the "
            "sequence that the offsets cut",
            file=file.path,
            record=row,
            field="seq_id",
        )
    return first if some.all() else np.arange(lengths.size)
