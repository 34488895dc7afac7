"""Sympy symbols of the theory, and statements made of them. Imports sympy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mpmath
import sympy as sp

__all__ = [
    "MEANINGS",
    "SYMBOLS",
    "Infimum",
    "Statement",
    "T",
    "error",
    "evaluate",
    "future",
    "gain",
    "gain_spread",
    "s",
    "shift",
    "t",
]

#: Horizon and positions.
T = sp.Symbol("T", integer=True, positive=True)
t = sp.Symbol("t", integer=True, positive=True)
s = sp.Symbol("s", integer=True, positive=True)

#: Abstract quantities that derivations start from.
error = sp.Symbol("|Error|", nonnegative=True)
gain = sp.IndexedBase("g", nonnegative=True)  # gain[t]: sup over contexts of |g_t|
gain_spread = sp.IndexedBase("osc_g", nonnegative=True)  # largest minus smallest value of g_t
shift = sp.IndexedBase("TV_d", nonnegative=True)  # shift[t]: TV(d_t^pi, d_t^mu)
future = sp.IndexedBase("TV_f", nonnegative=True)  # sup over contexts of TV of what follows t

#: What the abstract quantities mean.
MEANINGS: Mapping[Any, str] = {
    gain: "largest |g_t(c)|, g_t(c) = sum_y (pi - mu)(y|c) E_mu[R | c, y]",
    gain_spread: "largest minus smallest value of g_t(c) over contexts c",
    shift: "TV of the contexts c_t under pi and mu",
    future: "largest TV of the tokens after t, given c_{t+1}",
}


def _scalar(name: str) -> sp.Symbol:
    return sp.Symbol(name, nonnegative=True)


#: The symbol of each profile field, as the papers write it where they do.
SYMBOLS: Mapping[str, Any] = {
    "T": T,
    "tv_max": _scalar("epsilon"),
    "kl_max": _scalar("delta"),
    "chi2_max": _scalar("kappa"),
    "tv_mean": sp.IndexedBase("Dbar", nonnegative=True),
    "kl_mean": sp.IndexedBase("k", nonnegative=True),
    "chi2_mean": sp.IndexedBase("x", nonnegative=True),
    "chi2_position_max": sp.IndexedBase("kappa_t", nonnegative=True),
    "tv_seq": _scalar("V"),
    "kl_seq": _scalar("D"),
    "tv_total": _scalar("S_TV"),
    "chi2_total": _scalar("S_chi2"),
    "kl_position_moment": _scalar("S_k"),
    "chi2_path_max": _scalar("X"),
    "kl_path_max": _scalar("K"),
    "chi2_stop_budget": _scalar("x_stop"),
    "chi2_stop_prob": _scalar("P_stop"),
    "chi2_stop_tail": _scalar("C_stop"),
    "log_ratio_max": _scalar("r"),
    "residual_square": _scalar("Q"),
    "reward_var": _scalar("v"),
}


class Infimum(sp.Expr):  # type: ignore[misc]
    """Infimum of an expression over one real variable in an open interval.

    ``Infimum(expr, variable, lower, upper)``. Evaluated numerically by bracketing in mpmath; the
    expression must have a single local minimum in the interval, not farther than a factor e^100
    from its ends.
    """

    def __new__(cls, expr: Any, variable: Any, lower: Any, upper: Any) -> Infimum:
        """Make the expression from its four parts."""
        parts = (sp.sympify(expr), variable, sp.sympify(lower), sp.sympify(upper))
        instance: Infimum = sp.Expr.__new__(cls, *parts)
        return instance

    @property
    def bound_symbols(self) -> list[Any]:
        """The variable of the infimum."""
        return [self.args[1]]

    @property
    def free_symbols(self) -> set[Any]:
        """Symbols of the expression and the limits but the variable."""
        expr, variable, lower, upper = self.args
        free: set[Any] = expr.free_symbols - {variable} | lower.free_symbols | upper.free_symbols
        return free

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _eval_evalf(self, prec: int) -> Any:
        expr, variable, lower, upper = self.args
        with mpmath.workprec(2 * prec + 300):
            f = sp.lambdify(variable, expr, "mpmath")
            value = _minimum(f, mpmath.mpf(lower), mpmath.mpf(upper) if upper != sp.oo else None)
        return sp.Float(value, precision=prec)

    def _sympystr(self, printer: Any) -> str:
        expr, variable, lower, upper = (printer.doprint(a) for a in self.args)
        where = (
            f"{variable} > {lower}" if self.args[3] == sp.oo else f"{lower} < {variable} < {upper}"
        )
        return f"inf_{{{where}}} [{expr}]"

    def _latex(self, printer: Any) -> str:
        expr, variable, lower, upper = (printer.doprint(a) for a in self.args)
        where = f"{lower} < {variable} < {upper}"
        if self.args[3] == sp.oo:
            where = f"{variable} > {lower}"
        return rf"\inf_{{{where}}} \left[{expr}\right]"


def _minimum(f: Any, lower: Any, upper: Any) -> Any:
    """Minimum of a unimodal function by golden section in a coordinate that maps to the reals."""

    def at(z: Any) -> Any:
        grown = mpmath.exp(z)
        return lower + grown if upper is None else lower + (upper - lower) * grown / (1 + grown)

    def g(z: Any) -> Any:
        return f(at(z))

    grid = [mpmath.mpf(z) for z in range(-100, 101, 2)]
    best = min(range(len(grid)), key=lambda i: g(grid[i]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    ratio = (mpmath.sqrt(5) - 1) / 2
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    f_inner, f_outer = g(inner), g(outer)
    # The value at a minimum is known to twice the digits of its place.
    while high - low > mpmath.mpf(2) ** (-(mpmath.mp.prec - 300) / 2):
        if f_inner < f_outer:
            high, outer, f_outer = outer, inner, f_inner
            inner = high - ratio * (high - low)
            f_inner = g(inner)
        else:
            low, inner, f_inner = inner, outer, f_outer
            outer = low + ratio * (high - low)
            f_outer = g(outer)
    return min(f_inner, f_outer)


@dataclass(frozen=True)
class Statement:
    """What a theorem says: a bound says ``|Error| <= value`` for rewards in [0, 1].

    Parameters
    ----------
    value : sympy.Expr
        In the symbols of `symbols`.
    relaxed : sympy.Expr, optional
        A simpler, larger form.
    lower : sympy.Expr, optional
        Lower bound on the same quantity, where the theorem has one.
    symbols : mapping of str to sympy.Symbol
        The symbol of each field; of a profile's by default.
    """

    value: Any
    relaxed: Any = None
    lower: Any = None
    symbols: Mapping[str, Any] = field(default_factory=lambda: SYMBOLS)

    def at(self, values: Mapping[str, Any], *, digits: int = 30) -> Any:
        """Evaluate exactly defined input to many digits.

        Parameters
        ----------
        values : mapping of str to rational or sequence of rationals
            Fields (of a profile, ``T`` included; position fields as sequences of length T).
        digits : int
            Decimal digits.

        Returns
        -------
        sympy.Float
            The value.
        """
        return evaluate(self.value, values, digits=digits, symbols=self.symbols)


def evaluate(
    expr: Any,
    values: Mapping[str, Any],
    *,
    digits: int = 30,
    symbols: Mapping[str, Any] = SYMBOLS,
) -> Any:
    """Evaluate an expression in the symbols of fields (see :meth:`Statement.at`)."""
    scalars: dict[Any, Any] = {}
    entries: dict[Any, Any] = {}
    for name, value in values.items():
        symbol = symbols[name]
        if isinstance(value, Sequence) and not isinstance(value, str):
            entries |= {symbol[i + 1]: _rational(v) for i, v in enumerate(value)}
        else:
            scalars[symbol] = _rational(value)
    expanded = expr.subs({T: scalars[T]}).doit() if T in scalars else expr
    return sp.N(expanded.xreplace(entries).xreplace(scalars), digits)


def _rational(value: Any) -> Any:
    return sp.Integer(value) if isinstance(value, int) else sp.Rational(value)
