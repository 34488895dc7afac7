"""Mathematics as text and as LaTeX, the way the derivations write it. Imports sympy.

Text: ``sqrt(delta (T - t)/2)`` and ``sum_{t=1..T} 2 Dbar_t min(1, eps (T - t))``.
"""

from __future__ import annotations

import math
import re
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.printer import Printer
from sympy.printing.str import StrPrinter

__all__ = ["latex", "text"]

#: How the abstract quantities of derivations are written; an index takes the place of t.
_INDEXED_TEXT = {
    "g": "sup|g_{}|",
    "osc_g": "osc(g_{})",
    "TV_d": "TV(d_{})",
    "TV_f": "TV(f_{})",
    "E_h2": "E_mu[h_{}^2]",
    "kappa_t": "kappa_{}",
}
_INDEXED_LATEX = {
    "g": r"\sup|g_{{{}}}|",
    "osc_g": r"\mathrm{{osc}}(g_{{{}}})",
    "TV_d": r"\mathrm{{TV}}(d_{{{}}})",
    "TV_f": r"\mathrm{{TV}}(f_{{{}}})",
    "E_h2": r"\mathbb{{E}}_\mu[h_{{{}}}^2]",
    "kappa_t": r"\kappa_{{{}}}",
    "Dbar": r"\bar D_{{{}}}",
}
_SYMBOL_TEXT = {"epsilon": "eps"}
_SYMBOL_LATEX = {
    "epsilon": r"\varepsilon",
    "S_TV": r"S_{\mathrm{TV}}",
    "S_chi2": r"S_{\chi^2}",
    "S_k": "S_k",
    "x_stop": r"x_{\mathrm{stop}}",
    "P_stop": r"P_{\mathrm{stop}}",
    "C_stop": r"C_{\mathrm{stop}}",
}
_GREEK = (
    "rho",
    "mu",
    "pi",
    "tau",
    "phi",
    "lambda",
    "beta",
    "eta",
    "eps",
    "delta",
    "kappa",
    "theta",
    "Delta",
)
_WORDS = {
    **{name: "\\" + name for name in _GREEK},
    "chi": r"\chi^2",
    "eps": r"\varepsilon",
    "sum": r"\sum",
    "prod": r"\prod",
    "sup": r"\sup",
    "log": r"\log",
    "E": r"\mathbb{E}",
}


def text(expr: Any) -> str:
    """Write an expression or a relation as text.

    Parameters
    ----------
    expr : sympy expression
        With the symbols of :mod:`trbounds.symbolic` or any others.

    Returns
    -------
    str
        One line: roots drawn together, sums with their range, positive terms first.
    """
    return str(_Text().doprint(expr))


def latex(expr: Any) -> str:
    """Write an expression or a relation as LaTeX, for math mode.

    Parameters
    ----------
    expr : sympy expression
        With the symbols of :mod:`trbounds.symbolic` or any others.

    Returns
    -------
    str
        Free of the backslash escapes of punctuation that Markdown would take for its own.
    """
    out = str(_Latex().doprint(expr))
    for mark, safe in ((r"\{", r"\lbrace "), (r"\}", r"\rbrace "), (r"\,", " "), (r"\ ", " ")):
        out = out.replace(mark, safe)
    return out


def _factors(expr: Any) -> tuple[Any, list[Any], list[Any], Any, Any]:
    """Split a product: its coefficient, factors above and below the line, and both roots.

    All roots on one side are drawn together, and the root of a number takes what it can from the
    denominator: ``sqrt(2) sqrt(a) sqrt(b)/2`` is ``sqrt(a b/2)``. A root is None where there is
    none.
    """
    coefficient, factors = expr.as_coeff_mul()
    if not coefficient.is_Rational:
        coefficient, factors = sp.Integer(1), expr.args
    above: list[Any] = []
    below: list[Any] = []
    roots: tuple[list[Any], list[Any]] = ([], [])
    for factor in factors:
        base, exponent = (factor, sp.Integer(1))
        if isinstance(factor, sp.Pow):
            base, exponent = factor.args
        if not exponent.is_Rational:
            above.append(factor)
            continue
        side, size = (above if exponent > 0 else below), abs(exponent)
        if size.q == 2:
            roots[0 if exponent > 0 else 1].append(base)
            size -= sp.Rational(1, 2)
        if size:
            side.append(base**size)
    number = math.prod(int(part) for part in roots[0] if part.is_Integer)
    shared = math.gcd(number, int(coefficient.q))
    over = [part for part in roots[0] if not part.is_Integer]
    if number != shared**2:
        over.insert(0, sp.Rational(number, shared**2))
    root = _product(over) if roots[0] else None
    return coefficient * shared, above, below, root, _product(roots[1]) if roots[1] else None


