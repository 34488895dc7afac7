"""Formulas as text and LaTeX: what is printed is what was meant, and reads well."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy as sp
from sympy.parsing.sympy_parser import (
    convert_xor,
    implicit_multiplication,
    parse_expr,
    standard_transformations,
)

from trbounds.bounds import all_bounds
from trbounds.printing import latex, text
from trbounds.symbolic import SYMBOLS, T, gain_spread, s, shift, t

a, b, c = sp.symbols("a b c", positive=True)
delta, D = SYMBOLS["kl_max"], SYMBOLS["kl_seq"]
_READ = (*standard_transformations, implicit_multiplication, convert_xor)


def read(written: str) -> sp.Expr:
    names = {"a": a, "b": b, "c": c, "min": sp.Min, "max": sp.Max}
    return parse_expr(written, local_dict=names, transformations=_READ)


def random_expression(rng: np.random.Generator, depth: int) -> sp.Expr:
    if depth == 0:
        return [a, b, c, sp.Integer(2), sp.Integer(3), sp.Rational(1, 2)][rng.integers(6)]
    x, y = (random_expression(rng, depth - 1) for _ in range(2))
    return [x + y, x - y / 2, x * y, x / (1 + y**2), sp.sqrt(x**2 * y**2 + 1), x * sp.sqrt(2) / 2][
        rng.integers(6)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_text_can_be_read_back(seed: int) -> None:
    expr = random_expression(np.random.default_rng(seed), 3)
    point = {a: sp.Rational(3, 7), b: sp.Rational(11, 5), c: sp.Rational(13, 9)}
    back = read(text(expr)).subs(point)
    assert float(back) == pytest.approx(float(expr.subs(point)), rel=1e-12)


@pytest.mark.parametrize(
    ("expr", "written"),
    [
        (sp.sqrt((T - t) * delta / 2), "sqrt(delta (T - t)/2)"),
        (sp.sqrt(D * delta * T * (T - 1) / 2), "sqrt(D delta T (T - 1)/2)"),
        (sp.sqrt(2) / 4, "sqrt(1/2)/2"),
        (2 * sp.sqrt(2) * sp.sqrt(a), "2 sqrt(2 a)"),
        (a / sp.sqrt(b), "a/sqrt(b)"),
        (-a * b / 2, "-a b/2"),
        (sp.exp(a) - 1 - a, "exp(a) - a - 1"),
        (sp.Sum(gain_spread[t] * shift[t], (t, 1, T)), "sum_{t=1..T} TV(d_t) osc(g_t)"),
        (sp.Sum(SYMBOLS["kl_mean"][s], (s, 1, t - 1)) / 2, "(sum_{s=1..t-1} k_s)/2"),
        (
            sp.Sum(SYMBOLS["kl_mean"][t], (t, 1, T)) * sp.Sum(SYMBOLS["kl_mean"][s], (s, 1, T)),
            "(sum_{s=1..T} k_s) (sum_{t=1..T} k_t)",
        ),
        (sp.Symbol("1 - x") ** 2, "(1 - x)^2"),
        (sp.Symbol("E_mu[(rho - 1)^2]") ** 2, "E_mu[(rho - 1)^2]^2"),
        (sp.Symbol("K-D") * a, "(K-D) a"),
        (sp.Symbol("|W - 1|") * a, "|W - 1| a"),
        (sp.Le(a, b + 1, evaluate=False), "a <= b + 1"),
        (sp.Eq(a, b, evaluate=False), "a = b"),
        (sp.Min(1, a), "min(1, a)"),
    ],
)
def test_forms(expr: sp.Expr, written: str) -> None:
    assert text(expr) == written


def test_latex_keeps_the_blanks_of_prose() -> None:
    written = latex(sp.Symbol("E[Delta | i sampled from q] to order s^2"))
    assert written == r"\mathbb{E} [\Delta  | i\text{ sampled from }q]\text{ to order }s^2"


def test_latex_subscripts_words_as_a_whole() -> None:
    written = latex(sp.Symbol("TV(P_pruned,P_full) <= E_mu[x]"))
    assert written == (
        r"\mathrm{TV}(P_{\mathrm{pruned}},P_{\mathrm{full}}) \le  \mathbb{E} _{\mu}[x]"
    )


def test_latex_draws_roots_together() -> None:
    assert latex(sp.sqrt((T - t) * delta / 2)) == r"\sqrt{\frac{\delta \left(T - t\right)}{2}}"


@pytest.mark.parametrize("key", all_bounds())
def test_statements_are_fit_for_markdown(key: str) -> None:
    written = latex(all_bounds()[key].statement().value)
    assert not re.search(r"\\[{}, _*]", written)
    assert written.count("{") == written.count("}")
    assert written.count(r"\left") == written.count(r"\right")
