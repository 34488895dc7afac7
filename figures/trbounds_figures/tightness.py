"""How close the error comes to each bound, on the best instances known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds_figures._drawing import BLUE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trbounds.oracle.tightness import Tightness

NAME = "tightness"
TITLE = "Largest error found over each bound"
SIZE = (3.5, 5.0)


@dataclass(frozen=True)
class TightnessRow:
    """One bound.

    Parameters
    ----------
    key, title : str
        The bound.
    is_paper : bool
        Whether a paper printed it.
    ratio, centred_ratio : float
        Largest |Error| found over the bound, and over its value with the reward centred.
    """

    key: str
    title: str
    is_paper: bool
    ratio: float
    centred_ratio: float


@dataclass(frozen=True)
class TightnessData:
    """The bounds, tightest first.

    Parameters
    ----------
    rows : tuple of TightnessRow
        Each ratio evaluated afresh on its instance.
    """

    rows: tuple[TightnessRow, ...]


def data(results: Sequence[Tightness] | None = None) -> TightnessData:
    """Evaluate instances.

    Parameters
    ----------
    results : sequence of Tightness, optional
        Instances; by default the tightest that ship with trbounds. Those of bounds that do not
        exist any more are left out.

    Raises
    ------
    InputError
        If nothing is left.
    """
    from trbounds.oracle.tightness import best_known, error_over_bound

    bounds = all_bounds()
    rows = []
    for result in best_known() if results is None else results:
        if result.key not in bounds:
            continue
        bound = bounds[result.key]
        ratio, centred = error_over_bound(bound, result.pair, result.stop_budget)
        rows.append(TightnessRow(bound.key, bound.title, bound.source.is_paper, ratio, centred))
    if not rows:
        raise InputError("found no instance of a bound", field="results")
    # Ratios that differ by rounding keep the order of the bounds.
    order = {key: rank for rank, key in enumerate(bounds)}
    rows.sort(key=lambda row: (-round(row.centred_ratio, 9), order[row.key]))
    return TightnessData(tuple(rows))


def draw(data: TightnessData, ax: Axes) -> None:
    """Draw a point per bound; papers' bounds with a stroke to what half the constant gives."""
    ax.axvline(1, color="#444444", linewidth=0.8, zorder=1)
    for height, row in enumerate(data.rows):
        color = BLUE if row.is_paper else VERMILION
        ax.plot([row.ratio, row.centred_ratio], [height, height], color=color, linewidth=1)
        ax.plot(
            row.ratio,
            height,
            "o",
            color=color,
            markerfacecolor=color if row.is_paper else "white",
            markersize=3.6,
        )
        if row.is_paper:
            ax.plot(row.centred_ratio, height, "|", color=color, markersize=5)
    ax.set(xlim=(0, 1.03), ylim=(len(data.rows) - 0.5, -0.5))
    ax.set_yticks(range(len(data.rows)), [row.title for row in data.rows])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#dddddd", linewidth=0.4)
    ax.set_axisbelow(True)
    ax.set_xlabel("largest |Error| found / bound")
    ax.set_title(
        "Filled: papers, with a stroke to\nhalf the constant; open: trbounds",
        loc="left",
        fontsize=7.5,
    )
