"""What pruning by min-p costs and removes, on real logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds_figures._drawing import BLUE, GREEN, VERMILION, EndLabel, label_ends, number, positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trbounds.pruning import SweepRow

NAME = "pruning"
TITLE = "Pruning by min-p: bias against the mismatch it removes, on real logits"
SIZE = (3.5, 2.7)

_NAMES = {
    "kl": ("KL", BLUE),
    "tv": ("TV", VERMILION),
    "abs_mismatch": ("|mismatch|", GREEN),
}


@dataclass(frozen=True)
class PruningData:
    """The trade over thresholds.

    Parameters
    ----------
    min_p : array
        Thresholds, increasing.
    bias, bias_error : array
        Mean TV between the pruned and the full rollout policy at one token, and its standard error.
    removed : dict of str to array
        Share of the mean ``"kl"``, ``"tv"`` and, with sampled tokens, ``"abs_mismatch"`` between
        the two policies that pruning removes; negative where it adds.
    tv : float
        Mean TV between the two policies without pruning.
    n_rows : int
        Number of contexts.
    """

    min_p: NDArray[np.float64]
    bias: NDArray[np.float64]
    bias_error: NDArray[np.float64]
    removed: dict[str, NDArray[np.float64]]
    tv: float
    n_rows: int


def data(rows: Sequence[SweepRow] | None = None) -> PruningData:
    """Collect a sweep.

    Parameters
    ----------
    rows : sequence of SweepRow, optional
        At two thresholds or more; by default a sweep over the real logits that ship with trbounds.

    Raises
    ------
    InputError
        If there are fewer than two rows, or none removes any mismatch.
    """
    if rows is None:
        from trbounds.logits import example_logits_path, read_logits
        from trbounds.pruning import SWEEP_THRESHOLDS, sweep_file

        rows = sweep_file(read_logits(example_logits_path()), SWEEP_THRESHOLDS)
    if len(rows) < 2:
        raise InputError(f"found {len(rows)} thresholds, expected at least 2", field="rows")
    ordered = sorted(rows, key=lambda row: row.min_p)
    before = ordered[0].before
    names = [name for name in _NAMES if getattr(before, name) is not None]
    bias = np.array([row.pruned_mass.value for row in ordered])
    removed = {name: np.array([row.removed(name) for row in ordered]) for name in names}
    if not any(((values > 0.0) & (bias > 0.0)).any() for values in removed.values()):
        raise InputError("no threshold removes any mismatch: nothing to draw", field="rows")
    return PruningData(
        min_p=np.array([row.min_p for row in ordered]),
        bias=bias,
        bias_error=np.array([row.pruned_mass.standard_error for row in ordered]),
        removed=removed,
        tv=before.tv.value,
        n_rows=ordered[0].n_rows,
    )


def draw(data: PruningData, ax: Axes) -> None:
    """Draw one curve per measure of the mismatch, with thresholds written along the first."""
    labels = []
    bias = positive(data.bias)
    for name, values in data.removed.items():
        title, color = _NAMES[name]
        shown = positive(values)
        known = shown[np.isfinite(shown) & np.isfinite(bias)]
        if not known.size:
            continue
        ax.errorbar(
            bias, shown, xerr=data.bias_error, color=color, marker="o", markersize=2.4, linewidth=1
        )
        labels.append(EndLabel(title, float(known[-1]), color))
    ax.set(xscale="log", yscale="log")
    low, high = ax.get_ylim()
    ax.set_ylim(low / 2, high)
    _write_thresholds(data, ax)
    ax.axvline(data.tv, color="#777777", linewidth=0.8, linestyle="--", zorder=0)
    ax.annotate(
        f"mean TV of the two\npolicies, {data.tv:.2g}",
        (data.tv, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 4),
        textcoords="offset points",
        fontsize=7,
        color="#444444",
    )
    ax.set_xlabel("bias: mean TV, pruned against full (per token)")
    ax.set_ylabel("share of the mean removed")
    ax.set_title(f"{data.n_rows} contexts; numbers: min-p", loc="left")
    label_ends(ax, labels)


def _write_thresholds(data: PruningData, ax: Axes) -> None:
    """Write min-p at the first point of each decade, below the lowest curve."""
    lowest = np.min([positive(values) for values in data.removed.values()], axis=0)
    for min_p, bias, height in zip(data.min_p, data.bias, lowest, strict=True):
        decade = np.log10(min_p)
        if abs(decade - round(decade)) < 1e-9 and np.isfinite(height) and bias > 0:
            ax.annotate(
                number(min_p),
                (bias, height),
                xytext=(3, -4),
                textcoords="offset points",
                va="top",
                fontsize=7,
                color="#444444",
            )
