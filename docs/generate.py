"""Regenerate what in ``docs/`` is computed: the tables of theory.md, and derivations.md.

Usage: ``python docs/generate.py`` writes the files; ``--check`` only says whether they are up to
date (exit code 1 if not).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from trbounds.bound import Bound
from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds.printing import latex
from trbounds.profile import DivergenceProfile
from trbounds.rendering import all_theorems, as_document, render_all
from trbounds.solve import certifiable_radius
from trbounds_paper_checks import Result, Verdict, run_checks

DOCS = Path(__file__).resolve().parent
TIGHTNESS = DOCS.parent / "trbounds" / "data" / "tightness.json"
HORIZON, TOKEN_KL, SEQUENCE_KL = 4096, 1e-4, 0.01


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _needs(bound: Bound) -> str:
    return ", ".join(f"`{name}`" for name in bound.requires)


def _statement(bound: Bound) -> str:
    if bound.key == "unified":
        return "the smallest of the bounds above from `pinsker_marginal` on"
    return f"${latex(bound.statement().value)}$"


def _bounds(of_papers: bool) -> list[Bound]:
    return [bound for bound in all_bounds().values() if bound.source.is_paper == of_papers]


def paper_bounds() -> str:
    """Statements of the papers' bounds."""
    rows = [
        (f"`{b.key}`", _statement(b), f"$T^{{{b.growth:g}}}$", _needs(b), b.source.work)
        for b in _bounds(of_papers=True)
    ]
    return _table(("bound", "error at most", "growth", "needs", "source"), rows)


def our_bounds() -> str:
    """Statements of the sharper bounds."""
    rows = [
        (f"`{b.key}`", _statement(b), f"$T^{{{b.growth:g}}}$", _needs(b))
        for b in _bounds(of_papers=False)
    ]
    return _table(("bound", "error at most", "growth", "needs"), rows)


def headline() -> str:
    """Values at the papers' point, from KL alone and with chi2 and path sums."""
    known: dict[str, Any] = {"T": HORIZON, "kl_max": TOKEN_KL, "kl_seq": SEQUENCE_KL}
    profiles = (
        DivergenceProfile(**known),
        DivergenceProfile(**known, chi2_max=2 * TOKEN_KL),
        DivergenceProfile(**known, kl_path_max=2 * SEQUENCE_KL, chi2_path_max=4 * SEQUENCE_KL),
    )
    rows = []
    for bound in all_bounds().values():
        cells = [_value(bound, profile) for profile in profiles]
        if any(cells):
            rows.append((f"`{bound.key}`", *cells))
    head = ("bound", "KL alone", "and chi2 at most 2e-4", "and path sums: KL 0.02, chi2 0.04")
    return _table(head, rows)


def _value(bound: Bound, profile: DivergenceProfile) -> str:
    """Value of a bound: bold where informative, ticked where it can certify."""
    try:
        assessment = bound.assess(profile)
    except InputError:  # the profile lacks what it needs
        return ""
    value = f"{assessment.value:.4g}"
    if assessment.informative:
        value = f"**{value}**"
    return f"{value} ✓" if assessment.can_certify else value


def radius() -> str:
    """Certifiable radius of every bound in a uniform profile."""
    found = []
    for bound in all_bounds().values():
        try:
            found.append((certifiable_radius(bound, HORIZON), bound))
        except InputError:  # needs what a uniform profile does not give
            continue
    best_of_papers = max(value for value, bound in found if bound.source.is_paper)
    rows = [
        (
            f"`{bound.key}`",
            _radius(value),
            f"{value / best_of_papers:.3g}" if 0 < value < math.inf else "",
            "papers" if bound.source.is_paper else "trbounds",
        )
        # By what is printed: bounds that coincide differ in the last bit.
        for value, bound in sorted(found, key=lambda p: (-float(f"{p[0]:.4g}"), p[1].rank))
    ]
    return _table(("bound", "token KL", "against the papers' best", "source"), rows)


