"""Error bounds against the horizon, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_figures._drawing import (
    EndLabel,
    bound_line,
    label_ends,
    number,
    positive,
    shade_vacuous,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "horizon"
TITLE = "Error bounds against the horizon"
SIZE = (3.5, 3.0)

#: The papers' headline point, drawn when nothing else is said.
HEADLINE = {"kl_max": 1e-4, "kl_seq": 0.01}

# Drawn by default, where the profile allows; of curves that coincide, the first.
_USUAL = (
    "classical",
    "linear",
    "coupling",
    "pinsker_marginal",
    "mixed",
    "pinsker_marginal_tv",
    "mixed_tv",
    "cauchy_schwarz",
    "entropy_dual_second_order",
    "entropy_dual",
    "sequence_kl",
)
# These would follow from the token maxima too, but only say something with a value of their own.
_BY_FIELD = {
    "chi2_max": ("chi2_second_order",),
    "chi2_path_max": ("path_sum_chi2",),
    "kl_path_max": ("path_sum_kl_restart",),
}

_SYMBOLS = {
    "kl_max": r"token KL $\delta$",
    "kl_seq": "sequence KL $D$",
    "tv_max": r"token TV $\epsilon$",
    "tv_seq": "sequence TV $V$",
    "chi2_max": r"token chi2 $\kappa$",
    "chi2_path_max": "path sum of chi2 $X$",
    "kl_path_max": "path sum of KL $K$",
    "reward_var": "reward variance $v$",
}


@dataclass(frozen=True)
class Curve:
    """One bound along the horizons.

    Parameters
    ----------
    key, title : str
        The bound.
    is_paper : bool
        Whether a paper printed it.
    values : array
        The bound at each horizon, in reward units.
    slope : float
        Growth at the last horizon: the power of T over the last factor of two; inf from 0, as many
        bounds are at T = 1.
    """

    key: str
    title: str
    is_paper: bool
    values: NDArray[np.float64]
    slope: float


@dataclass(frozen=True)
class Row:
    """One bound at the last horizon.

    Parameters
    ----------
    key, title, source : str
        The bound.
    value : float
        In reward units.
    slope : float
        Power of T by which it grows there; inf from 0.
    informative : bool
        Whether it lies below the width of the reward range.
    """

    key: str
    title: str
    source: str
    value: float
    slope: float
    informative: bool


@dataclass(frozen=True)
class HorizonData:
    """Bounds along the horizons.

    Parameters
    ----------
    T : array
        Horizons, increasing.
    curves : tuple of Curve
        In the order of the bounds' ranks.
    point : mapping of str to float
        What is assumed of the divergences.
    reward_width : float
        Width of the reward range.
    """

    T: NDArray[np.float64]
    curves: tuple[Curve, ...]
    point: dict[str, float]
    reward_width: float

    def table(self) -> list[Row]:
        """Return every curve's value at the last horizon, largest first."""
        rows = [
            Row(
                key=curve.key,
                title=curve.title,
                source=str(get_bound(curve.key).source),
                value=float(curve.values[-1]),
                slope=curve.slope,
                informative=bool(curve.values[-1] < self.reward_width),
            )
            for curve in self.curves
        ]
        return sorted(rows, key=lambda row: -row.value)


