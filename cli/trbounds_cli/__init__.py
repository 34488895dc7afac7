"""The ``trbounds`` command line. One file per command in ``commands/``; no logic of its own.

``trbounds`` and ``trbounds --help`` answer from the first line of each command's file, so that
they import nothing. A command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMPLETION = ("--install-completion", "--show-completion")


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
    completing = "_TRBOUNDS_COMPLETE" in os.environ or bool({*words} & {*COMPLETION})
    if not completing and (not words or words[0] in ("--help", "-h")):
        from trbounds_cli.overview import overview

        sys.stdout.write(overview())
        raise SystemExit(0)
    if words and words[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"trbounds {version('trbounds')}\n")
        raise SystemExit(0)
    from trbounds_cli.app import run

    raise SystemExit(run(words, everything=completing))
