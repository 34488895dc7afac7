"""A bound's value between two ends that are proved to hold it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq

from trbounds.arrays import to_numpy
from trbounds.bound import Bound
from trbounds.certified.derived import Situation, derive_missing
from trbounds.certified.expressions import LONGEST_DIRECT_SUM, Reader
from trbounds.certified.functions import with_sharp_conversion
from trbounds.errors import InputError, no_such
from trbounds.profile import FIELDS, POSITION_FIELDS, Conversion, DivergenceProfile
from trbounds.relations import RELATIONS

_MOST_BITS = 1 << 15
# Widths below any float need no further digits.
_NOTHING = arb(2) ** -1140


@dataclass(frozen=True)
class Enclosure:
    """Two ends that hold a value, whatever rounding did.

    Parameters
    ----------
    lower, upper : float
        The ends rounded outward to floats.
    lower_text, upper_text : str
        The ends in decimal, rounded outward to 40 digits.
    ball : str
        Midpoint and radius, as arb prints them.
    working_bits : int
        Precision it was computed with.
    """

    lower: float
    upper: float
    lower_text: str
    upper_text: str
    ball: str
    working_bits: int

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def enclose(bound: Bound, profile: DivergenceProfile, *, precision: int = 100) -> Enclosure:
    """Enclose a bound's value by ball arithmetic.

    The floats of the profile stand for their exact binary values. Fields that the profile lacks,
    or that completion derived, are derived here in ball arithmetic, so that no rounding of the
    float evaluation is left. With the sharp conversion, every ``min(1, sqrt(kl/2))`` of the
    statement, and its square, is the sharp TV.

    Parameters
    ----------
    bound : Bound
        The bound; its statement is what is evaluated.
    profile : DivergenceProfile
        A single one, not a batch.
    precision : int
        Relative accuracy aimed at, in bits; the working precision rises until it is reached.

    Returns
    -------
    Enclosure
        In reward units.

    Raises
    ------
    InputError
        For a batch, a missing field, a horizon above 100,000 where the sums have no closed form,
        or a value without a finite enclosure.

    Notes
    -----
    Source: trbounds. Ball arithmetic is F. Johansson's arb, whose working precision is one for the
    whole process, and is put back afterwards: enclose in one thread at a time, or in processes.

    Examples
    --------
    >>> from trbounds import DivergenceProfile, get_bound
    >>> from trbounds.certified import enclose
    >>> found = enclose(get_bound("mixed"), DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01))
    >>> found.lower <= 8.192 <= found.upper, found.upper - found.lower < 1e-14
    (True, True)
    """
    low, high = (Fraction(r) for r in profile.reward_range)
    T = to_numpy(profile.T)
    if T.ndim:
        raise InputError("a certified value is of one profile, not of a batch", field="T")
    texts = {r.text for r in RELATIONS}
    values: dict[str, Any] = {}
    for name in profile.known:
        mark = profile.provenance[name]
        if mark.kind == "derived" and mark.by in texts:
            continue
        array = to_numpy(getattr(profile, name))
        if array.ndim != int(name in POSITION_FIELDS):
            raise InputError("a certified value is of one profile, not of a batch", field=name)
        values[name] = array.tolist()
    return enclose_values(
        bound,
        int(T),
        values,
        reward_width=high - low,
        conversion=profile.conversion,
        precision=precision,
    )


def enclose_values(
    bound: Bound,
    T: int,
    values: Mapping[str, Any],
    *,
    reward_width: Fraction = Fraction(1),
    conversion: Conversion = "pinsker",
    precision: int = 100,
) -> Enclosure:
    """Enclose a bound's value at exact fields.

    Parameters
    ----------
    bound : Bound
        The bound.
    T : int
        Horizon.
    values : mapping of str to float, Fraction, arb or a list of them
        Known fields of a profile: floats and fractions exactly, balls as they are. The others are
        derived.
    reward_width : Fraction
        Width of the reward range.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    precision : int
        Relative accuracy aimed at, in bits.

    Returns
    -------
    Enclosure
        In reward units.

    Raises
    ------
    InputError
        As for :func:`enclose`; also for what no profile takes: a field that it does not have, a
        value out of range, or a wrong number of positions.
    """
    if not (isinstance(precision, Integral) and 8 <= precision <= _MOST_BITS // 4):
        raise InputError(
            f"found {precision}, expected 8 to {_MOST_BITS // 4} bits", field="precision"
        )
    values = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in values.items()
    }
    _check(T, values, reward_width, conversion)
    if T > LONGEST_DIRECT_SUM and any(name in values for name in POSITION_FIELDS):
        raise InputError(
            f"found {T}, expected at most {LONGEST_DIRECT_SUM:,} for sums over given positions",
            field="T",
        )
    situation = Situation(int(T), reward_width, conversion)
    expression = _expression(bound, conversion)
    bits = precision + 32
    while True:
        with _working_precision(bits):
            ball = _evaluate(bound, expression, situation, values, precision)
            enough = ball.is_finite() and (
                ball.rel_accuracy_bits() >= precision or ball.rad() <= _NOTHING
            )
            if enough or bits >= _MOST_BITS:
                return _outward(ball, bits, bound)
        bits *= 2


@lru_cache(maxsize=256)
def _expression(bound: Bound, conversion: Conversion) -> Any:
    statement = bound.statement().value
    return with_sharp_conversion(statement) if conversion == "sharp" else statement


def _evaluate(
    bound: Bound, expression: Any, situation: Situation, values: Mapping[str, Any], precision: int
) -> Any:
    balls = {name: _as_ball(value) for name, value in values.items()}
    known = derive_missing(situation, balls, (*bound.requires, *bound.uses, "reward_var"))
    lacking = [name for name in bound.requires if name not in known]
    if lacking:
        raise InputError(
            f"bound '{bound.key}' needs {', '.join(lacking)}; known: {', '.join(('T', *known))}"
        )
    width = _as_ball(situation.reward_width)
    known["reward_var"] = known["reward_var"] / width**2
    return Reader({"T": situation.T, **known}, precision + 4).value(expression) * width


def _check(
    T: int, values: Mapping[str, Any], reward_width: Fraction, conversion: Conversion
) -> None:
    """Refuse what a profile of these numbers, rounded to floats, would refuse."""
    for name in values:
        if name not in FIELDS:
            raise no_such("field", name, FIELDS)
    rounded = {name: _rounded(value) for name, value in values.items()}
    width = (0.0, float(reward_width))
    DivergenceProfile(T=T, reward_range=width, conversion=conversion, **rounded)


def _rounded(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, arb):
        return float(value.mid())
    if isinstance(value, Fraction):
        largest = Fraction(sys.float_info.max)
        return float(max(min(value, largest), -largest))
    return value


def _as_ball(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_ball(v) for v in value]
    if isinstance(value, Fraction):
        return arb(fmpq(value.numerator, value.denominator))
    return arb(value)


@contextmanager
def _working_precision(bits: int) -> Iterator[None]:
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def _outward(ball: Any, bits: int, bound: Bound) -> Enclosure:
    if not ball.is_finite():
        raise InputError(f"bound '{bound.key}' has no finite enclosure at {bits} bits")
    # A bound on an absolute value is at least 0.
    lower, upper = ball.lower().max(arb(0)), ball.upper()
    return Enclosure(
        lower=_to_float(lower, up=False),
        upper=_to_float(upper, up=True),
        lower_text=_to_decimal(lower, up=False),
        upper_text=_to_decimal(upper, up=True),
        ball=ball.str(30),
        working_bits=bits,
    )


def _to_float(end: Any, *, up: bool) -> float:
    """Round an exact non-negative number to a float, up or down."""
    mantissa, exponent = (int(part) for part in end.man_exp())
    magnitude = mantissa.bit_length() + exponent
    if magnitude > 1024:
        return math.inf if up else sys.float_info.max
    if magnitude < -1080:
        return math.ulp(0.0) if up and mantissa else 0.0
    exact = Fraction(mantissa) * Fraction(2) ** exponent
    try:
        near = float(exact)
    except OverflowError:
        return math.inf if up else sys.float_info.max
    if up:
        return near if Fraction(near) >= exact else math.nextafter(near, math.inf)
    return near if Fraction(near) <= exact else math.nextafter(near, 0.0)


def _to_decimal(end: Any, *, up: bool) -> str:
    """Write an exact non-negative number with 40 digits, rounded up or down."""
    if end == 0:
        return "0"
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    shift = int((end.log() / arb(10).log()).mid().floor().unique_fmpz())
    with _working_precision(256):
        scaled = end / arb(10) ** shift
        mantissa, exponent = (scaled.upper() if up else scaled.lower()).man_exp()
    # m 2^-n = m 5^n 10^-n, exactly.
    exact = Decimal(int(mantissa) * 5 ** -int(exponent)) if exponent < 0 else Decimal(int(mantissa))
    wide = Context(prec=1000, Emax=MAX_EMAX, Emin=MIN_EMIN)
    exact = exact.scaleb(min(int(exponent), 0) + shift, wide)
    return str(Context(prec=40, rounding=rounding, Emax=MAX_EMAX, Emin=MIN_EMIN).plus(exact))
