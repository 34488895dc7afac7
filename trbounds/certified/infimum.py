"""Rigorous infimum over one positive variable, by branch and bound on intervals."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any, NamedTuple

from flint import arb

from trbounds.certified.intervals import Interval, ends
from trbounds.errors import InputError

# Powers of 2 between which the search starts; beyond them the end cells are split as needed, up to
# the farthest.
_MARKS = (-1200, -32, 32, 1200)
_FARTHEST = arb(2) ** 16_000
_MOST_CELLS = 3000
# Gaps below any float are no gaps.
_NOTHING = arb(2) ** -1150

Function = Callable[[Any], Any]


class _Cell(NamedTuple):
    bound: Any
    number: int
    low: Any
    high: Any


def infimum(value: Function, slope: Function, bits: int) -> Any:
    """Enclose the infimum of a function over the positive reals, finite at 1.

    Parameters
    ----------
    value, slope : callable
        The function and its derivative, on a ball or an :class:`Interval`.
    bits : int
        Relative accuracy aimed at.

    Returns
    -------
    arb
        A ball from a proved lower bound to the value at some point. It is wide, never wrong, where
        the aim is missed.

    Raises
    ------
    InputError
        If no lower bound is found.

    Notes
    -----
    Over a cell the function is bounded from below by its interval value, by its value at one end
    where the derivative has a sign, and otherwise by the mean value form at the middle. Cells are
    halved, the most promising first.
    """
    if not value(arb(1)).is_finite():
        return arb.nan()  # the inputs need more digits
    best, settled = arb.pos_inf(), arb.pos_inf()
    waiting: list[_Cell] = []
    numbers = count()
    marks = [arb(0), *(arb(2) ** n for n in _MARKS), arb.pos_inf()]
    fresh = list(pairwise(marks))
    while fresh and next(numbers) < _MOST_CELLS:
        for low, high in fresh:
            bound, reached, is_settled = _examine(value, slope, low, high)
            best = best.min(reached)
            if is_settled:
                settled = settled.min(bound)
            else:
                heapq.heappush(waiting, _Cell(bound, next(numbers), low, high))
        fresh = []
        if waiting and not _is_near(waiting[0].bound, best, bits):
            cell = heapq.heappop(waiting)
            middle = _middle(cell.low, cell.high)
            if cell.low < middle < cell.high:
                fresh = [(cell.low, middle), (middle, cell.high)]
            else:
                settled = settled.min(cell.bound)
    least = settled.min(waiting[0].bound) if waiting else settled
    if not (least.is_finite() and best.is_finite()):
        raise InputError("found no lower bound of an infimum")
    return least.min(best).union(best)


def _is_near(bound: Any, best: Any, bits: int) -> bool:
    gap = best - bound
    return bool(gap <= _NOTHING) or bool(gap <= abs(best) * arb(2) ** -bits)


def _examine(value: Function, slope: Function, low: Any, high: Any) -> tuple[Any, Any, bool]:
    """Return a lower bound over a cell, a value reached in it, and whether splitting is useless."""
    cell = Interval(low, high)
    bound = value(cell).low
    if low == 0 or not high.is_finite():
        return bound, _upper(value(high if low == 0 else low)), False
    rise, rise_high = ends(slope(cell))
    if rise >= 0 or rise_high <= 0:
        point = value(low if rise >= 0 else high)
        return ends(point)[0].max(bound), _upper(point), True
    middle = _middle(low, high)
    point = value(middle)
    change = Interval(low - middle, high - middle) * Interval(rise, rise_high)
    return bound.max((ends(point)[0] + change.low).lower()), _upper(point), False


def _upper(point: Any) -> Any:
    return ends(point)[1]


def _middle(low: Any, high: Any) -> Any:
    """Return a point to split a cell at; one of its ends where it cannot be split."""
    if low == 0:
        return high * high if high * _FARTHEST > 1 else high
    if not high.is_finite():
        return low * low if low < _FARTHEST else low
    return ((low * high).sqrt() if high > 2 * low else (low + high) / 2).mid()
