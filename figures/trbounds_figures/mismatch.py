"""Measured mismatch of sampled tokens against 1 - p, as a density over the exact envelope."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.mismatch import MismatchCase, MismatchSummary, get_law, summarize_traces
from trbounds_figures._drawing import BLACK, VERMILION
from trbounds_figures._recorded import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trbounds.traces import TraceBatch

NAME = "mismatch"
TITLE = "Mismatch of sampled tokens against 1 - p, on six real traces"
SIZE = (7.0, 3.9)

_RECORDED = Path(__file__).with_name("mismatch.json")
_COLUMNS = 3
# Cells of a tenth of a decade.
_PER_DECADE = 10
_REST = (-4, 0)
_MISMATCH = (-7, 1)
_FEW = 20


@dataclass(frozen=True)
class TraceMismatch:
    """The sampled tokens of one trace.

    Parameters
    ----------
    name : str
        Name of the trace.
    tokens : int
        How many; those without mismatch lie outside of the cells.
    logit_error : float
        The smallest that explains every sampled token.
    cells : dict of int to dict of int to int
        Tokens per cell: column of ``log10(1 - p)``, row of ``log10 |mismatch|``, both from 0.
        Tokens beyond the edges count in the outermost cells.
    one_minus_p, mean : tuple of float
        Mean of 1 - p and of the mismatch in ranges of p that hold at least 20 tokens.
    """

    name: str
    tokens: int
    logit_error: float
    cells: dict[int, dict[int, int]]
    one_minus_p: tuple[float, ...]
    mean: tuple[float, ...]

    def density(self) -> NDArray[np.float64]:
        """Return tokens per cell, rows of the mismatch and columns of 1 - p; NaN where none."""
        columns, rows = (_PER_DECADE * (high - low) for low, high in (_REST, _MISMATCH))
        counts = np.full((rows, columns), np.nan)
        for column, found in self.cells.items():
            for row, count in found.items():
                counts[row, column] = count
        return counts


@dataclass(frozen=True)
class MismatchData:
    """The sampled tokens of several traces.

    Parameters
    ----------
    traces : tuple of TraceMismatch
        In the order they are drawn.
    """

    traces: tuple[TraceMismatch, ...]

    def to_json(self) -> str:
        """Return the values as a JSON document, as ``mismatch.json`` holds them."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


def measure(traces: Mapping[str, str | os.PathLike[str]]) -> MismatchData:
    """Count the tokens of traces by 1 - p and mismatch.

    Parameters
    ----------
    traces : mapping of str to path
        Files by name.

    Returns
    -------
    MismatchData
        p is the probability under the training policy, and the mismatch
        ``|log rollout - log train|``.
    """
    return MismatchData(tuple(_measure(name, path) for name, path in traces.items()))


def _measure(name: str, path: str | os.PathLike[str]) -> TraceMismatch:
    cells = TokenCells()
    summary = summarize_traces(path, on_batch=cells.add)
    return cells.trace(name, summary)


class TokenCells:
    """Tokens per cell of 1 - p and mismatch, batch by batch."""

    def __init__(self) -> None:
        self._cells: dict[int, dict[int, int]] = {}

    def add(self, batch: TraceBatch) -> None:
        """Count the tokens of a batch that count."""
        counted = batch.counted()
        rest = -np.expm1(counted.train_logprobs)
        mismatch = np.abs(counted.rollout_logprobs - counted.train_logprobs)
        some = (mismatch > 0) & (rest > 0)
        places = _cell(rest[some], _REST), _cell(mismatch[some], _MISMATCH)
        found, counts = np.unique(np.stack(places), axis=1, return_counts=True)
        for (column, row), count in zip(found.T.tolist(), counts.tolist(), strict=True):
            rows = self._cells.setdefault(column, {})
            rows[row] = rows.get(row, 0) + count

    def trace(self, name: str, summary: MismatchSummary) -> TraceMismatch:
        """Return what a panel shows.

        Parameters
        ----------
        name : str
            Name of the trace.
        summary : MismatchSummary
            Of the same batches.

        Raises
        ------
        InputError
            If no token has a mismatch.
        """
        if not self._cells:
            raise InputError("no sampled token has a mismatch: there is nothing to draw", file=name)
        bins = [b for b in summary.bins() if b.tokens >= _FEW]
        return TraceMismatch(
            name=name,
            tokens=summary.n_tokens,
            logit_error=summary.logit_error_max,
            cells=self._cells,
            one_minus_p=tuple(b.one_minus_p for b in bins),
            mean=tuple(b.abs_mismatch.value for b in bins),
        )


