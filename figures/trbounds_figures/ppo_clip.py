"""PPO's clipped objective: the four cases of ratio and advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds_figures._drawing import BLUE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "ppo_clip"
TITLE = "PPO clipping: which ratios still get a gradient"
SIZE = (3.5, 2.6)


@dataclass(frozen=True)
class ClipData:
    """The clipped objective ``min(rho A, clip(rho, 1-c, 1+c) A)``.

    Parameters
    ----------
    ratio : array
        rho.
    positive, negative : array
        The objective for A = 1 and for A = -1.
    clip : float
        c.
    """

    ratio: NDArray[np.float64]
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    clip: float


def data(clip: float = 0.2, highest: float = 2.0) -> ClipData:
    """Evaluate the objective.

    Parameters
    ----------
    clip : float
        c, between 0 and 1.
    highest : float
        Largest ratio, above ``1 + clip``.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if not 0 < clip < 1:
        raise InputError(f"found {clip}, expected a number between 0 and 1", field="clip")
    if not highest > 1 + clip:
        raise InputError(f"found {highest}, expected more than {1 + clip}", field="highest")
    corners = [1 - clip, 1.0, 1 + clip]
    ratio = np.unique(np.concatenate([np.linspace(0, highest, 201), corners]))
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    return ClipData(ratio, np.minimum(ratio, clipped), np.minimum(-ratio, -clipped), clip)


def draw(data: ClipData, ax: Axes) -> None:
    """Draw both advantages; where the objective is flat the token gets no gradient."""
    low, high = 1 - data.clip, 1 + data.clip
    top = float(data.ratio[-1])
    ax.axvspan(low, high, color="#eeeeee", zorder=0, linewidth=0)
    for values, color, stops in (
        (data.positive, BLUE, data.ratio >= high),
        (data.negative, VERMILION, data.ratio <= low),
    ):
        moving = ~stops | (data.ratio == (high if color == BLUE else low))
        ax.plot(data.ratio[moving], values[moving], color=color)
        ax.plot(data.ratio[stops], values[stops], color=color, linestyle="--")
    for x, y, text, ha, va in (
        (top, high + 0.06, "$A > 0$: clipped", "right", "bottom"),
        (0.03, 0.55, "$A > 0$: gradient", "left", "bottom"),
        (0.03, -low - 0.06, "$A < 0$: clipped", "left", "top"),
        (top, -1.05, "$A < 0$: gradient", "right", "bottom"),
    ):
        ax.text(x, y, text, ha=ha, va=va, fontsize=7.5)
    ax.set(xlim=(0, top), ylim=(-top, 0.35 + high))
    ax.axhline(0, color="#999999", linewidth=0.6, zorder=0)
    ax.set_xticks([0, low, 1, high, top], ["0", "$1-c$", "1", "$1+c$", f"{top:g}"])
    ax.set_xlabel(r"ratio $\rho$")
    ax.set_ylabel("clipped objective, $|A| = 1$")
    ax.set_title(f"$c$ = {data.clip:g}; shaded: ratios within $1 \\pm c$", loc="left")
