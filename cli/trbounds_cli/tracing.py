"""Reading traces for commands, with progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trbounds.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trbounds.traces import TraceBatch, TraceSummary

__all__ = ["read_summary"]


def read_summary(
    traces: list[str] | None,
    *,
    example: bool = False,
    form: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
) -> TraceSummary:
    """Read the traces of a command line into one summary; say on stderr what was left out."""
    from trbounds.traces import example_path, summarize

    if example == bool(traces):
        raise InputError("give trace files, or --example")
    paths = [example_path()] if example else list(traces or [])
    with _progress() as count:
        summary = summarize(
            paths, form, reward_range=reward_range, on_error=on_error, on_batch=count
        )
    for skipped in summary.skipped:
        place = f"record {skipped.record}, " if skipped.record >= 0 else ""
        sys.stderr.write(f"left out: {skipped.file}, {place}{skipped.problem}\n")
    return summary


@contextmanager
def _progress() -> Iterator[Callable[[TraceBatch], None] | None]:
    """Count sequences and tokens on stderr while reading, where it is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading")
        seen = [0, 0]

        def count(batch: TraceBatch) -> None:
            seen[0] += batch.n_sequences
            seen[1] += batch.n_tokens
            progress.update(task, description=f"read {seen[0]:,} sequences, {seen[1]:,} tokens")

        yield count
