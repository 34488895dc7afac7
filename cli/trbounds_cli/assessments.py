"""Bounds at one profile, as a table and as JSON; certified values where they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trbounds.bound import Assessment
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_cli.output import number, print_table, yes_no

if TYPE_CHECKING:
    from trbounds.certified import Enclosure

#: Enclosures by the bound's key; None where there is no finite one.
Enclosures = Mapping[str, "Enclosure | None"]

CERTIFIED_NOTE = (
    "certified: the bound's exact value at these inputs lies between the two ends (ball arithmetic)"
)


def certify_all(found: Iterable[Assessment], profile: DivergenceProfile) -> Enclosures:
    """Enclose the value of every bound; needs the extra ``certified``."""
    from trbounds.certified import enclose
    from trbounds_cli.progress import track

    enclosures: dict[str, Enclosure | None] = {}
    for a in track(list(found), "certified arithmetic"):
        try:
            enclosures[a.bound.key] = enclose(a.bound, profile)
        except InputError:
            # An infinite value has no finite enclosure.
            if math.isfinite(a.value):
                raise
            enclosures[a.bound.key] = None
    return enclosures


def smallest(found: Iterable[Assessment]) -> Assessment:
    """Return the assessment with the smallest value."""
    return min(found, key=lambda a: float(a.value))


def assessment_document(a: Assessment, enclosures: Enclosures | None = None) -> dict[str, Any]:
    """Return an assessment as JSON.

    With enclosures, ``enclosure`` holds the two ends as decimal strings, rounded outward.
    """
    document = {
        "key": a.bound.key,
        "value": a.value,
        "source": str(a.bound.source),
        "kind": a.bound.kind.value,
        "informative": bool(a.informative),
        "can_certify": None if a.can_certify is None else bool(a.can_certify),
        "centred_value": a.centred_value,
        "status": "plug-in" if a.plug_in else "exact input",
    }
    if a.bound.relaxed is not None:
        document |= {"relaxed_value": a.relaxed_value, "relaxed_form": a.bound.relaxed.text}
    if enclosures is not None:
        found = enclosures[a.bound.key]
        document["enclosure"] = None if found is None else [found.lower_text, found.upper_text]
    return document


def profile_document(
    completed: DivergenceProfile, found: list[Assessment], enclosures: Enclosures | None = None
) -> dict[str, Any]:
    """Return a profile, its bounds and the best of them as JSON."""
    best = smallest(found)
    return {
        "profile": completed.to_dict(),
        "bounds": [assessment_document(a, enclosures) for a in found],
        "best": {"key": best.bound.key, "value": best.value},
    }


def print_assessments(
    completed: DivergenceProfile, found: list[Assessment], enclosures: Enclosures | None = None
) -> None:
    """Write bounds as a table, smallest first."""
    best = smallest(found)
    marks = completed.provenance.values()
    derived = "; ".join(dict.fromkeys(m.by for m in marks if m.kind == "derived"))
    notes = [f"best: {best.bound.key} = {number(best.value)}", f"derived: {derived}"]
    if enclosures is not None:
        notes.append(CERTIFIED_NOTE)
    last = "source" if enclosures is None else "certified>"
    print_table(
        f"Bounds on |Error|, T = {int(completed.T)}, smallest first",
        ["bound", "value>", "centred>", "informative", "can certify", "status", last],
        [
            [
                a.bound.key,
                number(a.value),
                number(a.centred_value),
                yes_no(a.informative),
                yes_no(a.can_certify),
                "plug-in" if a.plug_in else "exact input",
                str(a.bound.source)
                if enclosures is None
                else enclosure_text(enclosures[a.bound.key]),
            ]
            for a in sorted(found, key=lambda a: (math.isinf(a.value), a.value))
        ],
        notes,
    )


def enclosure_text(enclosure: Enclosure | None) -> str:
    """Write an enclosure for people: both ends with 17 digits, rounded outward."""
    if enclosure is None:
        return "-"
    return f"[{enclosure.lower!r}, {enclosure.upper!r}]"
