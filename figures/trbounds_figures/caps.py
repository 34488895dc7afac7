"""Worst-case bounds against the token KL, with and without their caps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import get_bound
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_figures._drawing import EndLabel, bound_line, label_ends, shade_vacuous

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "caps"
TITLE = "Error bounds against the token KL, with their caps"
SIZE = (3.5, 2.9)

_KEYS = ("classical", "linear", "mixed", "pinsker_marginal")


@dataclass(frozen=True)
class CapsData:
    """Bounds along the token KL.

    Parameters
    ----------
    T : int
        Horizon.
    kl_max : array
        Token KL in nats; the sequence KL is ``T kl_max``.
    capped : dict of str to array
        Bounds by key.
    uncapped : dict of str to array
        Relaxed forms by key, where a bound has one.
    titles : dict of str to str
        Their names.
    first_cap : float
        The token KL ``2/(T-1)`` from which the last context shift is at its cap.
    """

    T: int
    kl_max: NDArray[np.float64]
    capped: dict[str, NDArray[np.float64]]
    uncapped: dict[str, NDArray[np.float64]]
    titles: dict[str, str]
    first_cap: float


def data(T: int = 4096, lowest: float = 1e-8, highest: float = 10.0) -> CapsData:
    """Evaluate the bounds.

    Parameters
    ----------
    T : int
        Horizon, at least 2.
    lowest, highest : float
        Range of the token KL, in nats.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if T < 2:
        raise InputError(f"found {T}, expected at least 2", field="T")
    kl_max = np.geomspace(lowest, highest, 300)
    profile = DivergenceProfile(T=T, kl_max=kl_max)
    found = {key: get_bound(key).assess(profile) for key in _KEYS}
    return CapsData(
        T=T,
        kl_max=kl_max,
        capped={key: np.asarray(a.value) for key, a in found.items()},
        uncapped={
            key: np.asarray(a.relaxed_value)
            for key, a in found.items()
            if a.relaxed_value is not None
        },
        titles={key: get_bound(key).title for key in _KEYS},
        first_cap=2 / (T - 1),
    )


def draw(data: CapsData, ax: Axes) -> None:
    """Draw each bound, its form without caps dotted, and where caps start."""
    labels = []
    for key, values in data.capped.items():
        style = bound_line(key, is_paper=True)
        ax.plot(data.kl_max, values, **style)
        if key in data.uncapped:
            ax.plot(data.kl_max, data.uncapped[key], **{**style, "linestyle": ":"}, linewidth=1)
        labels.append(EndLabel(data.titles[key], float(values[-1]), **style))
    ax.set(xscale="log", yscale="log", xlim=(data.kl_max[0], data.kl_max[-1]))
    ax.set_ylim(1e-3, 5 * max(float(v[-1]) for v in data.capped.values()))
    ax.set_xlabel(r"token KL $\delta$ (nats); sequence KL $T\delta$")
    ax.set_ylabel(r"bound on $|\mathrm{Error}|$ (reward units)")
    ax.set_title(f"$T$ = {data.T:,}; dotted: without caps", loc="left")
    shade_vacuous(ax, 1.0)
    ax.axvline(data.first_cap, color="#999999", linewidth=0.6, zorder=0)
    ax.annotate(
        "caps begin:\n$\\delta = 2/(T-1)$",
        (data.first_cap, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, 5),
        textcoords="offset points",
        va="bottom",
        fontsize=7,
    )
    label_ends(ax, labels)
