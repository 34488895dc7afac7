"""Print the proof of a bound or law, each step with a certificate."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trbounds.errors import InputError


def command(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="Which bound, see 'trbounds bounds'; or law of the mismatch or of pruning.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every bound and law.")] = False,
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
    """Print the derivation of a bound or law with each step's justification and certificate.

    Every step is run: identities by sympy, inequalities by lemmas with proofs of their own, or by
    a form whose sign is plain. Exit code 1 if a step fails.

    Example: `trbounds derive adaptive`

    Example: `trbounds derive selection_bias`
    """
    from trbounds.discovery import look_up
    from trbounds.rendering import all_theorems, as_document, render_all, render_check
    from trbounds_cli.output import print_json
    from trbounds_cli.progress import track

    if everything == (key is not None):
        raise InputError("give one bound's or law's KEY, or --all")
    theorems = all_theorems()
    chosen = list(theorems.values()) if key is None else [look_up(theorems, key, "bound or law")]
    documents = [as_document(theorem) for theorem in track(chosen, "derivations")]
    if json:
        print_json({"derivations": documents})
    else:
        lines = [render_check(document) for document in documents]
        typer.echo("\n".join(lines) if check else render_all(documents, form), nl=check)
    if not all(document["holds"] for document in documents):
        raise typer.Exit(1)
