"""How frameworks turn log-ratios into importance weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError

__all__ = ["Weights"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Limits of the importance weights.

    Parameters
    ----------
    cap : float
        Largest weight, above 0; infinity if there is no limit.
    floor : float or None
        Smallest weight, above 0 and at most `cap`; None if there is no limit.
    masks : bool
        Whether weights outside of the limits become 0, instead of being cut at them.
    clamps : bool
        Whether log-ratios are clamped to [-20, 20] first.
    drops_overflow : bool
        Whether weights that overflow float32 become 0 first.

    Raises
    ------
    InputError
        If a limit is out of range.
    """

    cap: float = math.inf
    floor: float | None = None
    masks: bool = False
    clamps: bool = False
    drops_overflow: bool = False

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise InputError(f"found {self.cap:g}, expected a number above 0", field="cap")
        if self.floor is not None and not 0 < self.floor <= self.cap:
            raise InputError(
                f"found {self.floor:g}, expected above 0 and at most the cap, {self.cap:g}",
                field="floor",
            )

    @property
    def low(self) -> float:
        """The floor; without one the inverse of the cap, below which verl counts weights."""
        return 1 / self.cap if self.floor is None else self.floor

    def applied(self, raw: Floats) -> Floats:
        """Weights as the loss has them, from those before the limits apply."""
        if self.masks:
            low = -math.inf if self.floor is None else self.floor
            return np.where((raw < low) | (raw > self.cap), 0.0, raw)
        out = np.minimum(raw, self.cap)
        return out if self.floor is None else np.maximum(out, self.floor)
