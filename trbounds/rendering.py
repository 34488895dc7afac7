"""Derivations for readers: as text, Markdown or LaTeX, and as plain data. Imports sympy."""

from __future__ import annotations

from typing import Any, Literal

import sympy as sp

from trbounds.bound import Bound
from trbounds.derivation import Derivation

__all__ = ["Format", "as_document", "render", "render_check"]

Format = Literal["text", "markdown", "latex"]


def as_document(bound: Bound) -> dict[str, Any]:
    """Run a bound's derivation and return it as plain data.

    Parameters
    ----------
    bound : Bound
        The bound.

    Returns
    -------
    dict
        ``key``, ``title``, ``source``, ``statement``, ``assumes``, ``holds`` (every step and every
        lemma checked), ``steps`` and ``lemmas``, each step with its claim, justification and
        certificate. Mathematics is given as text and as LaTeX.
    """
    derivation = bound.derive()
    lemmas: list[dict[str, Any]] = [
        {
            "key": lemma.key,
            "title": lemma.title,
            "source": lemma.source,
            "assumes": lemma.assumes,
            "statement": _both(_relation(lemma.left, lemma.relation, lemma.right)),
            "steps": _steps(lemma.derive()),
        }
        for lemma in derivation.lemmas()
    ]
    steps = _steps(derivation)
    everything = [*steps, *(step for lemma in lemmas for step in lemma["steps"])]
    return {
        "key": bound.key,
        "title": bound.title,
        "source": str(bound.source),
        "assumes": list(bound.assumes),
        "statement": _both(bound.statement().value),
        "holds": all(step["ok"] for step in everything),
        "by_reference": sum(step["method"] == "reference" for step in everything),
        "steps": steps,
        "lemmas": lemmas,
    }


def _relation(left: Any, relation: str, right: Any) -> Any:
    return (sp.Le if relation == "<=" else sp.Eq)(left, right, evaluate=False)


def _both(expr: Any) -> dict[str, str]:
    if isinstance(expr, str):
        return {"text": expr, "latex": rf"\text{{{_escape(expr)}}}"}
    return {"text": _text(expr), "latex": sp.latex(expr)}


def _text(expr: Any) -> str:
    if isinstance(expr, sp.Eq):
        return f"{sp.sstr(expr.lhs)} = {sp.sstr(expr.rhs)}"
    return str(sp.sstr(expr))


def _steps(derivation: Derivation) -> list[dict[str, Any]]:
    return [
        {
            "claim": _both(step.claim),
            "because": step.because,
            "lemma": None if step.lemma is None else step.lemma.key,
            "ok": outcome.ok,
            "method": outcome.method,
            "certificate": outcome.detail,
        }
        for step, outcome in zip(derivation.steps, derivation.check(), strict=True)
    ]


def render(document: dict[str, Any], form: Format = "text") -> str:
    """Write a derivation.

    Parameters
    ----------
    document : dict
        From :func:`as_document`.
    form : {"text", "markdown", "latex"}
        Plain text; Markdown with LaTeX between dollar signs; or a LaTeX section.

    Returns
    -------
    str
        The derivation, then the lemmas it rests on.
    """
    return {"text": _render_text, "markdown": _render_markdown, "latex": _render_latex}[form](
        document
    )


def render_check(document: dict[str, Any]) -> str:
    """Write one line on whether the derivation holds, and a line per failing step."""
    lemmas = document["lemmas"]
    groups = [(document["key"], document["steps"]), *((m["key"], m["steps"]) for m in lemmas)]
    lines = [
        f"  {where}, step {i}: {step['claim']['text']}: {step['certificate']}"
        for where, steps in groups
        for i, step in enumerate(steps, 1)
        if not step["ok"]
    ]
    count = sum(len(steps) for _, steps in groups)
    cited = document["by_reference"]
    verdict = "holds" if document["holds"] else "FAILS"
    note = f", {cited} by reference" if cited else ""
    return "\n".join([f"{verdict}  {document['key']}: {count} steps{note}", *lines])


def _mark(step: dict[str, Any]) -> str:
    if not step["ok"]:
        return "FAILS"
    return "cited" if step["method"] == "reference" else "checked"


def _render_text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['title']}  ({document['key']}; {document['source']})",
        "",
        f"  |Error| <= {document['statement']['text']}",
        "",
        *(f"  assumes: {a}" for a in document["assumes"]),
        "",
        "Derivation",
        *_text_steps(document["steps"]),
    ]
    for lemma in document["lemmas"]:
        condition = f"  [{lemma['assumes']}]" if lemma["assumes"] else ""
        lines += [
            "",
            f"Lemma {lemma['key']}: {lemma['title']}  ({lemma['source']})",
            f"  {lemma['statement']['text']}{condition}",
            *_text_steps(lemma["steps"]),
        ]
    return "\n".join(lines) + "\n"


def _text_steps(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for i, step in enumerate(steps, 1):
        lines += [
            f"  {i}. {step['claim']['text']}",
            f"     because {step['because']}",
            f"     {_mark(step)} by {step['method']}: {step['certificate']}",
        ]
    return lines


def _render_markdown(document: dict[str, Any]) -> str:
    lines = [
        f"## {document['title']} (`{document['key']}`, {document['source']})",
        "",
        rf"$$|\mathrm{{Error}}| \le {document['statement']['latex']}$$",
        "",
        *(f"Assumes: {a}." for a in document["assumes"]),
        "",
        *_markdown_steps(document["steps"]),
    ]
    for lemma in document["lemmas"]:
        condition = f" Assumes {lemma['assumes']}." if lemma["assumes"] else ""
        lines += [
            "",
            f"### Lemma `{lemma['key']}`: {lemma['title']} ({lemma['source']})",
            "",
            f"$${lemma['statement']['latex']}$${condition}",
            "",
            *_markdown_steps(lemma["steps"]),
        ]
    return "\n".join(lines) + "\n"


def _markdown_steps(steps: list[dict[str, Any]]) -> list[str]:
    return [
        f"{i}. ${step['claim']['latex']}$  \n"
        f"   {step['because']} — *{_mark(step)} by {step['method']}*: `{step['certificate']}`"
        for i, step in enumerate(steps, 1)
    ]


def _render_latex(document: dict[str, Any]) -> str:
    lines = [
        rf"\section{{{_escape(document['title'])} ({_escape(document['source'])})}}",
        rf"\[ |\mathrm{{Error}}| \le {document['statement']['latex']} \]",
        *(rf"Assumes: {_escape(a)}." for a in document["assumes"]),
        *_latex_steps(document["steps"]),
    ]
    for lemma in document["lemmas"]:
        lines += [
            rf"\subsection*{{Lemma: {_escape(lemma['title'])}}}",
            rf"\[ {lemma['statement']['latex']} \]",
            *_latex_steps(lemma["steps"]),
        ]
    return "\n".join(lines) + "\n"


def _latex_steps(steps: list[dict[str, Any]]) -> list[str]:
    items = [
        rf"\item $\displaystyle {step['claim']['latex']}$ \\ {_escape(step['because'])}"
        rf" \emph{{({_mark(step)} by {step['method']})}}"
        for step in steps
    ]
    return [r"\begin{enumerate}", *items, r"\end{enumerate}"]


def _escape(text: str) -> str:
    replaced = text.replace("\\", r"\textbackslash{}")
    for mark in "&%$#_{}":
        replaced = replaced.replace(mark, "\\" + mark)
    return replaced.replace("^", r"\^{}").replace("~", r"\~{}")
