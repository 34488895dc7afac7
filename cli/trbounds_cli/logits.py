"""Opening logits files for commands, with what is to be known of them on stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from trbounds.errors import InputError

if TYPE_CHECKING:
    from trbounds.logits import LogitsFile

Logits = Annotated[
    str | None,
    typer.Argument(
        metavar="LOGITS",
        help="An .npz or .safetensors file, or a directory of .npy files.",
        show_default=False,
    ),
]
UseExampleLogits = Annotated[
    bool,
    typer.Option("--example", help="Use the small file of real logits that ships with trbounds."),
]


def open_logits(path: str | None, *, example: bool) -> LogitsFile:
    """Open and check the logits file of a command line, or the example."""
    from trbounds.logits import example_logits_path, read_logits

    if example == (path is not None):
        raise InputError("give a logits file, or --example")
    with warnings_as_notes():
        return read_logits(example_logits_path() if path is None else path)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Write the warning about stored precision as a plain note on stderr."""
    from trbounds.logits import StoredPrecisionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoredPrecisionWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, StoredPrecisionWarning):
            sys.stderr.write(f"note: {warning.message}\n")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
