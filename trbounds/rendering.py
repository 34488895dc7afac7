"""Derivations for readers: as text, Markdown or LaTeX, and as plain data. Imports sympy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import sympy as sp

from trbounds.bound import Bound
from trbounds.derivation import Derivation, Lemma
from trbounds.printing import latex, text
from trbounds.profile import FIELDS
from trbounds.symbolic import MEANINGS, SYMBOLS, t
from trbounds.theorem import Theorem

__all__ = ["Format", "all_theorems", "as_document", "render", "render_all", "render_check"]

Format = Literal["text", "markdown", "latex"]

#: What every derivation of a bound takes for granted.
NOTATION = (
    ("mu, pi", "the rollout policy, which samples, and the training policy"),
    ("c_t", "context of token t: the prompt x and the tokens before t; T the longest response"),
    ("rho_t", "pi(y_t|c_t)/mu(y_t|c_t); W = prod_t rho_t and M = sum_t (rho_t - 1)"),
    ("Error", "J(pi) - J(mu) - L', L' = E_mu[R M] the surrogate, R in [0, 1]"),
    ("pi << mu", "pi gives no probability to tokens that mu cannot draw"),
)


def all_theorems() -> Mapping[str, Theorem]:
    """Return whatever has a derivation, by key: bounds, laws of the mismatch, laws of pruning."""
    from trbounds import bounds, mismatch, pruning

    return {**bounds.all_bounds(), **mismatch.all_laws(), **pruning.all_laws()}


def as_document(theorem: Theorem) -> dict[str, Any]:
    """Run the derivation of a bound or a law and return it as plain data.

    Parameters
    ----------
    theorem : Theorem
        The bound or law.

    Returns
    -------
    dict
        ``key``, ``title``, ``source``, ``statement`` (the value), ``claims`` (what is said of it),
        ``assumes``, ``holds`` (every step and every lemma checked), ``steps`` and ``lemmas``, each
        step with its claim, justification and certificate, and ``notation`` and ``symbols`` with
        the meaning of each. Mathematics is given as text and as LaTeX.
    """
    derivation, value = theorem.derive(), theorem.statement().value
    steps = _steps(derivation)
    lemmas = [_lemma_document(lemma) for lemma in derivation.lemmas()]
    everything = [*steps, *(step for lemma in lemmas for step in lemma["steps"])]
    of_profile = isinstance(theorem, Bound)
    written = [value, *(step.claim for step in derivation.steps)]
    return {
        "key": theorem.key,
        "title": theorem.title,
        "source": str(theorem.source),
        "assumes": list(theorem.assumes),
        "statement": _both(value),
        "claims": [_below(value)] if of_profile else [_both(c) for c in derivation.conclusions],
        "holds": all(step["ok"] for step in everything),
        "by_reference": sum(step["method"] == "reference" for step in everything),
        "steps": steps,
        "lemmas": lemmas,
        "notation": list(theorem.notation or NOTATION),
        "symbols": _symbols(written) if of_profile else [],
    }


def _below(value: Any) -> dict[str, str]:
    written = _both(value)
    return {
        "text": f"|Error| <= {written['text']}",
        "latex": rf"|\mathrm{{Error}}| \le {written['latex']}",
    }


@cache
def _lemma_document(lemma: Lemma) -> dict[str, Any]:
    relate = sp.Le if lemma.relation == "<=" else sp.Eq
    return {
        "key": lemma.key,
        "title": lemma.title,
        "source": lemma.source,
        "assumes": lemma.assumes,
        "statement": _both(relate(lemma.left, lemma.right, evaluate=False)),
        "steps": _steps(lemma.derive()),
    }


def _symbols(claims: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the profile's and the abstract quantities in some claims, with their meanings."""
    atoms = {a for claim in claims if not isinstance(claim, str) for a in claim.atoms(sp.Symbol)}
    names = {str(atom) for atom in atoms}
    fields = [
        {"symbol": _both(_at_t(symbol)), "field": name, "meaning": FIELDS[name]}
        for name, symbol in SYMBOLS.items()
        if name in FIELDS and str(symbol) in names
    ]
    abstract = [
        {"symbol": _both(_at_t(symbol)), "field": None, "meaning": meaning}
        for symbol, meaning in MEANINGS.items()
        if str(symbol) in names
    ]
    return fields + abstract


def _at_t(symbol: Any) -> Any:
    return symbol[t] if isinstance(symbol, sp.IndexedBase) else symbol