def _product(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else sp.Mul(*parts, evaluate=False)


def _root(radicand: Any) -> Any:
    return sp.Pow(radicand, sp.Rational(1, 2), evaluate=False)


class _PositiveFirst(Printer):  # type: ignore[misc]
    """Sums with their positive terms first."""

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> list[Any]:
        terms = super()._as_ordered_terms(expr, order=order)
        return sorted(terms, key=lambda term: bool(term.could_extract_minus_sign()))


# -- text --------------------------------------------------------------------------------------


class _Text(_PositiveFirst, StrPrinter):  # type: ignore[misc]
    """Text with products without stars."""

    def _print(self, expr: Any, **kwargs: Any) -> str:
        if isinstance(expr, sp.Indexed):  # it would print itself
            return self._indexed(expr)
        return str(super()._print(expr, **kwargs))

    def parenthesize(self, item: Any, level: int, strict: bool = False) -> str:
        loose = isinstance(item, (sp.Sum, sp.Product, sp.Derivative)) or _is_compound(item)
        if loose and level > PRECEDENCE["Add"]:
            return f"({self._print(item)})"
        return str(super().parenthesize(item, level, strict))

    def _print_Symbol(self, expr: Any) -> str:
        return _SYMBOL_TEXT.get(expr.name, str(expr.name))

    def _indexed(self, expr: Any) -> str:
        name = str(expr.base.label)
        index = ",".join(self._tight(i) for i in expr.indices)
        index = index if len(index) == 1 else f"{{{index}}}"
        return _INDEXED_TEXT.get(name, f"{name}_{{}}").format(index)

    def _tight(self, expr: Any) -> str:
        return self._print(expr).replace(" ", "")

    def _print_Relational(self, expr: Any) -> str:
        sign = "=" if isinstance(expr, sp.Eq) else expr.rel_op
        return f"{self._print(expr.lhs)} {sign} {self._print(expr.rhs)}"

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        out = ""
        for term in self._as_ordered_terms(expr, order=order):
            negative = term.could_extract_minus_sign()
            part = self.parenthesize(-term if negative else term, PRECEDENCE["Add"])
            out += f" - {part}" if negative else f" + {part}"
        return out[3:] if out.startswith(" + ") else "-" + out[3:]

    def _print_Mul(self, expr: Any) -> str:
        coefficient, above, below, root, root_below = _factors(expr)
        series = [factor for factor in above if isinstance(factor, (sp.Sum, sp.Product))]
        above = [factor for factor in above if factor not in series]
        above += [] if root is None else [_root(root)]
        below += [] if root_below is None else [_root(root_below)]
        below = [*([sp.Integer(coefficient.q)] if coefficient.q > 1 else []), *below]
        shown = [self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in above]
        if len(series) == 1 and not below:
            shown.append(self._print(series[0]))  # it reaches to the end
        else:
            shown += [self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in series]
        if abs(coefficient.p) != 1 or not shown:
            shown.insert(0, str(abs(coefficient.p)))
        out = ("-" if coefficient < 0 else "") + " ".join(shown)
        if below:
            under = " ".join(self.parenthesize(factor, PRECEDENCE["Mul"]) for factor in below)
            simple = len(below) == 1 and not isinstance(below[0], sp.Mul)
            out += f"/{under}" if simple else f"/({under})"
        return out

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        base, exponent = expr.args
        if exponent == sp.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if exponent.is_Rational and (exponent < 0 or exponent.q == 2):
            return self._print_Mul(expr)
        power = self._print(exponent)
        if not (exponent.is_Symbol or exponent.is_Integer):
            power = f"({power})"
        return f"{self.parenthesize(base, PRECEDENCE['Pow'])}^{power}"

    def _series(self, name: str, expr: Any) -> str:
        index, first, last = expr.limits[0]
        body = self._print(expr.function)
        if isinstance(expr.function, sp.Add):
            body = f"({body})"
        return f"{name}_{{{index}={self._tight(first)}..{self._tight(last)}}} {body}"

    def _print_Sum(self, expr: Any) -> str:
        return self._series("sum", expr)

    def _print_Product(self, expr: Any) -> str:
        return self._series("prod", expr)

    def _print_Derivative(self, expr: Any) -> str:
        return f"d/d{self._print(expr.variables[0])} [{self._print(expr.expr)}]"

    def _print_Min(self, expr: Any) -> str:
        return f"min({self._arguments(expr)})"

    def _print_Max(self, expr: Any) -> str:
        return f"max({self._arguments(expr)})"

    def _arguments(self, expr: Any) -> str:
        ordered = sorted(expr.args, key=lambda a: (not a.is_Number, len(str(a)), str(a)))
        return ", ".join(self._print(a) for a in ordered)


def _is_compound(item: Any) -> bool:
    """Whether a symbol's name has a space or a sign outside of brackets and bars."""
    if not isinstance(item, sp.Symbol) or item.name.startswith("|"):
        return False
    depth = 0
    for mark in item.name:
        depth += (mark in "([{") - (mark in ")]}")
        if mark in " +-" and depth == 0:
            return True
    return False


# -- LaTeX -------------------------------------------------------------------------------------


class _Latex(_PositiveFirst, LatexPrinter):  # type: ignore[misc]
    """LaTeX with the names of derivations translated."""

    def _print_Symbol(self, expr: Any, style: str = "plain") -> str:
        if expr.name in _SYMBOL_LATEX:
            return _SYMBOL_LATEX[expr.name]
        if re.fullmatch(r"[A-Za-z]+\d*(_\w+)?", expr.name):
            return str(super()._print_Symbol(expr, style))
        return _translate(expr.name)

    def _print_Indexed(self, expr: Any) -> str:
        pattern = _INDEXED_LATEX.get(str(expr.base.label))
        if pattern is None:
            return str(super()._print_Indexed(expr))
        return pattern.format(",".join(self._print(i) for i in expr.indices))

    def _print_Mul(self, expr: Any) -> str:
        roots = [
            a for a in expr.args if isinstance(a, sp.Pow) and a.exp.is_Rational and a.exp.q == 2
        ]
        if not isinstance(expr, sp.Mul) or len(roots) < 2:
            return str(super()._print_Mul(expr))
        coefficient, above, below, root, root_below = _factors(expr)
        above += [] if root is None else [_root(root)]
        below += [] if root_below is None else [_root(root_below)]
        parts = [*above, *(sp.Pow(factor, -1, evaluate=False) for factor in below)]
        if coefficient != 1 or not parts:
            parts.insert(0, coefficient)
        return str(self._print(_product(parts)))


# Prose within a name, with the blanks around it.
_PROSE = "(?: (?:at|first|from|in|order|sampled|to))+ "


def _translate(name: str) -> str:
    """Translate a symbol's descriptive name, such as ``sum_t E_mu[(rho_t - 1)^2]``."""

    def word(found: re.Match[str]) -> str:
        letters = found.group()
        if letters in _WORDS:
            return _WORDS[letters] + " "
        return letters if len(letters) == 1 else rf"\mathrm{{{letters}}}"

    plain = (
        name.replace("chi2", "chi").replace("E_mu|", "E_mu |").replace("''", "^{\\prime\\prime}")
    )
    parts = re.split(rf"(\\prime|{_PROSE})", plain)
    for i, part in enumerate(parts):
        if re.fullmatch(_PROSE, part):
            parts[i] = rf"\text{{{part}}}"
        elif part != r"\prime":
            parts[i] = re.sub(r"[A-Za-z]+", word, part)
    out = "".join(parts)
    out = re.sub(r"_(\\[a-z]+(?:\{[a-z]+\})?) ?", r"_{\1}", out)
    out = out.replace(">=", r"\ge ").replace("<=", r"\le ")
    return out.strip()
