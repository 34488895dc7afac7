"""Share of sequences that a per-token rule accepts, against their length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds_figures._drawing import BLUE, GREEN, ORANGE, VERMILION, EndLabel, label_ends, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "acceptance"
TITLE = "Accepted sequences against length, when each token fails with probability p"
SIZE = (3.5, 2.3)


@dataclass(frozen=True)
class AcceptanceData:
    """Acceptance along lengths.

    Parameters
    ----------
    length : array
        Tokens per sequence.
    probability : tuple of float
        p, that a token fails.
    accepted : array of shape (len(probability), len(length))
        ``(1 - p)^length``.
    """

    length: NDArray[np.float64]
    probability: tuple[float, ...]
    accepted: NDArray[np.float64]


def data(
    longest: int = 16384, probability: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2)
) -> AcceptanceData:
    """Compute the acceptance.

    Parameters
    ----------
    longest : int
        Largest length, at least 2.
    probability : sequence of float
        Probabilities that a token fails, from 0 to below 1.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if longest < 2:
        raise InputError(f"found {longest}, expected at least 2", field="longest")
    p = np.asarray(probability, dtype=float)
    if p.size == 0 or not np.all((p >= 0) & (p < 1)):
        raise InputError(
            f"found {list(probability)}, expected values in [0, 1)", field="probability"
        )
    length = np.unique(np.round(np.geomspace(max(1, longest // 1000), longest, 200)))
    accepted = np.exp(length * np.log1p(-p)[:, None])
    return AcceptanceData(length, tuple(p.tolist()), accepted)


def draw(data: AcceptanceData, ax: Axes) -> None:
    """Draw one curve per failure probability."""
    colors = (BLUE, GREEN, ORANGE, VERMILION)
    labels = []
    for i, (p, values) in enumerate(zip(data.probability, data.accepted, strict=True)):
        color = colors[i % len(colors)]
        ax.plot(data.length, values, color=color)
        labels.append(EndLabel(f"$p$ = {number(p)}", float(values[-1]), color))
    ax.set(xscale="log", xlim=(data.length[0], data.length[-1]), ylim=(0, 1.02))
    ax.set_xlabel("sequence length $T$ (tokens)")
    ax.set_ylabel("accepted, $(1-p)^T$")
    label_ends(ax, labels)