def data(T: int = 8192, *, bounds: Sequence[str] | None = None, **known: Any) -> HorizonData:
    """Evaluate bounds at horizons up to `T`.

    Parameters
    ----------
    T : int
        Last horizon, at least 2.
    bounds : sequence of str, optional
        Keys of the bounds to draw. By default those that the profile allows, except that of
        curves which coincide the first is kept.
    **known : float
        Scalar fields of the divergence profile, ``reward_range`` and ``conversion``, the same at
        every horizon. With no divergence at all, the papers' headline point is taken:
        ``kl_max=1e-4, kl_seq=0.01``. ``kl_seq`` is at most ``T kl_max``, so it is cut at that
        for short horizons, and so are path sums at T times the largest term.

    Returns
    -------
    HorizonData
        The curves.

    Raises
    ------
    InputError
        If `T` is below 2, a bound does not exist or needs what is not known, or nothing is left
        to draw.
    """
    if int(T) != T or T < 2:
        raise InputError(f"found {T}, expected a whole number of at least 2", field="T")
    point = {name: float(known[name]) for name in known if name not in _SETTINGS}
    if not point.keys() - {"reward_var"}:
        point = {**HEADLINE, **point}
    settings = {name: known[name] for name in known if name in _SETTINGS}
    horizons = np.unique(np.round(np.geomspace(max(1, T // 1000), T, 160)))
    profile = _profile(horizons, point, settings)
    last = _profile(np.array([max(1.0, T // 2), T]), point, settings)
    keys = _usual(profile, point) if bounds is None else list(dict.fromkeys(bounds))
    curves: list[Curve] = []
    for bound in sorted(map(get_bound, keys), key=lambda b: (b.rank, b.key)):
        values = np.broadcast_to(np.asarray(bound.evaluate(profile)), horizons.shape)
        drawn = bounds is not None or not any(
            np.allclose(values, c.values, rtol=1e-9, atol=0) for c in curves
        )
        if drawn and 0 < values[-1] <= _LARGEST_DRAWN:
            ends = np.broadcast_to(np.asarray(bound.evaluate(last)), (2,))
            growth = ends[1] / ends[0] if ends[0] > 0 else np.inf
            slope = float(np.log(growth) / np.log(T / max(1.0, T // 2)))
            curves.append(Curve(bound.key, bound.title, bound.source.is_paper, values, slope))
    if not curves:
        raise InputError(
            f"every bound is 0, exceeds {_LARGEST_DRAWN:g} or needs more than is known: nothing to "
            "draw"
        )
    return HorizonData(horizons, tuple(curves), point, profile.reward_width)


_SETTINGS = ("reward_range", "conversion")

# Sums over tokens, and the largest term of each.
_TOTALS = {"kl_seq": "kl_max", "kl_path_max": "kl_max", "chi2_path_max": "chi2_max"}

# Axes reach beyond what is drawn, and must stay in floats.
_LARGEST_DRAWN = 1e200


def _profile(
    horizons: NDArray[np.float64], point: dict[str, float], settings: dict[str, Any]
) -> DivergenceProfile:
    fields: dict[str, Any] = dict(point)
    for total, token in _TOTALS.items():
        if total in point and token in point:
            fields[total] = np.minimum(point[total], horizons * point[token])
    return DivergenceProfile(T=horizons, **fields, **settings).complete()


def _usual(profile: DivergenceProfile, point: dict[str, float]) -> list[str]:
    wanted = [*_USUAL, *(key for name in point for key in _BY_FIELD.get(name, ()))]
    known = all_bounds()
    return [key for key in wanted if key in known and not known[key].missing(profile)]


def power_of_T(slope: float) -> str:
    """Write a growth: ``$T^{1.5}$``; a quarter power where the slope is within 0.03 of one."""
    if np.isinf(slope):
        return "from 0"
    quarter = round(4 * slope) / 4
    power = quarter if abs(slope - quarter) <= 0.03 else round(slope, 1)
    if power == 0:
        return "constant"
    return "$T$" if power == 1 else f"$T^{{{power:g}}}$"


def draw(data: HorizonData, ax: Axes) -> None:
    """Draw the bounds, the reward range, and each curve's name and growth at its end."""
    styles = [bound_line(c.key, c.is_paper, i) for i, c in enumerate(data.curves)]
    for curve, style in zip(data.curves, styles, strict=True):
        ax.plot(data.T, positive(curve.values), **style)
    ax.set(xscale="log", yscale="log", xlim=(data.T[0], data.T[-1]))
    ax.set_xlabel("horizon $T$ (tokens)")
    ax.set_ylabel(r"bound on $|\mathrm{Error}|$ (reward units)")
    shown = np.concatenate([positive(curve.values) for curve in data.curves])
    low, high = np.nanmin(shown), np.nanmax(shown)
    floor = max(low, data.reward_width * 1e-4)
    ax.set_ylim(min(floor, data.reward_width / 10) / 1.5, max(high, data.reward_width * 10) * 1.5)
    shade_vacuous(ax, data.reward_width)
    said = [f"{_SYMBOLS.get(name, name)} = {number(v)}" for name, v in data.point.items()]
    lines = [", ".join(said[i : i + 2]) for i in range(0, len(said), 2)]
    if not all(curve.is_paper for curve in data.curves):
        lines.append("dashed: trbounds")
    ax.set_title("\n".join(lines), loc="left")
    label_ends(
        ax,
        [
            EndLabel(f"{c.title}, {power_of_T(c.slope)}", float(c.values[-1]), **style)
            for c, style in zip(data.curves, styles, strict=True)
        ],
    )
