"""The ``trbounds`` command line. One file per command in ``commands/``; no logic of its own.

``trbounds`` and ``trbounds --help`` answer from the first line of each command's file, so that
they import nothing. A command imports what it needs when it runs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

COMPLETION = ("--install-completion", "--show-completion")


class _UntilClosed(io.FileIO):
    """A pipe whose reader may go, as in ``| head``: what comes after that is dropped.

    So a check ends with the exit code of what it found, whoever still reads.
    """

    def write(self, data: Any, /) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except BrokenPipeError:
            pass
        return len(data)


def _prepare_output() -> None:
    """Let a closed pipe, and letters that the terminal lacks, end no command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell closed it: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    out = sys.stdout
    if out is sys.__stdout__ and out is not None and not out.isatty():
        pipe = _UntilClosed(out.fileno(), "w", closefd=False)
        sys.stdout = out = io.TextIOWrapper(pipe, encoding=out.encoding)
    if isinstance(out, io.TextIOWrapper):
        # Not every terminal has every letter, nor has every file name a text.
        out.reconfigure(errors="backslashreplace")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after ``trbounds``; those of the process by default.

    Raises
    ------
    SystemExit
        Always: 0 fine; 1 a check ran and something is violated or differs; 2 bad usage or input.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_output()
    completing = "_TRBOUNDS_COMPLETE" in os.environ or bool({*words} & {*COMPLETION})
    if not completing and (not words or words[0] in ("--help", "-h")):
        from trbounds_cli.overview import overview

        sys.stdout.write(overview())
        raise SystemExit(0)
    if words and words[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"trbounds {version('trbounds')}\n")
        raise SystemExit(0)
    try:
        from trbounds_cli.app import run

        code = run(words, everything=completing)
    except KeyboardInterrupt:  # while modules are imported
        code = 130
    raise SystemExit(code)
