"""Intervals with extended-real ends, and the cancelling functions of the theory on them.

Ball arithmetic is made for narrow balls. To bound a function from below over a wide range, the
ends are carried separately here, and may be infinite; arb rounds each of them outward. Functions
such as ``exp(x) - 1 - x``, whose terms cancel, are monotone: they are evaluated at the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flint import arb, ctx

_INF = arb.pos_inf()
# Beyond this argument exp is taken as "larger than there", since arb's exponents end.
_LARGE = arb(2) ** 40


class Interval:
    """A set of reals between two ends, each an exact arb or infinite.

    Parameters
    ----------
    low, high : arb
        The ends; taken outward when they are balls.
    """

    __slots__ = ("high", "low")

    def __init__(self, low: Any, high: Any) -> None:
        self.low = -_INF if low.is_nan() else low.lower()
        self.high = _INF if high.is_nan() else high.upper()

    def __add__(self, other: Any) -> Interval:
        low, high = ends(other)
        return Interval(self.low + low, self.high + high)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Interval:
        low, high = ends(other)
        if self.low >= 0 and low >= 0:
            return Interval(_times(self.low, low), _times(self.high, high))
        corners = [_times(a, b) for a in (self.low, self.high) for b in (low, high)]
        return Interval(_least(corners), -_least([-c for c in corners]))

    __rmul__ = __mul__


def ends(value: Any) -> tuple[Any, Any]:
    """Return both ends of an interval or a ball."""
    if isinstance(value, Interval):
        return value.low, value.high
    return (-_INF, _INF) if value.is_nan() else (value.lower(), value.upper())


def _least(values: list[Any]) -> Any:
    least = values[0]
    for value in values[1:]:
        least = least.min(value)
    return least


def _times(a: Any, b: Any) -> Any:
    # An infinite end stands for "as large as you like", so that 0 times it is 0.
    return a * 0 if a == 0 else b * 0 if b == 0 else a * b


def smaller(a: Any, b: Any) -> Any:
    """Minimum of two balls or intervals."""
    if isinstance(a, Interval) or isinstance(b, Interval):
        (low, high), (other_low, other_high) = ends(a), ends(b)
        return Interval(low.min(other_low), high.min(other_high))
    return a.min(b)


def exponential(x: Any) -> Any:
    """Exponential of a ball or an interval."""
    if not isinstance(x, Interval):
        return x.exp()
    return Interval(x.low.min(_LARGE).exp(), x.high.exp() if x.high <= _LARGE else _INF)


def logarithm(x: Any) -> Any:
    """Logarithm of a ball or an interval; minus infinity at 0."""
    if not isinstance(x, Interval):
        return x.log()
    return Interval(*(e.log() if e > 0 else -_INF for e in (x.low, x.high)))


def power(x: Any, p: int, q: int = 1) -> Any:
    """Power ``p/q`` of a ball or an interval, in lowest terms with ``q > 0``.

    Under a root the value is known to be non-negative, since a statement is real: the negative
    part of a ball, which rounding alone can produce, is cut off.
    """
    if not isinstance(x, Interval):
        return x**p if q == 1 else _root(x.nonnegative_part(), p, q)
    if p < 0:
        return _inverse(power(x, -p, q))
    if q == 1 and p % 2 == 0 and x.low < 0:
        size = smaller(-x.low, -x.high) if x.high < 0 else x.low * 0
        return Interval(size**p, (-x.low).max(x.high) ** p)
    low = x.low * 0 if q != 1 and x.low < 0 else x.low
    return Interval(_root(low, p, q), _root(x.high, p, q))


def _root(x: Any, p: int, q: int) -> Any:
    if q == 1:
        return x**p
    return x.sqrt() ** p if q == 2 else (x.log() * p / q).exp()


def _inverse(x: Interval) -> Interval:
    if x.low > 0 or x.high < 0:
        return Interval(1 / x.high, 1 / x.low)
    if x.low == 0 and x.high > 0:
        return Interval(1 / x.high, _INF)
    return Interval(-_INF, _INF)


# -- monotone functions whose terms cancel -----------------------------------------------------


def _boosted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Evaluate at a point with the digits that cancellation near 0 or infinity eats."""

    def at(x: Any) -> Any:
        mantissa, exponent = x.man_exp()
        lost = 2 * abs(int(exponent) + int(mantissa).bit_length()) + 32
        with ctx.workprec(ctx.prec + min(lost, 20_000)):
            value = function(x)
        return +value

    return at


def _phi(x: Any) -> Any:
    return x - x.log1p()


def _elasticity(x: Any) -> Any:
    # d log phi / d log x.
    return x * x / ((1 + x) * _phi(x))


#: Each function for x > 0: its value at a point, its limits at 0 and at infinity. All are
#: monotone, phi'(x) = x/(1+x) and (e^x - 1 - x)' = e^x - 1 being positive. The others follow from
#: phi(x)/x^2 = int_0^1 s/(1+xs) ds, which decreases from 1/2 to 0; phi(x)/x = int_0^1 xs/(1+xs) ds,
#: which increases from 0 to 1; (1+x) phi(x)/x^2 = int_0^1 s (1+x)/(1+xs) ds, which increases from
#: 1/2 to 1 and is 1 over d log phi / d log x; and (1+y) log(1+y)/y - 1, which increases in
#: y = 1/x by its derivative phi(y)/y^2.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "phi": (_boosted(_phi), arb(0), _INF),
    "exp_excess": (_boosted(lambda x: x.expm1() - x), arb(0), _INF),
    "exp_minus_one": (lambda x: x.expm1(), arb(0), _INF),
    "square_over_phi": (_boosted(lambda x: x * x / _phi(x)), arb(2), _INF),
    "over_phi": (_boosted(lambda x: x / _phi(x)), _INF, arb(1)),
    "square_over_phi_rise": (_boosted(lambda x: 2 - _elasticity(x)), arb(0), arb(1)),
    "over_phi_fall": (_boosted(lambda x: _elasticity(x) - 1), arb(1), arb(0)),
    "dual_excess": (_boosted(lambda x: (1 + x) * (1 / x).log1p() - 1), _INF, arb(0)),
}


def apply(name: str, x: Any) -> Any:
    """Evaluate one of `FUNCTIONS` on a ball or an interval of non-negative numbers."""
    function, at_zero, at_infinity = FUNCTIONS[name]

    def at(end: Any) -> Interval:
        if end <= 0:
            return Interval(at_zero, at_zero)
        if name.startswith("exp") and end > _LARGE:
            return Interval(function(_LARGE), _INF)
        value = at_infinity if end == _INF else function(end)
        return Interval(value, value)

    low, high = ends(x)
    first, last = at(low), at(high)
    if at_zero > at_infinity:
        first, last = last, first
    if isinstance(x, Interval):
        return Interval(first.low, last.high)
    hull = first.low.union(last.high)
    return hull if hull.is_finite() else arb.nan()
