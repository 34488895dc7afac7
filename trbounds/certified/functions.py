"""Sympy forms of the functions in :mod:`trbounds.certified.intervals`, and how they are found."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import sympy as sp

from trbounds.symbolic import SYMBOLS

_KLS = frozenset(SYMBOLS[name] for name in ("kl_max", "kl_mean", "kl_seq", "kl_path_max"))


class SharpTV(sp.Function):  # type: ignore[misc]
    """Largest TV that a KL allows."""

    nargs = 1


class Monotone(sp.Function):  # type: ignore[misc]
    """A function of ``intervals.FUNCTIONS``; its derivative is free of cancellation too."""

    nargs = 1
    key = ""


class _Phi(Monotone):
    key = "phi"

    def fdiff(self, argindex: int = 1) -> Any:
        x = self.args[0]
        return x / (1 + x)


class _ExpMinusOne(Monotone):
    key = "exp_minus_one"

    def fdiff(self, argindex: int = 1) -> Any:
        return sp.exp(self.args[0])


class _ExpExcess(Monotone):
    key = "exp_excess"

    def fdiff(self, argindex: int = 1) -> Any:
        return _ExpMinusOne(self.args[0])


class _OverPhi(Monotone):
    key = "over_phi"

    def fdiff(self, argindex: int = 1) -> Any:
        x = self.args[0]
        return -_OverPhi(x) * _OverPhiFall(x) / x


class _SquareOverPhi(Monotone):
    key = "square_over_phi"

    def fdiff(self, argindex: int = 1) -> Any:
        x = self.args[0]
        return _OverPhi(x) * _SquareOverPhiRise(x)


class _OverPhiFall(Monotone):
    key = "over_phi_fall"


class _SquareOverPhiRise(Monotone):
    key = "square_over_phi_rise"


class _DualExcess(Monotone):
    key = "dual_excess"

    def fdiff(self, argindex: int = 1) -> Any:
        return -_Phi(1 / self.args[0])


def stable_form(expr: Any, variable: Any, offset: Any) -> Any:
    """Rewrite what is inside an infimum without cancelling terms.

    Parameters
    ----------
    expr : sympy expression
        In `variable`.
    variable : sympy.Symbol
        The variable of the infimum.
    offset : sympy expression
        What replaces it: its lower limit plus a positive symbol.

    Returns
    -------
    sympy expression
        Of the same value. ``x - log(1+x)``, ``e^y - 1``, ``e^y - 1 - y`` and
        ``-1 - x log(1 - 1/x)`` have become functions of this module.
    """
    dual = -1 - variable * sp.log(1 - 1 / variable)
    phi = variable - sp.log(1 + variable)
    expr = expr.subs(dual, _DualExcess(variable - 1)).subs(phi, _Phi(variable))
    expr = expr.subs(variable, offset).replace(lambda e: e.is_Mul, _over_phi)
    return expr.replace(lambda e: e.is_Add, _exp_less)


def _over_phi(product: Any) -> Any:
    powers = product.as_powers_dict()
    for factor, exponent in list(powers.items()):
        if not isinstance(factor, _Phi) or not (exponent.is_Integer and exponent < 0):
            continue
        # x^q / phi(x)^p for q from p to 2p is a product of x^2/phi(x) and x/phi(x).
        x, p = factor.args[0], -exponent
        q = min(powers.get(x, 0), 2 * p)
        if q >= p:
            stable = _SquareOverPhi(x) ** (q - p) * _OverPhi(x) ** (2 * p - q)
            return product * factor**p / x**q * stable
    return product


def _exp_less(total: Any) -> Any:
    for part in total.args:
        if isinstance(part, sp.exp):
            y = part.args[0]
            rest = total - part + 1
            return _ExpExcess(y) if rest + y == 0 else _ExpMinusOne(y) + rest
    return total


def with_sharp_conversion(expr: Any) -> Any:
    """Put the sharp conversion wherever a statement has Pinsker's with its cap.

    ``min(1, sqrt(kl/2))`` becomes ``TV(kl)``, and its square ``min(1, kl/2)`` the square of that;
    further entries of the minimum stay.
    """
    if not expr.args or not expr.has(sp.Min):
        return expr
    args = [with_sharp_conversion(arg) for arg in expr.args]
    if isinstance(expr, sp.Min):
        args = [_sharp_entry(arg) for arg in args] if sp.S.One in args else args
        return sp.Min(*args, evaluate=False) if len(args) > 1 else args[0]
    return expr.func(*args)


def _sharp_entry(arg: Any) -> Any:
    degree = _degree_in_kl(arg)
    if degree == Fraction(1, 2):
        return SharpTV(2 * arg**2)
    return SharpTV(2 * arg) ** 2 if degree == 1 else arg


def _degree_in_kl(expr: Any) -> Fraction | None:
    """Power with which an expression scales when every KL does; None if it does not scale."""
    if isinstance(expr, sp.Indexed):
        return Fraction(int(expr.base in _KLS))
    if isinstance(expr, sp.Symbol):
        return Fraction(int(expr in _KLS))
    if isinstance(expr, sp.Mul):
        degrees = [_degree_in_kl(arg) for arg in expr.args]
        known = [degree for degree in degrees if degree is not None]
        return sum(known, Fraction(0)) if len(known) == len(degrees) else None
    if isinstance(expr, sp.Pow) and expr.exp.is_Rational:
        degree = _degree_in_kl(expr.base)
        return None if degree is None else degree * Fraction(int(expr.exp.p), int(expr.exp.q))
    if isinstance(expr, sp.Sum):
        return _degree_in_kl(expr.function)
    return None if expr.has(*_KLS) else Fraction(0)
