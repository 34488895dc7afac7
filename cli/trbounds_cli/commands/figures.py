"""Draw the figures of the papers and of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson
from trbounds_cli.output import print_json


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Which figures; all by default.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--output", "-o", "--out", metavar="DIR", help="Folder, made if missing."),
    ] = Path("figures-out"),
    form: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", help="File type.")] = (
        "png"
    ),
    listing: Annotated[bool, typer.Option("--list", help="List the figures and stop.")] = False,
    json: AsJson = False,
) -> None:
    """Draw figures, each from data that the library computes afresh.

    Example: `trbounds figures -o figures-out`

    Example: `trbounds figures horizon radius --format pdf`
    """
    from trbounds_cli.progress import track
    from trbounds_figures import all_figures, get_figure, save

    chosen = [get_figure(name) for name in names] if names else list(all_figures().values())
    if listing:
        if json:
            print_json({"figures": [{"name": s.name, "title": s.title} for s in chosen]})
        else:
            for spec in chosen:
                typer.echo(f"{spec.name:16}{spec.title}")
        return
    if out.exists() and not out.is_dir():
        raise InputError("found a file, expected a folder", file=str(out), field="out")
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for spec in track(chosen, "figures"):
        path = save(spec.name, out / f"{spec.name}.{form}")
        made.append({"name": spec.name, "title": spec.title, "figure": str(path)})
    if json:
        print_json({"figures": made})
    else:
        for row in made:
            typer.echo(row["figure"])
