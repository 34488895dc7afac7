"""Progress on stderr, where a person is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from trbounds.traces import Progress

Item = TypeVar("Item")


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, with a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, what, console=Console(stderr=True), transient=True)


@contextmanager
def counting_progress(what: str, total: int) -> Iterator[Callable[..., None] | None]:
    """Give a callback ``show(done, what)`` for a known number of steps; the bar is on stderr.

    The second argument changes the description. Gives None where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    with RichProgress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def show(done: int, description: str = what) -> None:
            bar.update(task, completed=done, description=description)

        yield show


@contextmanager
def reading_progress() -> Iterator[Callable[[Progress], None] | None]:
    """Give a callback for progress: share done, what was read, rate and time left, on stderr.

    One line of 80 columns holds it: the bar takes what is left over.

    Gives None where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.SpinnerColumn(),
        rich_progress.BarColumn(bar_width=None),
        rich_progress.TextColumn("{task.description}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("left"),
    )
    console = Console(stderr=True)
    with rich_progress.Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("reading", total=None)
        start = time.monotonic()

        def show(progress: Progress) -> None:
            rate = progress.tokens_read / max(time.monotonic() - start, 1e-3)
            bar.update(
                task,
                total=progress.bytes or None,
                completed=progress.bytes_done,
                description=f"{progress.parts_done} of {progress.parts} parts, "
                f"{progress.sequences:,} sequences, {rate:,.0f} tokens/s",
            )

        yield show
