"""What the phase diagrams share: which bound is smallest at each point of a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import get_bound
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Tints of Okabe and Ito's colours, light enough for dark text.
_TINTS = ("#9CC9E6", "#F5C9A3", "#A6DBC8", "#E6C0D4", "#F7E29B", "#C9C9C9", "#CDE7F6", "#E0E8B8")


@dataclass(frozen=True)
class PhaseData:
    """The smallest bound over a plane.

    Parameters
    ----------
    T : array of shape (columns,)
        Horizons.
    level : array of shape (rows,)
        The divergence on the vertical axis, in nats.
    keys, titles : tuple of str
        Bounds that are smallest somewhere, largest region first.
    winner : array of shape (rows, columns)
        Index of the smallest bound among `keys`, of equal ones the first that was asked for; -1
        where no policy pair lies.
    smallest : array of shape (rows, columns)
        Its value, for rewards in [0, 1]; NaN where no policy pair lies.
    note : str
        What else is assumed.
    """

    T: NDArray[np.float64]
    level: NDArray[np.float64]
    keys: tuple[str, ...]
    titles: tuple[str, ...]
    winner: NDArray[np.int64]
    smallest: NDArray[np.float64]
    note: str


def horizons(longest: float, points: int) -> NDArray[np.float64]:
    """Return whole numbers from 1 to `longest`, about evenly spaced in the logarithm."""
    if longest < 2:
        raise InputError(f"found {longest}, expected at least 2", field="longest")
    return np.unique(np.round(np.geomspace(1, longest, points)))


def smallest_bound(
    profile: DivergenceProfile,
    keys: Sequence[str],
    T: NDArray[np.float64],
    level: NDArray[np.float64],
    note: str,
    possible: NDArray[np.bool_] | None = None,
) -> PhaseData:
    """Find the smallest of several bounds.

    Parameters
    ----------
    profile : DivergenceProfile
        A batch whose values broadcast to ``(len(level), len(T))``.
    keys : sequence of str
        The bounds; of equal values the first one wins.
    T, level : array
        The axes.
    note : str
        What else is assumed, for the title.
    possible : array of bool, optional
        The points that some policy pair reaches; all by default.
    """
    shape = (len(level), len(T))
    known = profile.complete()
    values = np.stack(
        [np.broadcast_to(np.asarray(get_bound(key).evaluate(known)), shape) for key in keys]
    )
    smallest = values.min(axis=0)
    # Rounding must not decide between bounds that are equal on paper.
    first = np.argmax(values <= smallest * (1 + 1e-9), axis=0)
    inside = np.ones(shape, dtype=bool) if possible is None else possible
    found, counts = np.unique(first[inside], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    rank = np.zeros(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(order))
    names = tuple(keys[i] for i in order)
    titles = tuple(get_bound(name).title for name in names)
    return PhaseData(
        T=T,
        level=level,
        keys=names,
        titles=titles,
        winner=np.where(inside, rank[first], -1),
        smallest=np.where(inside, smallest, np.nan),
        note=note,
    )


def draw_phases(data: PhaseData, ax: Axes, ylabel: str, impossible: str = "impossible") -> None:
    """Draw the regions, each with its name inside, and the line above which bounds are vacuous."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    count = len(data.keys)
    colors = ListedColormap([_TINTS[i % len(_TINTS)] for i in range(count)])
    ax.pcolormesh(
        data.T,
        data.level,
        np.ma.masked_less(data.winner, 0),
        cmap=colors,
        vmin=-0.5,
        vmax=count - 0.5,
        shading="nearest",
        rasterized=True,
    )
    ax.set(xscale="log", yscale="log")
    ax.set(xlim=(data.T[0], data.T[-1]), ylim=(data.level[0], data.level[-1]))
    ax.set_xlabel("horizon $T$ (tokens)")
    ax.set_ylabel(ylabel)
    ax.set_title(data.note, loc="left")
    if np.nanmin(data.smallest) < 1 < np.nanmax(data.smallest):
        _draw_vacuous_line(ax, data)
    _settle(ax)
    regions = [(data.winner == i, title) for i, title in enumerate(data.titles)]
    outside = [
        Patch(color=colors(i), label=title)
        for i, (region, title) in enumerate(regions)
        if not _write_inside(ax, data, region, title)
    ]
    if outside:
        ax.legend(
            handles=outside,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            ncols=2,
            frameon=False,
            fontsize=7,
            handlelength=1.2,
            borderaxespad=0,
        )
        _settle(ax)
    _write_inside(ax, data, data.winner < 0, impossible)


def _draw_vacuous_line(ax: Axes, data: PhaseData) -> None:
    """Draw where the smallest bound equals the reward range, with its meaning along the line."""
    line = ax.contour(
        data.T, data.level, data.smallest, levels=[1.0], colors="#222222", linewidths=1
    )
    longest = max(line.allsegs[0], key=len)
    log = np.log(np.asarray(longest))
    sides = np.log([data.T[-1] / data.T[0], data.level[-1] / data.level[0]])
    along = np.append(0.0, np.cumsum(np.hypot(*(np.diff(log, axis=0) / sides).T)))
    middle = longest[int(np.searchsorted(along, along[-1] / 2))]
    ax.clabel(
        line,
        fmt={1.0: "vacuous above"},
        manual=[tuple(map(float, middle))],
        fontsize=7,
        inline_spacing=3,
    )


def _settle(ax: Axes) -> None:
    """Run the layout, so that extents on the page are known."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.draw_without_rendering()


def _write_inside(ax: Axes, data: PhaseData, region: NDArray[np.bool_], text: str) -> bool:
    """Write a name deep inside its region, turned if need be; return whether it fits.

    The line above which bounds are vacuous counts as outside of every region.
    """
    from scipy.ndimage import distance_transform_edt, minimum_filter

    # A fine grid over the drawn area, evenly spaced on paper.
    size = 240
    x = np.geomspace(data.T[0], data.T[-1], size)
    y = np.geomspace(data.level[0], data.level[-1], size)
    column = np.abs(np.log(x)[:, None] - np.log(data.T)).argmin(axis=1)
    row = np.abs(np.log(y)[:, None] - np.log(data.level)).argmin(axis=1)
    vacuous = data.smallest[np.ix_(row, column)] >= 1
    free = np.pad(region[np.ix_(row, column)], 1)
    free[1:-1, 1:-1] &= distance_transform_edt(vacuous) != 1
    label = ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, transform=ax.transAxes)
    frame = ax.get_window_extent()
    for rotation in (0, 90):
        label.set_rotation(rotation)
        box = label.get_window_extent()
        cells = (
            int(np.ceil(1.08 * size * box.height / frame.height)),
            int(np.ceil(1.08 * size * box.width / frame.width)),
        )
        fits = minimum_filter(free, size=cells, mode="constant", cval=False)
        if fits.any():
            depth = np.asarray(distance_transform_edt(fits))
            best = np.argwhere(depth >= 0.95 * depth.max())
            r, c = best[len(best) // 2] - 1
            label.set(x=(c + 0.5) / size, y=(r + 0.5) / size)
            return True
    label.remove()
    return False