def _both(expr: Any) -> dict[str, str]:
    if isinstance(expr, str):
        return {"text": expr, "latex": rf"\text{{{_escape(expr)}}}"}
    return {"text": text(expr), "latex": latex(expr)}


def _steps(derivation: Derivation) -> list[dict[str, Any]]:
    return [
        {
            "claim": _both(step.claim),
            "words": isinstance(step.claim, str),
            "because": step.because,
            "lemma": None if step.lemma is None else step.lemma.key,
            "ok": outcome.ok,
            "method": outcome.method,
            "certificate": outcome.detail,
        }
        for step, outcome in zip(derivation.steps, derivation.check(), strict=True)
    ]


def render(document: dict[str, Any], form: Format = "text") -> str:
    """Write one derivation, the lemmas it rests on, and what its symbols mean.

    Parameters
    ----------
    document : dict
        From :func:`as_document`.
    form : {"text", "markdown", "latex"}
        Plain text; Markdown with LaTeX between dollar signs; or a LaTeX section.

    Returns
    -------
    str
        The derivation, then the lemmas in the order in which they are needed, then the symbols.
    """
    return render_all([document], form)


def render_all(documents: Sequence[dict[str, Any]], form: Format = "text") -> str:
    """Write several derivations, each lemma once after the last of them.

    Parameters
    ----------
    documents : sequence of dict
        From :func:`as_document`.
    form : {"text", "markdown", "latex"}
        As for :func:`render`.

    Returns
    -------
    str
        The derivations, the lemmas in the order in which they are needed, and the symbols.
    """
    lemmas = {lemma["key"]: lemma for document in documents for lemma in document["lemmas"]}
    symbols = {s["symbol"]["text"]: s for document in documents for s in document["symbols"]}
    notation = list(dict.fromkeys(row for document in documents for row in document["notation"]))
    write = _WRITERS[form]
    heading = [write.heading("Lemmas")] if len(documents) > 1 else []
    parts = [
        *(write.derivation(document) for document in documents),
        *heading,
        *(write.lemma(lemma) for lemma in lemmas.values()),
        write.legend(notation, list(symbols.values())),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


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


class _Writer(NamedTuple):
    """One form: each function returns lines."""

    heading: Callable[[str], list[str]]
    derivation: Callable[[dict[str, Any]], list[str]]
    lemma: Callable[[dict[str, Any]], list[str]]
    legend: Callable[[list[tuple[str, str]], list[dict[str, Any]]], list[str]]


def _mark(step: dict[str, Any]) -> str:
    if not step["ok"]:
        return "FAILS"
    return "cited" if step["method"] == "reference" else "checked"


# -- text --------------------------------------------------------------------------------------


def _text_derivation(document: dict[str, Any]) -> list[str]:
    return [
        f"{document['title']}  ({document['key']}; {document['source']})",
        "",
        *(f"  {claim['text']}" for claim in document["claims"]),
        "",
        *(f"  assumes: {a}" for a in document["assumes"] or ["nothing of the two supports"]),
        "",
        "Derivation",
        *_text_steps(document["steps"]),
    ]


def _text_lemma(lemma: dict[str, Any]) -> list[str]:
    condition = f"  [{lemma['assumes']}]" if lemma["assumes"] else ""
    return [
        f"Lemma {lemma['key']}: {lemma['title']}  ({lemma['source']})",
        f"  {lemma['statement']['text']}{condition}",
        *_text_steps(lemma["steps"]),
    ]


def _text_legend(notation: list[tuple[str, str]], symbols: list[dict[str, Any]]) -> list[str]:
    rows = [*notation, *((s["symbol"]["text"], _meaning(s)) for s in symbols)]
    width = max(len(name) for name, _ in rows)
    return ["Symbols", *(f"  {name:{width}}  {meaning}" for name, meaning in rows)]


def _text_steps(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for i, step in enumerate(steps, 1):
        lines += [
            f"  {i}. {step['claim']['text']}",
            f"     because {step['because']}",
            f"     {_mark(step)} by {step['method']}: {step['certificate']}",
        ]
    return lines


def _meaning(symbol: dict[str, Any]) -> str:
    field = symbol["field"]
    return f"{field}: {symbol['meaning']}" if field else str(symbol["meaning"])


# -- Markdown ----------------------------------------------------------------------------------


def _markdown_derivation(document: dict[str, Any]) -> list[str]:
    return [
        f"## {document['title']} (`{document['key']}`, {document['source']})",
        "",
        *(f"$${claim['latex']}$$" for claim in document["claims"]),
        "",
        *(f"Assumes: {a}." for a in document["assumes"] or ["nothing of the two supports"]),
        "",
        *_markdown_steps(document["steps"]),
    ]


def _markdown_lemma(lemma: dict[str, Any]) -> list[str]:
    condition = ["", f"Assumes `{lemma['assumes']}`."] if lemma["assumes"] else []
    return [
        f"### Lemma `{lemma['key']}`: {_plain(lemma['title'])} ({lemma['source']})",
        "",
        f"$${lemma['statement']['latex']}$$",
        *condition,
        "",
        *_markdown_steps(lemma["steps"]),
    ]


def _markdown_legend(notation: list[tuple[str, str]], symbols: list[dict[str, Any]]) -> list[str]:
    rows = [*((f"`{name}`", meaning) for name, meaning in notation)]
    rows += [(f"${s['symbol']['latex']}$", _meaning(s)) for s in symbols]
    return [
        "### Symbols",
        "",
        "| symbol | meaning |",
        "|---|---|",
        *(f"| {_cell(name)} | {_cell(_plain(meaning))} |" for name, meaning in rows),
    ]


def _markdown_steps(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for i, step in enumerate(steps, 1):
        claim = f"`{step['claim']['text']}`" if step["words"] else f"${step['claim']['latex']}$"
        lines += [
            f"{i}. {claim}  ",
            f"   {_plain(step['because'])} — *{_mark(step)} by {step['method']}*: "
            f"`{step['certificate']}`",
        ]
    return lines


def _plain(words: str) -> str:
    """Keep Markdown from reading markup into words."""
    return "".join("\\" + mark if mark in "*_<>|$`[]" else mark for mark in words)


def _cell(words: str) -> str:
    return words.replace("\\|", "|").replace("|", r"\|")


# -- LaTeX -------------------------------------------------------------------------------------


def _latex_derivation(document: dict[str, Any]) -> list[str]:
    return [
        rf"\section{{{_escape(document['title'])} ({_escape(document['source'])})}}",
        *(rf"\[ {claim['latex']} \]" for claim in document["claims"]),
        *(rf"Assumes: {_escape(a)}." for a in document["assumes"]),
        *_latex_steps(document["steps"]),
    ]


def _latex_lemma(lemma: dict[str, Any]) -> list[str]:
    condition = [rf"Assumes: {_escape(lemma['assumes'])}."] if lemma["assumes"] else []
    return [
        rf"\subsection*{{Lemma: {_escape(lemma['title'])}}}",
        rf"\[ {lemma['statement']['latex']} \]",
        *condition,
        *_latex_steps(lemma["steps"]),
    ]


def _latex_legend(notation: list[tuple[str, str]], symbols: list[dict[str, Any]]) -> list[str]:
    rows = [(_escape(name), _escape(meaning)) for name, meaning in notation]
    rows += [(f"${s['symbol']['latex']}$", _escape(_meaning(s))) for s in symbols]
    items = [rf"\item[{name}] {meaning}" for name, meaning in rows]
    return [r"\subsection*{Symbols}", r"\begin{description}", *items, r"\end{description}"]


def _latex_steps(steps: list[dict[str, Any]]) -> list[str]:
    items = [
        rf"\item $\displaystyle {step['claim']['latex']}$ \\ {_escape(step['because'])}"
        rf" \emph{{({_mark(step)} by {step['method']})}}"
        for step in steps
    ]
    return [r"\begin{enumerate}", *items, r"\end{enumerate}"]


def _escape(words: str) -> str:
    replaced = words.replace("\\", "\0")
    for mark in "&%$#_{}":
        replaced = replaced.replace(mark, "\\" + mark)
    for mark, name in (
        ("^", "asciicircum"),
        ("~", "asciitilde"),
        ("<", "less"),
        (">", "greater"),
        ("|", "bar"),
        ("\0", "backslash"),
    ):
        replaced = replaced.replace(mark, rf"\text{name}{{}}")
    return replaced


_WRITERS = {
    "text": _Writer(
        lambda title: [title, "=" * len(title)], _text_derivation, _text_lemma, _text_legend
    ),
    "markdown": _Writer(
        lambda title: [f"## {title}"], _markdown_derivation, _markdown_lemma, _markdown_legend
    ),
    "latex": _Writer(
        lambda title: [rf"\section{{{title}}}"], _latex_derivation, _latex_lemma, _latex_legend
    ),
}
