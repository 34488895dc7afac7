"""How commands speak: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from trbounds.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

_NARROWEST, _WIDEST = 100, 180
"""Columns of what goes to a file: as many as the table needs, within these."""

_FOLDED = 28
"""Columns that text may be folded to: enough for the key of every bound."""


def print_json(document: Any) -> None:
    """Write one JSON document and nothing else. Infinities and NaN become null."""
    json.dump(_plain(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return _plain(value.item())
    return value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> None:
    """Write a table; columns whose heading ends in ``>`` are numbers, aligned to the right.

    Text is folded where the terminal is narrow, numbers never are: columns that do not fit beside
    the others follow in another table, which begins with the first column again.
    """
    from rich.console import Console
    from rich.text import Text

    shape = _Columns(columns, rows)
    if sys.stdout.isatty():
        room = Console().width
    else:  # a pipe or a file has no width of its own
        room = max(_NARROWEST, min(shape.width_of(range(len(columns)), shape.widest), _WIDEST))
    groups = shape.that_fit(room)
    # In a terminal narrower than two columns its own line breaks keep every digit.
    room = max(room, *(shape.width_of(group, shape.least) for group in groups))
    console = Console(width=room)
    console.print(Text(title, style="bold"))
    for group in groups:
        console.print(shape.table(group, room))
    for note in notes:
        console.print(Text(note))


class _Columns:
    """Which columns of a table fit beside one another, and how wide they have to be."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.cells import cell_len

        self.headings = [column.rstrip(">") for column in columns]
        self.numbers = [column.endswith(">") for column in columns]
        self.rows = rows
        cells = [max((cell_len(row[i]) for row in rows), default=0) for i in range(len(columns))]
        self.widest = [max(cell_len(h), cell) for h, cell in zip(self.headings, cells, strict=True)]
        self.least = [
            max(cell, *map(cell_len, heading.split() or [""])) if number else min(widest, _FOLDED)
            for heading, cell, number, widest in zip(
                self.headings, cells, self.numbers, self.widest, strict=True
            )
        ]

    @staticmethod
    def width_of(group: Iterable[int], widths: Sequence[int]) -> int:
        """Width of a table of some columns: two blanks between them, one at each end."""
        return 1 + sum(2 + widths[index] for index in group)

    def that_fit(self, room: int) -> list[list[int]]:
        """Cut the columns into groups that fit, each beginning with the first column."""
        groups = [[0]]
        for index in range(1, len(self.headings)):
            if len(groups[-1]) > 1 and self.width_of([*groups[-1], index], self.least) > room:
                groups.append([0])
            groups[-1].append(index)
        return groups

    def table(self, group: list[int], room: int) -> Table:
        """Make the table of a group of columns."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        narrow = self.width_of(group, self.widest) > room
        for index in group:
            heading, number = self.headings[index], self.numbers[index]
            if number and narrow:
                heading = "\n".join(wrap(heading, self.least[index], break_on_hyphens=False))
            table.add_column(
                heading, justify="right" if number else "left", no_wrap=number, overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(row[index]) for index in group))
        return table


def check_output(path: str, suffix: str = "") -> None:
    """Refuse, before anything is read, a path that cannot be written to.

    Raises
    ------
    InputError
        If the path is remote, a folder, in a folder that does not exist, or has another suffix.
    """
    from trbounds.traces.remote import is_remote

    if is_remote(path):
        raise InputError("found a remote path, expected a local one to write to", file=path)
    if os.path.isdir(path):
        raise InputError("found a folder, expected a file to write", file=path)
    if not path.endswith(suffix):
        found = os.path.splitext(path)[1]
        raise InputError(f"found suffix '{found}', expected {suffix}", file=path)
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise InputError("no such folder to write to", file=path)


def number(value: float | None) -> str:
    """Format a value for people: six significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value + 0.0:.6g}"  # the sum makes a zero of -0


def yes_no(value: bool | None) -> str:
    """Format a fact: yes, no, or a dash where it is not known."""
    return "-" if value is None else "yes" if value else "no"
