"""List every bound: its statement, growth in T, source and needs."""

from __future__ import annotations

from typing import Any

from trbounds.bounds import all_bounds
from trbounds_cli.options import AsJson
from trbounds_cli.output import print_json, print_table


def command(json: AsJson = False) -> None:
    """List every bound on |Error|: key, statement, order in T, source and what it needs.

    Example: `trbounds bounds`
    """
    from trbounds.printing import text

    rows: list[dict[str, Any]] = [
        {
            "key": bound.key,
            "title": bound.title,
            "statement": text(bound.statement().value),
            "order": f"T^{bound.growth:g}",
            "source": str(bound.source),
            "kind": bound.kind.value,
            "requires": list(bound.requires),
            "assumes": list(bound.assumes),
        }
        for bound in all_bounds().values()
    ]
    if json:
        print_json({"bounds": rows})
        return
    print_table(
        "Bounds on |Error| for rewards in [0, 1]",
        ["key", "statement", "order", "source", "needs"],
        [
            [r["key"], r["statement"], r["order"], r["source"], ", ".join(r["requires"])]
            for r in rows
        ],
        ["order: growth in T with every other quantity fixed. Proofs: trbounds derive KEY"],
    )
