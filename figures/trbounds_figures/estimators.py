"""The per-token KL estimators k1, k2 and k3 against the ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds import divergences
from trbounds.errors import InputError
from trbounds_figures._drawing import (
    BLACK,
    BLUE,
    VERMILION,
    EndLabel,
    label_ends,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "estimators"
TITLE = "KL estimators against the ratio"
SIZE = (3.5, 2.5)


@dataclass(frozen=True)
class EstimatorData:
    """The estimators along the ratio.

    Parameters
    ----------
    ratio : array
        rho = pi(y)/mu(y) of a token y sampled from mu.
    k1, k2, k3 : array
        The estimators there, in nats.
    """

    ratio: NDArray[np.float64]
    k1: NDArray[np.float64]
    k2: NDArray[np.float64]
    k3: NDArray[np.float64]


def data(lowest: float = 0.01, highest: float = 100.0, points: int = 401) -> EstimatorData:
    """Evaluate the estimators at ratios spaced evenly in the logarithm.

    Parameters
    ----------
    lowest, highest : float
        Range of the ratio.
    points : int
        Number of ratios.

    Raises
    ------
    InputError
        If the range is not increasing or does not start above 0.
    """
    if not 0 < lowest < highest:
        raise InputError(f"found {lowest} to {highest}, expected 0 < lowest < highest")
    log_ratio = np.linspace(np.log(lowest), np.log(highest), points)
    return EstimatorData(
        np.exp(log_ratio),
        np.asarray(divergences.k1(log_ratio)),
        np.asarray(divergences.k2(log_ratio)),
        np.asarray(divergences.k3(log_ratio)),
    )


def draw(data: EstimatorData, ax: Axes) -> None:
    """Draw the three curves; k3 leaves the frame, since it grows like the ratio itself."""
    top = 1.12 * float(data.k2.max())
    for values, color in ((data.k1, BLACK), (data.k2, VERMILION), (data.k3, BLUE)):
        ax.plot(data.ratio, values, color=color)
    ax.set(xscale="log", xlim=(data.ratio[0], data.ratio[-1]))
    ax.set_ylim(1.1 * float(data.k1.min()), top)
    ax.axhline(0, color="#999999", linewidth=0.6, zorder=0)
    ax.set_xlabel(r"ratio $\rho = \pi/\mu$ of a sampled token")
    ax.set_ylabel("estimate (nats)")
    ax.annotate(
        f"$k_3 = \\rho - 1 - \\log\\rho$\n({data.k3[-1]:.3g} at {data.ratio[-1]:g})",
        (float(data.ratio[data.k3 <= top][-1]), top),
        xytext=(-5, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=7,
    )
    labels = [
        EndLabel(r"$k_1 = -\log\rho$", float(data.k1[-1]), BLACK),
        EndLabel(r"$k_2 = (\log\rho)^2/2$", float(data.k2[-1]), VERMILION),
    ]
    label_ends(ax, labels)
