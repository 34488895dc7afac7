"""Papers' bounds and ours against the largest error, on six real traces.

The values are read from ``traces.json`` beside this file: what :func:`measure` found on six traces
of 2048 sequences (rollouts in bfloat16 or fp8, weights 1 to 16 steps stale, a mixture of experts),
with the largest error over rewards from independent rollouts of both policies. To draw other
traces, call :func:`measure` on them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trbounds.bounds import get_bound
from trbounds.trace_bounds import bounds_on_trace
from trbounds.traces import summarize
from trbounds.traces.error_estimates import estimate_error
from trbounds_figures._drawing import BLUE, GREEN, VERMILION
from trbounds_figures._recorded import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "traces"
TITLE = "Papers' bounds and ours against the largest error, on six real traces"
SIZE = (7.0, 3.9)

_RECORDED = Path(__file__).with_name("traces.json")
_COLUMNS = 3

#: The bounds that are drawn, top to bottom.
BOUNDS = (
    "classical",
    "pinsker_marginal",
    "mixed",
    "adaptive",
    "martingale",
    "entropy_dual",
    "chi2_kl",
    "path_sum_kl_restart",
    "sequence_kl",
    "l2",
)


@dataclass(frozen=True)
class Measured:
    """A value with its standard error.

    Parameters
    ----------
    value : float
        In reward units.
    standard_error : float or None
        None where the value rests on observed maxima only.
    """

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class TraceValues:
    """The bounds on one trace.

    Parameters
    ----------
    name : str
        Name of the trace.
    bounds : dict of str to Measured
        Plug-in values: they rest on estimates and on maxima over the observed contexts.
    sup_error : Measured
        Largest ``|Error|`` over all rewards in the range. Bounds that use the logged reward's
        variance may lie below it.
    """

    name: str
    bounds: dict[str, Measured]
    sup_error: Measured


@dataclass(frozen=True)
class TracesData:
    """The bounds on several traces.

    Parameters
    ----------
    traces : tuple of TraceValues
        In the order they are drawn.
    """

    traces: tuple[TraceValues, ...]

    def to_json(self) -> str:
        """Return the values as a JSON document, as ``traces.json`` holds them."""
        return json.dumps(asdict(self), indent=1) + "\n"


def measure(
    traces: Mapping[str, str | os.PathLike[str]],
    sup_error: Mapping[str, tuple[float, float]] | None = None,
) -> TracesData:
    """Evaluate the bounds on traces.

    Parameters
    ----------
    traces : mapping of str to path
        Files by name; rewards in [0, 1].
    sup_error : mapping of str to (float, float), optional
        The largest error by name with its standard error, where it is known better than from the
        trace itself.

    Returns
    -------
    TracesData
        Bounds that a trace does not allow are left out.
    """
    known = sup_error or {}
    found = []
    for name, path in traces.items():
        summary = summarize([path])
        evaluated = {b.bound.key: b for b in bounds_on_trace(summary).bounds}
        if name in known:
            sup = _measured(*known[name])
        else:
            estimate = estimate_error(summary).sup_error
            sup = _measured(estimate.value, estimate.error)
        bounds = {
            key: _measured(evaluated[key].value, evaluated[key].standard_error)
            for key in BOUNDS
            if key in evaluated
        }
        found.append(TraceValues(name, bounds, sup))
    return TracesData(tuple(found))


def _measured(value: float, standard_error: float) -> Measured:
    return Measured(float(value), float(standard_error) if math.isfinite(standard_error) else None)


def data(path: str | os.PathLike[str] = _RECORDED) -> TracesData:
    """Read recorded values.

    Parameters
    ----------
    path : path-like
        A document written by :meth:`TracesData.to_json`; by default the one of six real traces.

    Raises
    ------
    InputError
        If the file cannot be read or is not such a document.
    """
    return read_record(path, _traces, what="bounds on traces")


def _traces(document: Any) -> TracesData:
    return TracesData(tuple(_trace(entry) for entry in document["traces"]))


def _trace(entry: dict[str, Any]) -> TraceValues:
    bounds = {key: Measured(**value) for key, value in entry["bounds"].items()}
    return TraceValues(entry["name"], bounds, Measured(**entry["sup_error"]))


def draw(data: TracesData, ax: Axes) -> None:
    """Draw one panel per trace: a point per bound, a vertical line at the largest error."""
    ax.set_frame_on(False)
    ax.set(xticks=[], yticks=[])
    ax.set_title(
        "Filled: papers; open: trbounds; green line: largest error over all rewards; shaded: "
        "vacuous.\nBounds that use the reward's variance hold for the logged reward, so they may "
        "lie left of the line.",
        loc="left",
        fontsize=7.5,
    )
    ax.set_xlabel("reward units", labelpad=13)
    rows = -(-len(data.traces) // _COLUMNS)
    width, height = 1 / _COLUMNS, 1 / rows
    values = [m.value for t in data.traces for m in (*t.bounds.values(), t.sup_error)]
    limits = (min(values) / 2.5, max(values) * 2.5)
    for i, trace in enumerate(data.traces):
        row, column = divmod(i, _COLUMNS)
        panel = ax.inset_axes(
            (column * width + 0.01, 1 - (row + 1) * height + 0.02, width - 0.02, height - 0.08)
        )
        _draw_panel(panel, trace, limits, first=column == 0, last=row == rows - 1)


def _draw_panel(
    ax: Axes, trace: TraceValues, limits: tuple[float, float], *, first: bool, last: bool
) -> None:
    ax.set(xscale="log", xlim=limits, ylim=(len(BOUNDS) - 0.5, -0.5))
    ax.axvspan(1, limits[1], color="#eeeeee", zorder=0, linewidth=0)
    ax.axvline(trace.sup_error.value, color=GREEN, linewidth=1.2, zorder=1)
    for height, key in enumerate(BOUNDS):
        if key not in trace.bounds:
            continue
        found, is_paper = trace.bounds[key], get_bound(key).source.is_paper
        ax.errorbar(
            found.value,
            height,
            xerr=found.standard_error,
            fmt="o",
            color=BLUE if is_paper else VERMILION,
            markerfacecolor=BLUE if is_paper else "white",
            markersize=3.6,
            linewidth=1,
        )
    ax.set_title(trace.name, fontsize=7.5, pad=2)
    ax.set_xticks([1e-2, 1, 1e2, 1e4])
    ax.set_xticks([], minor=True)
    ax.grid(axis="y", color="#dddddd", linewidth=0.4)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    names = [get_bound(key).title for key in BOUNDS] if first else []
    ax.set_yticks(range(len(BOUNDS)), names or [""] * len(BOUNDS))
    if not last:
        ax.set_xticklabels([])
