"""Finding the papers, judging their claims, regenerating their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType

from trbounds.errors import no_such
from trbounds_paper_checks._claim import Claim, Entry, PrintedValues, Result


@dataclass(frozen=True)
class Table:
    """A paper's table, recomputed.

    Parameters
    ----------
    title : str
        Where the paper prints it.
    rows : tuple of Entry
        Each printed number beside ours.
    """

    title: str
    rows: tuple[Entry, ...]


@cache
def papers() -> Mapping[str, tuple[Claim, ...]]:
    """Return the claims of every paper, by key such as ``"trm-v2"``.

    Returns
    -------
    mapping of str to tuple of Claim
        One entry per file of this folder whose name does not start with an underscore.
    """
    names = sorted(
        m.name for m in iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_")
    )
    found: dict[str, tuple[Claim, ...]] = {}
    for name in names:
        claims: tuple[Claim, ...] = import_module(f"{__package__}.{name}").CLAIMS
        keys = [claim.key for claim in claims]
        if len(set(keys)) < len(keys):
            raise RuntimeError(f"file {name}.py uses a claim's key twice")
        found[name.replace("_", "-")] = claims
    return MappingProxyType(found)


def _claims_of(paper: str) -> tuple[Claim, ...]:
    if paper not in papers():
        raise no_such("paper", paper, papers(), field="paper")
    return papers()[paper]


def run_checks(only: Iterable[str] | None = None) -> list[Result]:
    """Judge the claims.

    Parameters
    ----------
    only : iterable of str, optional
        Keys of papers; all by default.

    Returns
    -------
    list of Result
        Paper by paper, in the order of the files. A result whose ``as_recorded`` is false is a
        failure.

    Raises
    ------
    InputError
        If there is no such paper.
    """
    chosen = [_claims_of(paper) for paper in (papers() if only is None else only)]
    return [claim.judge() for claims in chosen for claim in claims]


def tables(paper: str) -> list[Table]:
    """Recompute a paper's tables.

    Parameters
    ----------
    paper : str
        Key of the paper, such as ``"trm-v2"``.

    Returns
    -------
    list of Table
        In the order of the paper's file. Numbers printed outside of tables are grouped by place.

    Raises
    ------
    InputError
        If there is no such paper.
    """
    rows: dict[str, list[Entry]] = {}
    for claim in _claims_of(paper):
        if isinstance(claim, PrintedValues):
            rows.setdefault(claim.place, []).extend(claim.judge().entries)
    return [Table(title, tuple(entries)) for title, entries in rows.items()]