def _cell(values: NDArray[np.float64], decades: tuple[int, int]) -> NDArray[np.int64]:
    low, high = decades
    place = np.floor(_PER_DECADE * (np.log10(values) - low))
    cells: NDArray[np.int64] = np.clip(place, 0, _PER_DECADE * (high - low) - 1).astype(np.int64)
    return cells


def data(path: str | os.PathLike[str] = _RECORDED) -> MismatchData:
    """Read recorded counts.

    Parameters
    ----------
    path : path-like
        A document written by :meth:`MismatchData.to_json`; by default the one of six real traces.

    Raises
    ------
    InputError
        If the file cannot be read or is not such a document.
    """
    return read_record(path, _mismatch, what="mismatch")


def _mismatch(document: Any) -> MismatchData:
    found = MismatchData(tuple(_trace(entry) for entry in document["traces"]))
    for trace in found.traces:
        trace.density()
    return found


def _trace(entry: dict[str, Any]) -> TraceMismatch:
    cells = {
        int(column): {int(row): int(count) for row, count in found.items()}
        for column, found in entry["cells"].items()
    }
    means = {name: tuple(map(float, entry[name])) for name in ("one_minus_p", "mean")}
    return TraceMismatch(
        name=str(entry["name"]),
        tokens=int(entry["tokens"]),
        logit_error=float(entry["logit_error"]),
        cells=cells,
        **means,
    )


def envelope(logit_error: float, one_minus_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest ``|mismatch|`` that a logit error allows: the lower side's size."""
    inside = one_minus_p < 1
    rest = np.where(inside, one_minus_p, 0.5)
    case = MismatchCase(logit_error=logit_error, log1mp=np.log(rest))
    return np.where(inside, -get_law("envelope").evaluate_lower(case), 2 * logit_error)


def draw(data: MismatchData, ax: Axes) -> None:
    """Draw one panel per trace: the density of tokens, their mean by p, and the envelope."""
    ax.set_frame_on(False)
    ax.set(xticks=[], yticks=[])
    most = max(float(np.nanmax(trace.density())) for trace in data.traces)
    ax.set_title(
        f"Shade: 1 to {most:,.0f} tokens (logarithmic); dots: mean by probability; line: exact "
        "envelope at the smallest" + "\n" + r"logit error $\hat a$ that explains every sampled "
        "token; dashed: slope of the (1 - p) law.",
        loc="left",
        fontsize=7.5,
    )
    ax.set_xlabel("1 - p, p under the training policy", labelpad=13)
    ax.set_ylabel("|log rollout - log train| (nats)", labelpad=20)
    columns = min(len(data.traces), _COLUMNS)
    rows = -(-len(data.traces) // columns)
    width, height = 1 / columns, 1 / rows
    for i, trace in enumerate(data.traces):
        row, column = divmod(i, columns)
        panel = ax.inset_axes(
            (column * width + 0.01, 1 - (row + 1) * height + 0.03, width - 0.02, height - 0.1)
        )
        _draw_panel(panel, trace, most, first=column == 0, last=row == rows - 1)


def _draw_panel(ax: Axes, trace: TraceMismatch, most: float, *, first: bool, last: bool) -> None:
    from matplotlib.colors import LogNorm

    columns, rows = (
        np.logspace(low, high, _PER_DECADE * (high - low) + 1) for low, high in (_REST, _MISMATCH)
    )
    ax.pcolormesh(
        columns, rows, trace.density(), cmap="Blues", norm=LogNorm(0.5, most), rasterized=True
    )
    ax.plot(columns, envelope(trace.logit_error, columns), color=VERMILION, linewidth=1.1)
    ax.plot(trace.one_minus_p, trace.mean, ".", color=BLACK, markersize=2.6)
    ratios = [m / rest for m, rest in zip(trace.mean, trace.one_minus_p, strict=True) if m > 0]
    if ratios:
        middle = math.exp(np.mean(np.log(ratios)))
        ax.plot(columns, middle * columns, color=BLACK, linewidth=0.7, linestyle="--")
    ax.set(xscale="log", yscale="log", xlim=columns[[0, -1]], ylim=(1e-6, rows[-1]))
    ax.set_title(
        rf"{trace.name}: {trace.tokens:,} tokens, $\hat a$ = {trace.logit_error:.2g}",
        fontsize=7.5,
        pad=2,
    )
    ax.minorticks_off()
    ax.set_yticks([1e-6, 1e-4, 1e-2, 1])
    ax.set_xticks([1e-3, 1e-2, 1e-1])
    if not first:
        ax.set_yticklabels([])
    if not last:
        ax.set_xticklabels([])
