"""Evaluate every bound that a set of divergences allows."""

from __future__ import annotations

import math
from typing import Any

from trbounds.bound import Assessment
from trbounds.bounds import all_bounds
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile
from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    Horizon,
    RewardRange,
    make_profile,
    profile_options,
)
from trbounds_cli.output import number, print_json, print_table, yes_no


@profile_options
def command(
    T: Horizon,
    known: dict[str, float],
    reward_range: RewardRange = (0.0, 1.0),
    conversion: ConversionOption = "pinsker",
    json: AsJson = False,
) -> None:
    """Evaluate every bound on |Error| that what is known allows, smallest first.

    A bound is *informative* below the width of the reward range, and *can certify* improvement
    only below the largest surrogate gain that the sequence KL allows.

    Example: `trbounds bound --T 4096 --kl-max 1e-4 --kl-seq 0.01`
    """
    if not known:
        raise InputError("no divergence given: give at least one, such as --kl-max 1e-4")
    show(make_profile(T, known, reward_range, conversion), as_json=json)


def show(profile: DivergenceProfile, *, as_json: bool) -> None:
    """Evaluate and print every bound that a profile allows."""
    completed = profile.complete()
    found = [b.assess(completed) for b in all_bounds().values() if not b.missing(completed)]
    if not found:
        raise InputError(f"no bound can be evaluated from {', '.join(profile.known)} alone")
    best = min(found, key=lambda a: a.value)
    if as_json:
        print_json(
            {
                "profile": completed.to_dict(),
                "bounds": [as_document(a) for a in found],
                "best": {"key": best.bound.key, "value": best.value},
            }
        )
        return
    print_table(
        f"Bounds on |Error|, T = {int(completed.T)}, smallest first",
        ["bound", "value>", "centred>", "informative", "can certify", "status", "source"],
        [
            [
                a.bound.key,
                number(a.value),
                number(a.centred_value),
                yes_no(a.informative),
                yes_no(a.can_certify),
                "plug-in" if a.plug_in else "exact input",
                str(a.bound.source),
            ]
            for a in sorted(found, key=lambda a: (math.isinf(a.value), a.value))
        ],
        [
            f"best: {best.bound.key} = {number(best.value)}",
            "derived: "
            + "; ".join(m.by for m in completed.provenance.values() if m.kind == "derived"),
        ],
    )


def as_document(a: Assessment) -> dict[str, Any]:
    """Return an assessment as the JSON that ``trbounds bound --json`` prints."""
    relaxed = a.bound.relaxed
    return {
        "key": a.bound.key,
        "value": a.value,
        "source": str(a.bound.source),
        "kind": a.bound.kind.value,
        "informative": bool(a.informative),
        "can_certify": None if a.can_certify is None else bool(a.can_certify),
        "centred_value": a.centred_value,
        "status": "plug-in" if a.plug_in else "exact input",
        **(
            {}
            if relaxed is None
            else {"relaxed_value": a.relaxed_value, "relaxed_form": relaxed.text}
        ),
    }
