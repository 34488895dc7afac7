"""Summaries on disk: a ``.tbs`` file is an uncompressed zip of ``summary.json`` and arrays.

Nothing in it is executed or unpickled. Members are stored, not compressed, so that a small file
cannot unfold into a large one, and an array header must agree with the bytes that follow it.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections import Counter
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, TrboundsError
from trbounds.traces.extremes import Extreme
from trbounds.traces.histogram import Histogram
from trbounds.traces.omissions import Partial, Skipped
from trbounds.traces.pair_moments import PairMoments
from trbounds.traces.partition import Part
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.remote import is_remote, open_remote
from trbounds.traces.sequence_table import COLUMNS, SequenceTable
from trbounds.traces.stopping import BUDGETS, StoppedSums
from trbounds.traces.summary import TraceSummary
from trbounds.traces.validate import check_reward_range
from trbounds.traces.writing import replacing

_FORMAT = "trbounds-summary"
_VERSION = 1
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|][iuf][1248])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,15}(?:, ?|(?=\))))*)\), \} *\n",
    re.DOTALL,
)
_STAMP = (1980, 1, 1, 0, 0, 0)


def save(summary: TraceSummary, path: str | os.PathLike[str]) -> None:
    """Write a summary.

    Equal summaries give equal bytes. Written under a temporary name, then renamed.

    Parameters
    ----------
    summary : TraceSummary
        The summary.
    path : path
        Where to; ``.tbs`` by convention.

    Raises
    ------
    InputError
        If the file cannot be written, or the summary holds a record twice.
    """
    arrays = _arrays(summary)
    text = json.dumps(_document(summary), sort_keys=True, allow_nan=False).encode()
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(zipfile.ZipInfo("summary.json", _STAMP), text)
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), (1, 0), False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _STAMP), buffer.getbuffer())


def load(path: str | os.PathLike[str]) -> TraceSummary:
    """Read a summary.

    Parameters
    ----------
    path : path
        A file written by :func:`save`, near or remote (``s3://...``).

    Raises
    ------
    InputError
        If the file is absent, damaged, not a summary, or of another version.
    MissingDependency
        If a remote path needs a package that is absent.
    """
    file = os.fspath(path)
    try:
        with (
            open_remote(file) if is_remote(file) else open(file, "rb") as stream,
            zipfile.ZipFile(stream) as archive,
        ):
            _check_sizes(archive, stream.seek(0, os.SEEK_END))
            document = json.loads(_member(archive, "summary.json"))
            _check_version(document, file)
            check_reward_range(*document["reward_range"], file=file)
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {name[:-4]: _array(_member(archive, name)) for name in names}
        return _rebuild(document, arrays)
    except TrboundsError:
        raise
    except FileNotFoundError:
        raise InputError("no such file", file=file) from None
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        NotImplementedError,
        OSError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"not a readable trbounds summary: {error}", file=file) from None


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    if sum(info.file_size for info in archive.infolist()) > size:
        raise ValueError("its members overlap")


def _check_version(document: Any, file: str) -> None:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError("not a trbounds summary", file=file)
    if document.get("version") != _VERSION:
        raise InputError(
            f"found version {document.get('version')!r}, expected {_VERSION}: summarise the trace "
            "again",
            file=file,
        )


def _document(summary: TraceSummary) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "reward_range": list(summary.reward_range),
        "files": summary.files,
        "counts": {name: count for name, count in summary.counts.items() if count},
        "present": None if summary.present is None else sorted(summary.present),
        "seen": sorted(summary.seen),
        "extremes": {name: list(extreme) for name, extreme in summary.extremes.items()},
        "partial": None if summary.partial is None else _partial_document(summary.partial),
        "skipped": [[s.file, s.record, s.field, s.problem] for s in summary.skipped],
    }


def _partial_document(partial: Partial) -> dict[str, Any]:
    return {"done": [list(astuple(part)) for part in sorted(partial.done)], "left": partial.left}


def _partial_of(document: Any) -> Partial:
    done = [
        Part(str(file), *(int(number) for number in numbers)) for file, *numbers in document["done"]
    ]
    return Partial(frozenset(done), int(document["left"]))


def _arrays(summary: TraceSummary) -> dict[str, NDArray[Any]]:
    arrays = {f"sequences/{name}": summary.sequences[name] for name in COLUMNS}
    for prefix, state in (
        ("positions", summary.positions.state()),
        ("stopped", summary.stopped.state()),
        ("pairs", summary.pairs.state()),
    ):
        for name, values in state.items():
            # One rounding of each sum, so that equal totals are equal bytes whatever the order.
            rounded = _renormalised(values) if values.ndim == 2 else values
            arrays[f"{prefix}/{name}"] = rounded
    for name, histogram in summary.histograms.items():
        arrays[f"histograms/{name}"] = histogram.counts
    arrays["budgets"] = BUDGETS
    return arrays


def _renormalised(pair: NDArray[Any]) -> NDArray[Any]:
    high = pair[0] + pair[1]
    return np.stack([high, pair[1] - (high - pair[0])])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(info)


def _array(data: bytes) -> NDArray[Any]:
    # The header is read here: numpy's parser has errors of its own for damaged ones.
    size = 10 + int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[:size])
    if header is None:
        raise ValueError("unexpected array header")
    shape = tuple(int(n) for n in header["shape"].split(b",") if n.strip())
    # The size of what is allocated is that of the bytes; a shape that differs is an error.
    values = np.frombuffer(data[size:], dtype=np.dtype(header["dtype"].decode()))
    return values.reshape(shape).copy()


def _rebuild(document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> TraceSummary:
    low, high = document["reward_range"]
    out = TraceSummary(reward_range=(low, high))
    budgets = _typed(arrays["budgets"], BUDGETS.dtype)
    # Their last bits are those of the power function of the machine that wrote the file.
    if budgets.shape != BUDGETS.shape or not np.allclose(budgets, BUDGETS, rtol=1e-12, atol=0.0):
        raise ValueError("another grid of budgets")
    table = {name: _typed(arrays[f"sequences/{name}"], kind) for name, kind in COLUMNS.items()}
    sizes = {column.shape for column in table.values()}
    files = [str(file) for file in document["files"]]
    n = table["file"].size
    if sizes != {(n,)} or (n and not 0 <= table["file"].min() <= table["file"].max() < len(files)):
        raise ValueError("the table of sequences is inconsistent")
    if len(set(files)) < len(files):
        raise ValueError("a file is listed twice")
    out._files = {file: number for number, file in enumerate(files)}
    out._table = SequenceTable([table])
    out._sorted = False
    out.positions = PositionSums.from_state(_state(arrays, "positions/", PositionSums().state()))
    out.stopped = StoppedSums.from_state(_state(arrays, "stopped/", StoppedSums().state()))
    out.pairs = PairMoments.from_state(_state(arrays, "pairs/", PairMoments().state()))
    reference = Histogram().counts
    for name, values in arrays.items():
        if name.startswith("histograms/"):
            if values.shape != reference.shape:
                raise ValueError("a histogram has another number of bins")
            out.histograms[name.removeprefix("histograms/")] = Histogram(
                _typed(values, reference.dtype)
            )
    out.counts = Counter({str(name): int(count) for name, count in document["counts"].items()})
    out.present = None if document["present"] is None else frozenset(document["present"])
    out.seen = frozenset(document["seen"])
    for name, (value, file, record, position) in document["extremes"].items():
        out.extremes[name] = Extreme(float(value), str(file), int(record), int(position))
    if document.get("partial") is not None:
        out.partial = _partial_of(document["partial"])
    out._skipped = frozenset(Skipped(*fields) for fields in document["skipped"])
    _check_parts(out, int(table["length"].sum(dtype=np.int64)), n)
    return out


def _check_parts(summary: TraceSummary, n_tokens: int, n_sequences: int) -> None:
    """Check that the parts of a summary are of one trace."""
    counts, histograms = summary.counts, summary.histograms
    if any(count < 0 for count in counts.values()):
        raise ValueError("a count is negative")
    if counts["tokens"] != n_tokens or summary.positions.n_sequences != n_sequences:
        raise ValueError("the counts are not those of the table of sequences")
    if int(summary.positions.alive.sum()) != n_tokens:
        raise ValueError("the positions are not those of the table of sequences")
    if n_tokens and not (
        {"abs_log_ratio_max", "k2_min", "k3_min"} <= summary.extremes.keys()
        and {"abs_log_ratio", "k3"} <= histograms.keys()
        and histograms["abs_log_ratio"].total == histograms["k3"].total == n_tokens
    ):
        raise ValueError("the extremes or the histograms are not those of the table of sequences")


def _typed(values: NDArray[Any], kind: Any) -> NDArray[Any]:
    if values.dtype != np.dtype(kind):
        raise ValueError(f"found {values.dtype}, expected {np.dtype(kind)}")
    return values


def _state(
    arrays: dict[str, NDArray[Any]], prefix: str, like: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Take the arrays of one part; each must have the type and rank of an empty part's."""
    out = {name: _typed(arrays[prefix + name], values.dtype) for name, values in like.items()}
    # Arrays that are empty in an empty part have one entry per position.
    growing = (out[name].shape[-1] for name, values in like.items() if not values.shape[-1])
    longest = max(growing, default=0)
    for name, values in like.items():
        expected = values.shape if values.shape[-1] else (*values.shape[:-1], longest)
        if out[name].shape != expected:
            raise ValueError(f"{prefix}{name} has shape {out[name].shape}, expected {expected}")
    return out
