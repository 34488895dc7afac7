"""Statements read in ball arithmetic: a sympy expression becomes a function of its indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from operator import add, mul
from typing import Any

import sympy as sp
from flint import arb, fmpq
from sympy.utilities.iterables import sift

from trbounds.certified.functions import Monotone, SharpTV, stable_form
from trbounds.certified.infimum import infimum
from trbounds.certified.intervals import apply, exponential, logarithm, power, smaller
from trbounds.certified.sharp import sharp_tv
from trbounds.certified.sums import long_sum
from trbounds.errors import InputError
from trbounds.symbolic import SYMBOLS, Infimum, T

#: Sums up to this length are added term by term.
LONGEST_DIRECT_SUM = 100_000

#: Values of the indices and variables bound by a sum or an infimum.
At = dict[Any, Any]
Compiled = Callable[[At], Any]
_NONE: frozenset[Any] = frozenset()


class _UnknownFieldError(Exception):
    """A field without a value; the reader leaves it out of a minimum."""


class Reader:
    """Reads expressions in the symbols of a profile at given values.

    Parameters
    ----------
    values : mapping of str to int, arb or list of arb
        Fields by name; ``T`` a whole number, position fields as lists.
    bits : int
        Relative accuracy aimed at in an infimum.
    """

    def __init__(self, values: Mapping[str, Any], bits: int) -> None:
        self._bits = bits
        self._infima: dict[Any, Any] = {}
        self._shared: dict[Any, Compiled] = {}
        self._scalars = {SYMBOLS[n]: v for n, v in values.items() if not isinstance(v, list)}
        self._lists = {SYMBOLS[n]: v for n, v in values.items() if isinstance(v, list)}

    def value(self, expr: Any) -> Any:
        """Enclose an expression.

        Raises
        ------
        InputError
            If a field it needs is unknown, or a form is not supported at this length.
        """
        try:
            return self._compile(expr, _NONE)({})
        except _UnknownFieldError as missing:
            raise InputError("has no value", field=str(missing)) from None

    def _compile(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        build = self._builder(expr)
        if not _free(expr) & bound:
            value = build(expr, _NONE)({})
            if not isinstance(value, int) and value.lower() < 0 and expr.is_nonnegative:
                value = value.nonnegative_part()
            return lambda at: value
        if not isinstance(expr, Monotone):
            return build(expr, bound)
        # Value and slope of an infimum share these, and they are what takes time.
        if expr not in self._shared:
            self._shared[expr] = _remembering(build(expr, bound))
        return self._shared[expr]

    def _builder(self, expr: Any) -> Callable[[Any, frozenset[Any]], Compiled]:
        for kind, name in _BUILDERS:
            if isinstance(expr, kind):
                found: Callable[[Any, frozenset[Any]], Compiled] = getattr(self, name)
                return found
        raise InputError(f"no ball arithmetic for {type(expr).__name__} in {sp.sstr(expr)}")

    # -- leaves --------------------------------------------------------------------------------

    def _number(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        value = arb(fmpq(int(expr.p), int(expr.q)))
        return lambda at: value

    def _symbol(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        if expr in bound:
            return lambda at: at[expr]
        if expr not in self._scalars:
            raise _UnknownFieldError(str(expr))
        value = self._scalars[expr]
        value = arb(value) if isinstance(value, int) else value
        return lambda at: value

    def _indexed(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        if expr.base not in self._lists:
            raise _UnknownFieldError(str(expr.base))
        entries, index = self._lists[expr.base], self._whole(expr.indices[0])
        return lambda at: entries[index(at) - 1]

    def _whole(self, expr: Any) -> Callable[[At], int]:
        """Read an index or a limit, such as ``t``, ``t - 1`` or ``T``."""
        symbol, shift = _symbol_and_shift(expr)
        if symbol is None or symbol == T:
            fixed = shift if symbol is None else shift + self._scalars[T]
            return lambda at: fixed
        return lambda at: at[symbol] + shift

    # -- arithmetic ----------------------------------------------------------------------------

    def _parts(self, expr: Any, bound: frozenset[Any]) -> list[Compiled]:
        return [self._compile(arg, bound) for arg in expr.args]

    def _add(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        parts = self._parts(expr, bound)
        return lambda at: reduce(add, [part(at) for part in parts])

    def _mul(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        # What varies comes first: an infinite end then meets each factor's own sign.
        varying, constant = sift(expr.args, lambda arg: bool(_free(arg) & bound), binary=True)
        parts = [self._compile(arg, bound) for arg in (*varying, *constant)]
        return lambda at: reduce(mul, [part(at) for part in parts])

    def _pow(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        base, exponent = self._compile(expr.base, bound), expr.exp
        if exponent.is_Rational:
            p, q = int(exponent.p), int(exponent.q)
            return lambda at: power(_real(base(at)), p, q)
        raised = self._whole(exponent)
        return lambda at: _real(base(at)) ** raised(at)

    def _min(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        parts = []
        for arg in expr.args:
            try:
                parts.append(self._compile(arg, bound))
            except _UnknownFieldError as missing:
                absent = missing
        if not parts:
            raise absent
        return lambda at: reduce(smaller, [_real(part(at)) for part in parts])

    def _function(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        argument = self._compile(expr.args[0], bound)
        if isinstance(expr, Monotone):
            key = type(expr).key
            return lambda at: apply(key, _real(argument(at)))
        function = {sp.exp: exponential, sp.log: logarithm, SharpTV: sharp_tv}[expr.func]
        return lambda at: function(_real(argument(at)))

    # -- sums and products ---------------------------------------------------------------------

    def _sum(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        ((index, first, last),) = expr.limits
        start, stop = self._whole(first), self._whole(last)
        if not _free(expr) & bound and stop({}) - start({}) >= LONGEST_DIRECT_SUM:
            for entry in expr.atoms(sp.Indexed):
                self._indexed(entry, _NONE)
            total = long_sum(expr.function, index, start({}), stop({}), self._of_constants)
            return lambda at: total
        term = self._compile(expr.function, bound | {index})
        if _free(expr.function) & bound:
            return lambda at: _total(term, at, index, start(at), stop(at))
        if not _free(first) & bound:
            return _running(term, index, lambda at: start(at), stop, 1)
        return _running(term, index, lambda at: stop(at), start, -1)

    def _of_constants(self, expr: Any) -> Any:
        return self._compile(expr, _NONE)({})

    def _product(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        ((index, first, last),) = expr.limits
        start, stop = self._whole(first), self._whole(last)
        term = self._compile(expr.function, bound | {index})
        if stop({}) - start({}) >= LONGEST_DIRECT_SUM:
            raise InputError(f"a product of more than {LONGEST_DIRECT_SUM:,} terms", field="T")

        def product(at: At) -> Any:
            value = arb(1)
            for n in range(start(at), stop(at) + 1):
                value *= _real(term({**at, index: n}))
            return value

        return product

    # -- infimum -------------------------------------------------------------------------------

    def _infimum(self, expr: Any, bound: frozenset[Any]) -> Compiled:
        inside, offset = _stable_with_slope(expr)
        value, slope = (self._compile(part, frozenset({offset})) for part in inside)
        if bound & _free(expr):
            raise InputError(f"an infimum within a sum: {sp.sstr(expr)}")
        if expr not in self._infima:
            self._infima[expr] = infimum(
                lambda x: value({offset: x}), lambda x: slope({offset: x}), self._bits
            )
        return lambda at: self._infima[expr]


_BUILDERS: tuple[tuple[Any, str], ...] = (
    (sp.Rational, "_number"),
    (sp.Symbol, "_symbol"),
    (sp.Indexed, "_indexed"),
    (sp.Add, "_add"),
    (sp.Mul, "_mul"),
    (sp.Pow, "_pow"),
    (sp.Min, "_min"),
    ((sp.exp, sp.log, Monotone, SharpTV), "_function"),
    (sp.Sum, "_sum"),
    (sp.Product, "_product"),
    (Infimum, "_infimum"),
)


@lru_cache(maxsize=4096)
def _free(expr: Any) -> frozenset[Any]:
    return frozenset(expr.free_symbols)


@lru_cache(maxsize=256)
def _symbol_and_shift(expr: Any) -> tuple[Any, int]:
    """Read ``2``, ``t`` or ``t - 1`` as a symbol, or None, plus a whole number."""
    symbol = next(iter(expr.free_symbols), None)
    shift = expr if symbol is None else expr - symbol
    if not shift.is_Integer:
        raise InputError(f"expected an index plus a whole number, found {sp.sstr(expr)}")
    return symbol, int(shift)


@lru_cache(maxsize=64)
def _stable_with_slope(expr: Any) -> tuple[tuple[Any, Any], Any]:
    """Write the inside of an infimum stably, with its derivative and the variable of both."""
    inside, variable, lower, upper = expr.args
    if upper != sp.oo or not lower.is_Integer:
        raise InputError(f"no branch and bound between {sp.sstr(lower)} and {sp.sstr(upper)}")
    offset = sp.Dummy("offset", positive=True)
    stable = stable_form(inside, variable, lower + offset)
    return (stable, sp.diff(stable, offset)), offset


def _remembering(compiled: Compiled) -> Compiled:
    """Keep the last value of a function of one variable."""
    last: list[Any] = [None, None]

    def at_last(at: At) -> Any:
        (x,) = at.values()
        if x is not last[0]:
            last[:] = x, compiled(at)
        return last[1]

    return at_last


def _real(value: Any) -> Any:
    return arb(value) if isinstance(value, int) else value


def _total(term: Compiled, at: At, index: Any, first: int, last: int) -> Any:
    return sum((term({**at, index: n}) for n in range(first, last + 1)), arb(0))


def _running(
    term: Compiled, index: Any, fixed: Callable[[At], int], moving: Callable[[At], int], step: int
) -> Compiled:
    """Sum from a fixed end to a moving one, each partial sum kept."""
    partial = [arb(0)]

    def up_to(at: At) -> Any:
        end = fixed(at)
        length = (moving(at) - end) * step + 1
        while len(partial) <= length:
            here = {index: end + step * (len(partial) - 1)}
            partial.append(partial[-1] + term(here))
        return partial[max(length, 0)]

    return up_to
