"""Adaptive against Pinsker-Marginal as divergence gets sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import get_bound
from trbounds.divergences import tv_from_kl_pinsker
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_figures._drawing import EndLabel, bound_line, label_ends, number, shade_vacuous

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "sparse"
TITLE = "Adaptive against Pinsker-Marginal as divergence gets sparse"
SIZE = (3.5, 2.7)


@dataclass(frozen=True)
class SparseData:
    """Bounds along the number of positions at which the policies differ.

    Parameters
    ----------
    T : int
        Horizon.
    kl_max : float
        KL at each position where the policies differ, in nats.
    fraction : array
        Share of the positions at which they differ.
    spread, first, last : array
        Adaptive bound with those positions spread evenly, all at the beginning, all at the end.
    pinsker_marginal, mixed : array
        The bounds that do not see positions; Mixed with ``D = fraction T kl_max``.
    """

    T: int
    kl_max: float
    fraction: NDArray[np.float64]
    spread: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    pinsker_marginal: NDArray[np.float64]
    mixed: NDArray[np.float64]


def data(T: int = 4096, kl_max: float = 1e-4) -> SparseData:
    """Evaluate the bounds.

    Parameters
    ----------
    T : int
        Horizon, 2 to 100,000.
    kl_max : float
        KL in nats at each position where the policies differ; Dbar_t = sqrt(kl_max/2) there.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if not 2 <= T <= 100_000:
        raise InputError(f"found {T}, expected 2 to 100,000", field="T")
    counts = np.unique(np.round(np.geomspace(1, T, 40)).astype(int))
    height = float(tv_from_kl_pinsker(kl_max))

    def adaptive(chosen: NDArray[np.int64]) -> float:
        tv_mean = np.zeros(T)
        tv_mean[chosen] = height
        profile = DivergenceProfile(T=T, kl_max=kl_max, tv_mean=tv_mean)
        return float(get_bound("adaptive").evaluate(profile))

    # Spread positions sit in the middle of equal parts of the sequence.
    spread = [adaptive(np.floor((np.arange(n) + 0.5) * T / n).astype(int)) for n in counts]
    blind = DivergenceProfile(T=T, kl_max=kl_max, kl_seq=counts * kl_max)
    return SparseData(
        T=T,
        kl_max=kl_max,
        fraction=counts / T,
        spread=np.array(spread),
        first=np.array([adaptive(np.arange(n)) for n in counts]),
        last=np.array([adaptive(np.arange(T - n, T)) for n in counts]),
        pinsker_marginal=np.full(len(counts), float(get_bound("pinsker_marginal").evaluate(blind))),
        mixed=np.asarray(get_bound("mixed").evaluate(blind)),
    )


def draw(data: SparseData, ax: Axes) -> None:
    """Draw the bounds, with a band between Adaptive's best and worst placement."""
    lines = (
        ("mixed", data.mixed, "Mixed"),
        ("pinsker_marginal", data.pinsker_marginal, "Pinsker-Marginal"),
        ("adaptive", data.spread, "Adaptive"),
    )
    labels = []
    for key, values, text in lines:
        style = bound_line(key, is_paper=True)
        ax.plot(data.fraction, values, **style)
        labels.append(EndLabel(text, float(values[-1]), **style))
    color = bound_line("adaptive", is_paper=True)["color"]
    above_zero = np.where(data.last > 0, data.last, np.nan)
    ax.fill_between(data.fraction, above_zero, data.first, color=color, alpha=0.25, linewidth=0)
    ax.set(xscale="log", yscale="log", xlim=(data.fraction[0], data.fraction[-1]))
    largest = max(data.mixed.max(), data.pinsker_marginal.max())
    ax.set_ylim(float(np.nanmin(above_zero)), 60 * float(max(largest, 1.0)))
    ax.set_xlabel("share of positions where the policies differ")
    ax.set_ylabel(r"bound on $|\mathrm{Error}|$ (reward units)")
    ax.set_title(f"$T$ = {data.T:,}, token KL there {number(data.kl_max)}", loc="left")
    shade_vacuous(ax, 1.0)
    ax.annotate(
        "band: these positions\nall late to all early",
        (1.0, 0.0),
        xycoords="axes fraction",
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7,
    )
    label_ends(ax, labels)