def _radius(value: float) -> str:
    if value == 0:
        return "never"
    return "always" if value == math.inf else f"{value:.4g}"


def tightness() -> str:
    """Largest |Error| / bound that the adversarial search has found."""
    searched = {}
    if TIGHTNESS.exists():
        from trbounds.oracle.tightness import load_tightness

        searched = {found.key: found for found in load_tightness(os.fspath(TIGHTNESS))}
    rows = []
    for bound in all_bounds().values():
        found = searched.get(bound.key)
        attained = "yes" if bound.attained is not None else ""
        if found is None:
            rows.append((f"`{bound.key}`", attained, "", ""))
            continue
        centred = f"{found.centred_ratio:.4f}" if bound.halves else ""
        rows.append((f"`{bound.key}`", attained, f"{found.ratio:.4f}", centred))
    return _table(("bound", "attained", "largest ratio found", "against its half"), rows)


@cache
def results() -> list[Result]:
    """Every claim of the papers, judged."""
    return run_checks()


def claims(verdict: Verdict) -> str:
    """The papers' claims with one verdict, and what is true instead."""
    head = ("where", "claim", "printed", "what was found", "what is true")
    rows = []
    for result in results():
        if result.verdict is verdict:
            claim = result.claim
            printed = result.printed if result.entries else ""
            where = f"{claim.paper}, {claim.place}"
            cells = (where, claim.text, printed, result.ours, result.true_form)
            rows.append([cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells])
    filled = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return _table([head[i] for i in filled], [[row[i] for i in filled] for row in rows])


TABLES: dict[str, Callable[[], str]] = {
    "paper-bounds": paper_bounds,
    "our-bounds": our_bounds,
    "headline": headline,
    "radius": radius,
    "tightness": tightness,
    "refuted": lambda: claims(Verdict.REFUTED),
    "rounding": lambda: claims(Verdict.ROUNDING),
}


def fill(text: str) -> str:
    """Replace what stands between the markers ``<!-- generated: NAME -->`` and ``<!-- end -->``."""

    def table(found: re.Match[str]) -> str:
        return f"{found['start']}\n{TABLES[found['name']]()}\n<!-- end -->"

    pattern = r"(?P<start><!-- generated: (?P<name>[\w-]+) -->).*?<!-- end -->"
    return re.sub(pattern, table, text, flags=re.DOTALL)


def derivations() -> str:
    """Every derivation, each lemma once."""
    documents = [as_document(theorem) for theorem in all_theorems().values()]
    intro = (
        "# Derivations\n\n"
        "Generated by `make docs` from `trbounds derive --all --format markdown`: what is printed "
        "here was checked when it was written. Each step says how. *identity*: sympy reduces the "
        "difference to zero. *sign*: the difference equals the form shown, whose sign is plain. "
        "*enumeration*: an identity of polynomials, expanded for the sizes named; the reason given "
        "beside it carries it to all sizes. *lemma*: an instance of a lemma, itself proved "
        "below. What needs an assumption says so. The checks are of steps; that the steps prove "
        "the statement is for the reader, and tests evaluate both sides of every lemma on exact "
        "policy pairs. [theory.md](theory.md) explains the ideas.\n\n"
    )
    return intro + render_all(documents, "markdown")


def generate() -> dict[Path, str]:
    """Return what every generated file should contain."""
    theory = DOCS / "theory.md"
    return {
        theory: fill(theory.read_text(encoding="utf-8")),
        DOCS / "derivations.md": derivations(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if outdated")
    check = parser.parse_args(arguments).check
    outdated = 0
    for path, content in generate().items():
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        outdated += 1
        if not check:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        sys.stdout.write(f"{'outdated' if check else 'wrote'} {path.name}\n")
    return int(check and outdated > 0)


if __name__ == "__main__":
    raise SystemExit(main())
