"""Certifiable radius of the bounds against the horizon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError
from trbounds.solve import certifiable_radius, uniform_profile
from trbounds_figures._drawing import EndLabel, bound_line, label_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "radius"
TITLE = "Largest token KL up to which each bound can certify improvement"
SIZE = (3.5, 3.2)


@dataclass(frozen=True)
class RadiusData:
    """Certifiable radii along the horizons, in a uniform profile with ``D = T delta``.

    Parameters
    ----------
    T : array
        Horizons.
    radius : dict of str to array
        Radius in nats by bound; of bounds with the same radius only the first.
    never : tuple of str
        Bounds that can never certify: their radius is 0.
    always : tuple of str
        Bounds that can certify at every token KL: their radius is infinite.
    chi2_per_kl : float
        The assumed ``chi2_max / kl_max``.
    """

    T: NDArray[np.int64]
    radius: dict[str, NDArray[np.float64]]
    never: tuple[str, ...]
    always: tuple[str, ...]
    chi2_per_kl: float


def data(
    longest: int = 16384,
    *,
    points: int = 5,
    bounds: Sequence[str] | None = None,
    chi2_per_kl: float = 2.0,
) -> RadiusData:
    """Solve for the radius of every bound that a uniform profile allows.

    Parameters
    ----------
    longest : int
        Largest horizon, at least 16.
    points : int
        Number of horizons, at least 2; the radii are close to powers of T.
    bounds : sequence of str, optional
        Keys of the bounds; all by default.
    chi2_per_kl : float
        ``chi2_max / kl_max``; 2 is the limit of small divergences.

    Raises
    ------
    InputError
        If an argument is out of range or a bound needs more than a uniform profile knows.
    """
    if longest < 16:
        raise InputError(f"found {longest}, expected at least 16", field="longest")
    if points < 2:
        raise InputError(f"found {points}, expected at least 2", field="points")
    T = np.unique(np.round(np.geomspace(16, longest, points)).astype(int))

    def radius(key: str, horizon: int) -> float:
        return certifiable_radius(get_bound(key), horizon, chi2_per_kl=chi2_per_kl)

    if bounds is None:
        known = uniform_profile(2, 1e-6, chi2_per_kl=chi2_per_kl).complete()
        keys = [key for key, bound in all_bounds().items() if not bound.missing(known)]
    else:
        keys = [get_bound(key).key for key in bounds]
    last = {key: radius(key, int(T[-1])) for key in keys}
    distinct: list[str] = []
    for key, value in last.items():
        same = any(math.isclose(value, last[other], rel_tol=1e-6) for other in distinct)
        if 0 < value < math.inf and not same:
            distinct.append(key)
    return RadiusData(
        T=T,
        radius={
            key: np.array([*(radius(key, int(t)) for t in T[:-1]), last[key]]) for key in distinct
        },
        never=tuple(key for key, value in last.items() if value == 0),
        always=tuple(key for key, value in last.items() if value == math.inf),
        chi2_per_kl=chi2_per_kl,
    )


def draw(data: RadiusData, ax: Axes) -> None:
    """Draw one line per bound."""
    labels = []
    for index, (key, values) in enumerate(data.radius.items()):
        bound = get_bound(key)
        style = bound_line(key, bound.source.is_paper, index)
        ax.plot(data.T, values, **style)
        labels.append(EndLabel(bound.title, float(values[-1]), **style))
    ax.set(xscale="log", yscale="log", xlim=(data.T[0], data.T[-1]))
    ax.set_xlabel("horizon $T$ (tokens)")
    ax.set_ylabel(r"certifiable token KL $\delta$ (nats)")
    ax.set_title(
        rf"sequence KL $T\delta$, chi2 ${data.chi2_per_kl:g}\,\delta$; dashed: trbounds",
        loc="left",
    )
    for heading, keys, x, y, align in (
        ("never:", data.never, 0.03, 0.02, "bottom"),
        ("always:", data.always, 0.55, 0.98, "top"),
    ):
        if keys:
            names = "\n".join([heading, *dict.fromkeys(get_bound(key).title for key in keys)])
            ax.text(x, y, names, transform=ax.transAxes, fontsize=7, verticalalignment=align)
    label_ends(ax, labels)
