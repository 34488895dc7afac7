"""How commands speak: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["number", "print_json", "print_table", "yes_no"]


_NARROWEST, _WIDEST = 100, 180
"""Columns of what goes to a file: as many as the table needs, within these."""


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
    """Write a table; columns whose heading ends in ``>`` are aligned to the right.

    The first column, which names the row, is not folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        right = column.endswith(">")
        table.add_column(
            column.rstrip(">"),
            justify="right" if right else "left",
            no_wrap=right or index == 0,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None
    if not sys.stdout.isatty():  # a pipe or a file has no width of its own
        width = max(_NARROWEST, Console(width=_WIDEST).measure(table).maximum)
    console = Console(width=width)
    console.print(Text(title, style="bold"))
    console.print(table)
    for note in notes:
        console.print(Text(note))


def number(value: float | None) -> str:
    """Format a value for people: six significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.6g}"


def yes_no(value: bool | None) -> str:
    """Format a fact: yes, no, or a dash where it is not known."""
    return "-" if value is None else "yes" if value else "no"
