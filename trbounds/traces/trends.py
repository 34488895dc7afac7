"""How a series moves over a run: between two levels, along a line, or along two that meet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLEAR_CHANGE = 5.0
"""Standard errors beyond which :func:`largest_change` reports a change: the best of some hundred
places to cut at reaches 3 to 4 in pure noise."""

FEWEST_STEPS = 10
"""Values that :func:`largest_change` needs: with fewer, noise passes for a change more than once
in a hundred series."""

_MOST_KNOTS = 200


@dataclass(frozen=True)
class LevelChange:
    """Where a series goes from one level to another.

    Parameters
    ----------
    step : int
        First training step of the second level.
    before, after : float
        Means of the two levels.
    z : float
        Their difference in standard errors, steps taken as independent.
    """

    step: int
    before: float
    after: float
    z: float


@dataclass(frozen=True)
class Bend:
    """Where a series begins, ceases or turns to rise or fall.

    Parameters
    ----------
    step : int
        Training step at which it does, to within some steps.
    value : float
        The fitted value there.
    slope_before, slope_after : float
        Of the two lines, per step.
    z_before, z_after : float
        The same in standard errors, steps taken as independent.
    """

    step: int
    value: float
    slope_before: float
    slope_after: float
    z_before: float
    z_after: float

    @property
    def directions(self) -> tuple[int, int]:
        """Before and after: 1 where it rises, -1 where it falls, 0 where it stays level.

        A slope is level within two standard errors, or if it is a tenth of the other or less.
        """
        steepest = max(abs(self.slope_before), abs(self.slope_after))

        def direction(slope: float, z: float) -> int:
            return 0 if abs(z) <= 2 or abs(slope) <= 0.1 * steepest else int(math.copysign(1, z))

        before = direction(self.slope_before, self.z_before)
        return before, direction(self.slope_after, self.z_after)


def largest_change(step: NDArray[np.int32], values: Floats) -> LevelChange | None:
    """Cut a series in two levels, where that explains most of its variance.

    Parameters
    ----------
    step : ndarray of int32
        Training steps, in order.
    values : ndarray
        One for each.

    Returns
    -------
    LevelChange or None
        None for fewer than :data:`FEWEST_STEPS` values, if one is not finite, if the means differ
        by less than :data:`CLEAR_CHANGE` standard errors, or if a straight line fits better: then
        it is a trend.

    Notes
    -----
    Least squares. Of several changes it is the one that explains most, and a gradual one has its
    cut near its middle.
    """
    n = values.size
    if not _can_be_judged(values):
        return None
    first, within = _two_levels(values)
    before, after = float(values[:first].mean()), float(values[first:].mean())
    if _variation_about_a_line(step, values - values.mean()) <= within:
        return None
    error = math.sqrt(within / (n - 2) * n / (first * (n - first)))
    rounding = 1e-12 * float(np.abs(values).max())
    if abs(after - before) <= max(CLEAR_CHANGE * error, rounding):
        return None
    z = (after - before) / error if error > 0 else math.copysign(math.inf, after - before)
    return LevelChange(int(step[first]), before, after, z)


def trend(step: NDArray[np.int32], values: Floats) -> float | None:
    """Fit a straight line to a series.

    Parameters
    ----------
    step : ndarray of int32
        Training steps, in order.
    values : ndarray
        One for each.

    Returns
    -------
    float or None
        The slope in its standard errors, by least squares with steps taken as independent; None
        for fewer than :data:`FEWEST_STEPS` values, if one is not finite, or if it is within
        :data:`CLEAR_CHANGE`.
    """
    n = values.size
    if not _can_be_judged(values):
        return None
    along, centred = step - step.mean(), values - values.mean()
    slope = float(along @ centred) / float(along @ along)
    error = math.sqrt(_variation_about_a_line(step, centred) / (n - 2) / float(along @ along))
    rounding = 1e-12 * float(np.abs(values).max())
    if abs(slope) * float(np.ptp(step)) <= rounding or abs(slope) <= CLEAR_CHANGE * error:
        return None
    return slope / error if error > 0 else math.copysign(math.inf, slope)


def _can_be_judged(values: Floats) -> bool:
    return values.size >= FEWEST_STEPS and bool(np.isfinite(values).all())


def _two_levels(values: Floats) -> tuple[int, float]:
    """Return where to cut into two levels, and the variation about them."""
    n = values.size
    cut = np.arange(1, n)
    sums = np.cumsum(values - values.mean())[:-1]
    first = int(np.argmax(sums**2 / (cut * (n - cut)))) + 1
    parts = values[:first], values[first:]
    return first, float(sum(np.sum((part - part.mean()) ** 2) for part in parts))


def _variation_about_a_line(step: NDArray[np.int32], centred: Floats) -> float:
    along = step - step.mean()
    rest = centred - along * (along @ centred) / (along @ along)
    return float(rest @ rest)


def bend(step: NDArray[np.int32], values: Floats) -> Bend | None:
    """Fit two lines that meet at a step, of which at most one is level and not both go one way.

    Parameters
    ----------
    step : ndarray of int32
        Training steps, in order.
    values : ndarray
        One for each.

    Returns
    -------
    Bend or None
        None for fewer than :data:`FEWEST_STEPS` values, if one is not finite, if both lines rise
        or both fall, if a slope that is not level, or the difference of the two, is within
        :data:`CLEAR_CHANGE` standard errors, or if two levels fit better.

    Notes
    -----
    Least squares, also over the steps at which the lines may meet: all but the two at either end,
    or 200 of them.
    """
    n = values.size
    if not _can_be_judged(values):
        return None
    knots = np.unique(np.linspace(2, n - 3, min(n, _MOST_KNOTS)).astype(np.int64))
    fits = [_fit_two_lines(step, values, int(knot)) for knot in knots]
    knot, lines, variation = min(fits, key=lambda fit: fit[2])
    if _two_levels(values)[1] <= variation:
        return None
    # At least what rounding leaves, where the lines fit exactly.
    error = max(math.sqrt(variation / (n - 3)), 1e-12 * float(np.abs(values).max()))
    design = _two_lines(step, knot)
    # Of the two slopes, and of their difference.
    contrasts = np.array([[0, 1, 0], [0, 0, 1], [0, -1, 1]])
    spread = np.sqrt(np.diagonal(contrasts @ np.linalg.inv(design.T @ design) @ contrasts.T))
    before, after, difference = (contrasts @ lines / (error * spread)).tolist()
    value, slope_before, slope_after = lines.tolist()
    found = Bend(int(step[knot]), value, slope_before, slope_after, before, after)
    directions = found.directions
    moving = [z for z, direction in zip((before, after), directions, strict=True) if direction]
    if directions[0] == directions[1] or min(map(abs, [*moving, difference])) <= CLEAR_CHANGE:
        return None
    return found


def _fit_two_lines(step: NDArray[np.int32], values: Floats, knot: int) -> tuple[int, Floats, float]:
    """Return the knot, the value there and both slopes, and the variation about the lines."""
    design = _two_lines(step, knot)
    lines = np.linalg.lstsq(design, values)[0]
    rest = values - design @ lines
    return knot, np.asarray(lines, dtype=np.float64), float(rest @ rest)


def _two_lines(step: NDArray[np.int32], knot: int) -> Floats:
    """Columns: 1, the steps before the knot, those after it, both counted from it."""
    along = (step - step[knot]).astype(np.float64)
    return np.stack([np.ones(along.size), np.minimum(along, 0.0), np.maximum(along, 0.0)], axis=1)
