"""Long sums in closed form: powers of the index, capped or not, by the Hurwitz zeta function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp
from flint import arb, fmpq

from trbounds.errors import InputError

# Terms near the point where a cap begins to bind that may be added one by one.
_FEW = 64

Evaluate = Callable[[Any], Any]


def long_sum(summand: Any, index: Any, first: int, last: int, evaluate: Evaluate) -> Any:
    """Enclose a sum of any length.

    Parameters
    ----------
    summand : sympy expression
        A constant times ``1``, ``(t + q)^r`` or ``min(m, c (t + q)^r)``, or a sum of such, with
        ``r`` 1/2 or a positive whole number and q whole.
    index : sympy.Symbol
        The index t.
    first, last : int
        Its range.
    evaluate : callable
        Encloses an expression without the index.

    Returns
    -------
    arb
        The sum.

    Raises
    ------
    InputError
        If the summand has another form.

    Notes
    -----
    ``sum_{n=a}^{b} n^r = zeta(-r, a) - zeta(-r, b+1)``.
    """
    if isinstance(summand, sp.Add):
        parts = (long_sum(part, index, first, last, evaluate) for part in summand.args)
        return sum(parts, arb(0))
    constant, varying = summand.as_independent(index, as_Add=False)
    factor = evaluate(constant)
    if varying == 1:
        return factor * (last - first + 1)
    if isinstance(varying, sp.Min):
        return factor * _capped(varying, index, first, last, evaluate)
    return factor * _power_sum(*_power(varying, index), first, last)


def _power(expr: Any, index: Any) -> tuple[int, Any]:
    """Read ``(t + q)^r``."""
    base, exponent = expr.as_base_exp()
    shift = base - index
    is_power = exponent == sp.Rational(1, 2) or (exponent.is_Integer and exponent > 0)
    if not (shift.is_Integer and is_power):
        raise _unsupported(expr)
    return int(shift), exponent


def _unsupported(expr: Any) -> InputError:
    return InputError(
        f"a sum of this length is certified only where it has a closed form, and one of "
        f"{sp.sstr(expr)} has none here",
        field="T",
    )


def _power_sum(shift: int, exponent: Any, first: int, last: int) -> Any:
    low, high = max(first + shift, 1), last + shift
    if first + shift < 0:
        raise InputError("a long sum starts at a negative number", field="T")
    if high < low:
        return arb(0)
    order = -arb(fmpq(int(exponent.p), int(exponent.q)))
    return order.zeta(arb(low)) - order.zeta(arb(high + 1))


def _capped(expr: Any, index: Any, first: int, last: int, evaluate: Evaluate) -> Any:
    """Enclose a sum of ``min(m, c (t + q)^r)``, split where the cap begins to bind."""
    caps = [arg for arg in expr.args if not arg.has(index)]
    rising = [arg for arg in expr.args if arg.has(index)]
    if len(rising) != 1:
        raise _unsupported(expr)
    cap = evaluate(sp.Min(*caps))
    constant, varying = rising[0].as_independent(index, as_Add=False)
    shift, exponent = _power(varying, index)
    factor = evaluate(constant)
    if factor == 0:
        return arb(0)
    # min(m, c n^r) = c n^r up to n = (m/c)^(1/r), which lies in a ball.
    crossing = (cap / factor) ** arb(fmpq(int(exponent.q), int(exponent.p)))
    if not crossing.is_finite():
        return arb.nan()
    below = _whole(crossing.lower(), first + shift - 1, last + shift) - shift
    above = _whole(crossing.upper(), first + shift - 1, last + shift) - shift
    if above - below > _FEW:
        return arb.nan()
    total = factor * _power_sum(shift, exponent, first, below) + cap * (last - above)
    for n in range(below + 1 + shift, above + 1 + shift):
        term = factor * arb(n) ** arb(fmpq(int(exponent.p), int(exponent.q)))
        total += term.min(cap)
    return total


def _whole(value: Any, least: int, most: int) -> int:
    """Largest whole number below an exact value, kept within a range."""
    if value <= least:
        return least
    return most if value >= most else int(value.floor().unique_fmpz())
