"""How far apart the policies of a run were, and what it earned, by training step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.step_series import StepSeries
from trbounds_figures._drawing import BLACK, BLUE, GREEN, VERMILION
from trbounds_figures._recorded import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "steps"
TITLE = "Sequence KL, reward and effective sample by training step, on three real traces"
SIZE = (3.5, 3.6)

_RECORDED = Path(__file__).with_name("steps.json")
_GAP = 0.05
_MANY = 200
"""Steps above which single ones are faint dots, and a line shows means of so many stretches:"""
_STRETCHES = 80


@dataclass(frozen=True)
class Panel:
    """One series by training step.

    Parameters
    ----------
    label : str
        What the vertical axis shows, with its unit.
    values, errors : tuple of float
        One for each step, and their standard errors: NaN where a step has none, empty where the
        series has none.
    change : int or None
        First step at another level, or where the series bends; None where neither is clear.
    """

    label: str
    values: tuple[float, ...]
    errors: tuple[float, ...]
    change: int | None


@dataclass(frozen=True)
class StepsData:
    """The series of one run.

    Parameters
    ----------
    step : tuple of int
        Training steps, in order.
    panels : tuple of Panel
        From top to bottom: the sequence KL, on a logarithmic axis, first; the effective sample, a
        share, last.
    """

    step: tuple[int, ...]
    panels: tuple[Panel, ...]

    def to_json(self) -> str:
        """Return the values as a JSON document, as ``steps.json`` holds them."""
        return json.dumps(asdict(self), indent=1) + "\n"


def measure(series: StepSeries) -> StepsData:
    """Choose what is drawn of a run.

    Parameters
    ----------
    series : StepSeries
        From ``TraceSummary.steps()``. Sequences without a step are left out.

    Returns
    -------
    StepsData
        The mean reward is there if every step has one.

    Raises
    ------
    InputError
        If no sequence has a step.
    """
    known = series.step >= 0
    if not known.any():
        raise InputError("not logged: there is nothing to draw by step", field="step")
    changes = {name: bend.step for name, bend in series.bends().items()}
    changes |= {name: change.step for name, change in series.changes().items()}
    wanted: list[tuple[str, NDArray[np.float64], NDArray[np.float64] | None, int | None]] = [
        ("sequence KL $D$\n(nats)", *series.sequence_kl, changes.get("kl_seq")),
        ("mean reward", series.reward_mean, series.reward_error, changes.get("reward")),
        ("effective sample\n(share)", series.effective_share, None, None),
    ]
    return StepsData(
        tuple(series.step[known].tolist()),
        tuple(
            Panel(
                label,
                tuple(values[known].tolist()),
                () if errors is None else tuple(errors[known].tolist()),
                change,
            )
            for label, values, errors, change in wanted
            if np.isfinite(values[known]).all()
        ),
    )


def data(path: str | os.PathLike[str] = _RECORDED) -> StepsData:
    """Read recorded series.

    Parameters
    ----------
    path : path-like
        A document written by :meth:`StepsData.to_json`; by default that of rollouts whose weights
        are 1, 4 and 16 policy-gradient steps old.

    Raises
    ------
    InputError
        If the file cannot be read or is not such a document.
    """
    return read_record(path, _steps, what="steps")


def _steps(document: Any) -> StepsData:
    panels = []
    for entry in document["panels"]:
        values, errors = (tuple(map(float, entry[name])) for name in ("values", "errors"))
        if len(values) != len(document["step"]) or len(errors) not in (0, len(values)):
            raise ValueError("series of different lengths")
        panels.append(Panel(str(entry["label"]), values, errors, entry["change"]))
    return StepsData(tuple(map(int, document["step"])), tuple(panels))


def draw(data: StepsData, ax: Axes) -> None:
    """Draw the series one below another, each with one standard error to either side."""
    ax.set_frame_on(False)
    ax.set(xticks=[], yticks=[])
    changed = any(panel.change is not None for panel in data.panels)
    many = len(data.step) > _MANY
    shown = f"Line: means of {_STRETCHES} stretches" if many else "Bars: standard error"
    ax.set_title(shown + "; dashed: clearest change" * changed, loc="left")
    ax.set_xlabel("training step", labelpad=14)
    height = 1 / len(data.panels)
    for i, (panel, colour) in enumerate(zip(data.panels, (BLUE, GREEN, BLACK), strict=False)):
        inner = ax.inset_axes((0.14, 1 - (i + 1) * height + _GAP / 2, 0.86, height - _GAP))
        last = i == len(data.panels) - 1
        _draw_panel(inner, data.step, panel, colour, logarithmic=i == 0, last=last)


def _draw_panel(
    ax: Axes, step: tuple[int, ...], panel: Panel, colour: str, *, logarithmic: bool, last: bool
) -> None:
    from matplotlib.ticker import MaxNLocator

    values = np.array(panel.values)
    errors = np.nan_to_num(panel.errors) if panel.errors else np.zeros_like(values)
    low = values - errors
    if logarithmic and (values > 0).all():
        ax.set_yscale("log")
        # A bar that reaches zero ends a decade below its point.
        low = np.maximum(low, values / 10)
    if len(step) > _MANY:
        ax.plot(step, values, ".", color=colour, markersize=1.2, alpha=0.25, rasterized=True)
        stretches = [np.array_split(part, _STRETCHES) for part in (np.array(step), values)]
        ax.plot(*([part.mean() for part in several] for several in stretches), color=colour)
    else:
        ax.vlines(step, low, values + errors, color=colour, linewidth=0.8, alpha=0.6)
        ax.plot(step, values, color=colour, linewidth=0.9, marker=".", markersize=3)
    if panel.change is not None:
        ax.axvline(panel.change, color=VERMILION, linestyle="--", linewidth=0.9)
    margin = max(0.5, 0.02 * (step[-1] - step[0]))
    ax.set_xlim(step[0] - margin, step[-1] + margin)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(panel.label)
    ax.yaxis.set_label_coords(-0.145, 0.5)
    if last:  # the effective sample, a share
        ax.set_ylim(0, 1.05)
    else:
        ax.set_xticklabels([])
