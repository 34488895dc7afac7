"""Regenerate the papers' tables beside the printed values."""

from __future__ import annotations

from typing import Annotated

import typer

from trbounds_cli.options import AsJson
from trbounds_cli.output import number, print_json, print_table


def command(
    paper: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Which paper, such as trm-v2; all by default."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Regenerate every number that a paper prints, beside the printed one.

    Example: `trbounds table --paper trm-v2`
    """
    from trbounds_paper_checks import papers, tables

    chosen = {key: tables(key) for key in (paper or papers())}
    if json:
        print_json(
            {
                "papers": {
                    key: [
                        {
                            "title": table.title,
                            "rows": [
                                {
                                    "label": e.label,
                                    "printed": e.printed,
                                    "ours": e.ours,
                                    "verdict": str(e.verdict),
                                }
                                for e in table.rows
                            ],
                        }
                        for table in found
                    ]
                    for key, found in chosen.items()
                }
            }
        )
        return
    for key, found in chosen.items():
        if not found:
            typer.echo(f"{key} prints no number; its claims: trbounds check --paper {key}")
        for table in found:
            print_table(
                f"{key}: {table.title}",
                ["quantity", "printed>", "ours>", "verdict"],
                [[e.label, e.printed, number(e.ours), str(e.verdict)] for e in table.rows],
            )
