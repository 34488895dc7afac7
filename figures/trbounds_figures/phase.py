"""Which bound of all is smallest, over horizon and sequence KL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trbounds.bounds import all_bounds
from trbounds.profile import DivergenceProfile
from trbounds_figures._drawing import number
from trbounds_figures._phase import PhaseData, draw_phases, horizons, smallest_bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "phase"
TITLE = "The smallest of all bounds, over horizon and sequence KL"
SIZE = (3.5, 2.9)


def data(
    longest: float = 1e6,
    *,
    points: int = 220,
    kl_max: float = 1e-4,
    chi2_per_kl: float | None = None,
) -> PhaseData:
    """Evaluate every bound that needs no position over the plane.

    Parameters
    ----------
    longest : float
        Largest horizon, at least 2.
    points : int
        Grid points along each axis.
    kl_max : float
        Largest token KL in nats, the same everywhere.
    chi2_per_kl : float, optional
        Assume ``chi2_max = chi2_per_kl * kl_max``. By default nothing is known of chi2.

    Returns
    -------
    PhaseData
        With the sequence KL on the vertical axis. Points with ``kl_seq > T kl_max``, which no
        policy pair reaches, are left out.
    """
    T = horizons(longest, points)[1:]
    kl_seq = np.geomspace(1e-6, 10.0, points)
    possible = kl_seq[:, None] <= T * kl_max
    known: dict[str, Any] = {} if chi2_per_kl is None else {"chi2_max": chi2_per_kl * kl_max}
    profile = DivergenceProfile(
        T=T[None, :],
        kl_max=kl_max,
        kl_seq=np.where(possible, kl_seq[:, None], T * kl_max),
        **known,
    ).complete()
    keys = [key for key, bound in all_bounds().items() if not bound.missing(profile)]
    note = rf"token KL $\delta$ = {number(kl_max)}"
    if chi2_per_kl is not None:
        note += rf", chi2 ${chi2_per_kl:g}\,\delta$"
    return smallest_bound(profile, keys, T, kl_seq, note, possible)


def draw(data: PhaseData, ax: Axes) -> None:
    """Draw the regions, the vacuous part, and what is impossible."""
    draw_phases(data, ax, r"sequence KL $D$ (nats)", impossible=r"impossible: $D > T\delta$")
