"""Judge every claim of the papers, against the verdict on record."""

from __future__ import annotations

from typing import Annotated

import typer

from trbounds_cli.options import AsJson
from trbounds_cli.output import print_json, print_table


def command(
    paper: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Which paper, such as trm-v2; all by default."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Recompute every claim of the papers and judge it by rule.

    `holds`: reproduced. `rounding`: reproduced, but a printed digit differs. `refuted`: false as
    printed, shown by an executed counterexample. Exit code 1 if a verdict differs from the one
    recorded with the claim.

    Example: `trbounds check`
    """
    from trbounds_paper_checks import run_checks

    results = run_checks(paper)
    differing = [r for r in results if not r.as_recorded]
    if json:
        print_json({"claims": [r.to_dict() for r in results], "as_recorded": not differing})
    else:
        print_table(
            "Claims of the papers",
            ["claim", "printed", "ours", "verdict"],
            [
                [
                    f"{r.claim.paper}, {r.claim.place}: {r.claim.text}",
                    r.printed,
                    r.ours + (f"  True form: {r.true_form}" if r.true_form else ""),
                    str(r.verdict) + ("" if r.as_recorded else f" (recorded: {r.claim.recorded})"),
                ]
                for r in results
            ],
            [f"{len(results)} claims; {len(differing)} verdicts differ from the recorded ones"],
        )
    if differing:
        raise typer.Exit(1)
