"""What several figures share: colours, labels at the ends of lines, the reward range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart with every common kind of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"

_CYCLE = (BLACK, BLUE, VERMILION, ORANGE, GREEN, PURPLE, SKY)
# A bound keeps its colour from figure to figure.
_COLOURS = {
    "classical": BLACK,
    "linear": GREY,
    "coupling": PURPLE,
    "pinsker_marginal": BLUE,
    "pinsker_marginal_tv": SKY,
    "mixed": VERMILION,
    "mixed_tv": ORANGE,
    "adaptive": SKY,
    "coupling_sharp": VERMILION,
    "cauchy_schwarz": ORANGE,
    "prefix_profile": GREEN,
    "entropy_dual_second_order": SKY,
    "entropy_dual": GREEN,
    "chi2_second_order": BLUE,
    "path_sum_chi2": PURPLE,
    "path_sum_kl": BLACK,
    "path_sum_kl_restart": GREY,
    "sequence_kl": VERMILION,
}


def bound_line(key: str, is_paper: bool, index: int = 0) -> dict[str, Any]:
    """Return the colour and line style of a bound: papers' solid, ours dashed.

    Parameters
    ----------
    key : str
        The bound's key.
    is_paper : bool
        Whether a paper printed it.
    index : int, optional
        Chooses the colour of a bound that has none of its own.
    """
    return {
        "color": _COLOURS.get(key, _CYCLE[index % len(_CYCLE)]),
        "linestyle": "-" if is_paper else "--",
    }


def number(value: float) -> str:
    """Write a number for a label: plain from 0.001 to 9999, otherwise as a power of ten."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}"
    digits, exponent = f"{value:.2e}".split("e")
    mantissa, power = f"{float(digits):g}", f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}\times {power}$"


@dataclass(frozen=True)
class EndLabel:
    """A label for the right-hand end of a line.

    Parameters
    ----------
    text : str
        The label.
    y : float
        Height of the line's end, in data units.
    color : str
        Colour of the line.
    linestyle : str
        Style of the line.
    """

    text: str
    y: float
    color: str
    linestyle: str = "-"


def label_ends(ax: Axes, labels: Sequence[EndLabel]) -> None:
    """Write labels to the right of the axes, moved apart so that none overlap.

    Each is joined to the end of its line by a short stroke of the line's colour, so that the text
    can stay dark enough to read. Call it last: it needs the final limits.

    Parameters
    ----------
    ax : Axes
        The axes, with final limits.
    labels : sequence of EndLabel
        The labels, in any order. Ends outside of the vertical limits count as at the limit.
    """
    from matplotlib.transforms import blended_transform_factory

    figure = ax.get_figure(root=True)
    if figure is None or not labels:
        return
    figure.draw_without_rendering()
    height = float(ax.get_window_extent().height)
    size = float(ax.xaxis.get_label().get_fontsize()) - 0.5
    gap = 1.28 * size * figure.dpi / 72 / height
    ordered = sorted(labels, key=lambda label: label.y)
    ends = [
        float(np.clip(ax.transAxes.inverted().transform(point)[1], 0.0, 1.0))
        for label in ordered
        for point in [ax.transData.transform((ax.get_xlim()[1], label.y))]
    ]
    along = blended_transform_factory(ax.transAxes, ax.transAxes)
    for label, end, place in zip(ordered, ends, _spread(ends, gap), strict=True):
        ax.plot(
            [1.0, 1.035, 1.06],
            [end, place, place],
            transform=along,
            clip_on=False,
            color=label.color,
            linestyle=label.linestyle,
            linewidth=0.9,
        )
        ax.text(1.075, place, label.text, transform=along, va="center_baseline", fontsize=size)


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move increasing numbers as little as possible (least squares) to be at least `gap` apart.

    Pools neighbours that would come too close, as isotonic regression does; the whole is then
    shifted to stay within [gap/2, 1 - gap/2] where it fits.
    """
    pools: list[tuple[float, int]] = []  # mean of wanted - rank * gap, and how many
    for rank, value in enumerate(wanted):
        mean, count = value - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    low, high = gap / 2, 1 - gap / 2 - (len(flat) - 1) * gap
    return [float(np.clip(m, low, max(low, high))) + rank * gap for rank, m in enumerate(flat)]


def shade_vacuous(ax: Axes, level: float) -> None:
    """Draw the reward range as a line; shade what two mean rewards cannot differ by.

    Parameters
    ----------
    ax : Axes
        The axes, with final limits.
    level : float
        Width of the reward range.
    """
    low, high = ax.get_ylim()
    if level >= high:
        return
    ax.axhspan(max(level, low), high, color="#eeeeee", zorder=0, linewidth=0)
    if level > low:
        ax.axhline(level, color="#444444", linewidth=0.8, zorder=1)
    ax.set_ylim(low, high)
    ax.annotate(
        "vacuous: above\nthe reward range",
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        ha="left",
        fontsize=7,
        color="#444444",
    )


def positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values with those that a logarithmic axis cannot show as NaN."""
    return np.where(values > 0, values, np.nan)
