"""Print the proof of a bound, each step with its certificate."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trbounds.errors import InputError


def command(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Which bound; see 'trbounds bounds'.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every bound.")] = False,
    form: Annotated[
        Literal["text", "markdown", "latex"], typer.Option("--format", help="How to write it.")
    ] = "text",
    check: Annotated[
        bool, typer.Option("--check", help="Print only whether the steps hold; exit 1 if not.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Print the derivation of a bound with each step's justification and certificate.

    Every step is run: identities by sympy, inequalities by lemmas with proofs of their own, or by
    a form whose sign is plain. Exit code 1 if a step fails.

    Example: `trbounds derive adaptive`
    """
    from trbounds.bounds import all_bounds, get_bound
    from trbounds.rendering import as_document, render_all, render_check
    from trbounds_cli.output import print_json
    from trbounds_cli.progress import track

    if everything == (key is not None):
        raise InputError("give one bound's KEY, or --all")
    bounds = list(all_bounds().values()) if key is None else [get_bound(key)]
    documents = [as_document(bound) for bound in track(bounds, "derivations")]
    if json:
        print_json({"derivations": documents})
    else:
        lines = [render_check(document) for document in documents]
        typer.echo("\n".join(lines) if check else render_all(documents, form), nl=check)
    if not all(document["holds"] for document in documents):
        raise typer.Exit(1)
