"""Reading what figures of real traces have recorded, since the traces are too large to ship."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trbounds.errors import InputError

Record = TypeVar("Record")

_WRONG = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def read_record(
    path: str | os.PathLike[str], build: Callable[[Any], Record], *, what: str
) -> Record:
    """Build a record from a JSON document.

    Parameters
    ----------
    path : path-like
        The document.
    build : callable
        Makes the record from the document's values.
    what : str
        What it is a record of, for the message.

    Raises
    ------
    InputError
        If the file cannot be read, or `build` cannot make a record of it.
    """
    try:
        return build(json.loads(Path(path).read_text(encoding="utf-8")))
    except _WRONG as error:
        raise InputError(f"not a record of {what} ({error!r})", file=str(path)) from None
