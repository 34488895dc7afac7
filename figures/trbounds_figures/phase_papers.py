"""Which of the papers' worst-case bounds is smallest, over horizon and token KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trbounds.profile import DivergenceProfile
from trbounds_figures._drawing import number
from trbounds_figures._phase import PhaseData, draw_phases, horizons, smallest_bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "phase_papers"
TITLE = "The smallest of the papers' bounds, over horizon and token KL"
SIZE = (3.5, 2.8)

#: The worst-case bounds; each of the others is at least one of these.
BOUNDS = ("coupling", "pinsker_marginal_tv", "mixed_tv", "pinsker_marginal", "mixed", "linear")


def data(
    longest: float = 1e5,
    *,
    points: int = 220,
    kl_seq: float = 0.01,
    tv_seq: float = 0.05,
    tv_per_root_kl: float = 0.5,
) -> PhaseData:
    """Evaluate the bounds over the plane.

    Parameters
    ----------
    longest : float
        Largest horizon, at least 2.
    points : int
        Grid points along each axis.
    kl_seq, tv_seq : float
        D and V, cut at what the token maxima imply for short sequences.
    tv_per_root_kl : float
        ``tv_max / sqrt(kl_max)``, at most ``sqrt(1/2)`` by Pinsker; the default, like those of D
        and V, is the point of TRM v3's table.

    Returns
    -------
    PhaseData
        With the token KL ``kl_max`` on the vertical axis.
    """
    T = horizons(longest, points)
    kl_max = np.geomspace(1e-8, 1.0, points)
    tv_max = np.minimum(1.0, tv_per_root_kl * np.sqrt(kl_max))
    column = kl_max[:, None]
    profile = DivergenceProfile(
        T=T[None, :],
        kl_max=column,
        tv_max=tv_max[:, None],
        kl_seq=np.minimum(kl_seq, T * column),
        tv_seq=np.minimum(tv_seq, np.minimum(1.0, T * tv_max[:, None])),
    )
    note = (
        rf"token TV ${tv_per_root_kl:g}\sqrt{{\delta}}$, sequence KL $\leq$ {number(kl_seq)},"
        "\n" + rf"sequence TV $\leq$ {number(tv_seq)}"
    )
    return smallest_bound(profile, BOUNDS, T, kl_max, note)


def draw(data: PhaseData, ax: Axes) -> None:
    """Draw the regions and the line above which even the smallest bound is vacuous."""
    draw_phases(data, ax, r"token KL $\delta$ (nats)")
