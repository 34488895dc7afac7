"""Draw the bounds against the horizon up to T, and print them at T."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from trbounds_cli.options import (
    AsJson,
    ConversionOption,
    Horizon,
    RewardRange,
    profile_options,
)
from trbounds_cli.output import number, print_json, print_table, yes_no


@profile_options
def command(
    T: Horizon,
    known: dict[str, float],
    out: Annotated[
        Path,
        typer.Option(
            "--output", "-o", "--out", metavar="FILE", help="Where to: .png, .svg or .pdf."
        ),
    ] = Path("bounds.png"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Draw this bound (repeatable).")
    ] = None,
    reward_range: RewardRange = (0.0, 1.0),
    conversion: ConversionOption = "pinsker",
    json: AsJson = False,
) -> None:
    """Draw the bounds on |Error| against the horizon up to T, and print their values at T.

    Slopes are written on the curves; the shaded region is above the width of the reward range.
    Without any divergence the papers' headline point is drawn: token KL 1e-4, sequence KL 0.01.

    Example: `trbounds plot --T 8192`

    Example: `trbounds plot --T 8192 --kl-max 1e-4 --chi2-path-max 0.1 -o bounds.pdf`
    """
    from trbounds_figures import get_figure, save

    settings = {"reward_range": reward_range, "conversion": conversion}
    data = get_figure("horizon").data(T, bounds=only, **known, **settings)
    path = save("horizon", out, data)
    rows = data.table()
    if json:
        print_json(
            {
                "figure": str(path),
                "T": T,
                "assumed": data.point,
                "bounds": [
                    {
                        "key": r.key,
                        "value": r.value,
                        "slope": r.slope,
                        "informative": r.informative,
                        "source": r.source,
                    }
                    for r in rows
                ],
            }
        )
        return
    typer.echo(str(path))
    point = ", ".join(f"{name} = {value:g}" for name, value in data.point.items())
    print_table(
        f"Bounds on |Error| at T = {T} ({point})",
        ["bound", "value>", "growth>", "informative", "source"],
        [[r.key, number(r.value), _growth(r.slope), yes_no(r.informative), r.source] for r in rows],
        [f"informative: below the width of the reward range, {number(data.reward_width)}"],
    )


def _growth(slope: float) -> str:
    return f"T^{slope:.2f}" if math.isfinite(slope) else "from 0"
