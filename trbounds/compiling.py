"""Which passes numba (the extra ``fast``) compiles, and on how many cores they run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Literal, TypeVar

from trbounds.errors import InputError, MissingDependency

__all__ = ["Kernel", "on_all_cores", "usable_cores", "uses_numba"]

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")

Kernel = Literal["auto", "numpy", "numba"]


def uses_numba(kernel: str, *, worth: bool = True) -> bool:
    """Whether to take the compiled pass.

    Parameters
    ----------
    kernel : {"auto", "numpy", "numba"}
        "auto" takes numba where it is installed and `worth` its while.
    worth : bool
        Whether there is enough to do that loading it pays.

    Raises
    ------
    InputError
        If the name is unknown.
    MissingDependency
        If numba is asked for and absent.
    """
    if kernel not in ("auto", "numpy", "numba"):
        raise InputError(f"found {kernel!r}, expected 'auto', 'numpy' or 'numba'", field="kernel")
    if kernel == "numpy" or (kernel == "auto" and not worth):
        return False
    if kernel == "numba" and not _has_numba():
        raise MissingDependency("numba", extra="fast", purpose="kernel='numba'")
    return _has_numba()


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: knows what this process is confined to
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_all_cores(work: Callable[[_Piece], _Result], pieces: Iterable[_Piece]) -> Iterator[_Result]:
    """Yield the results of pieces of work in their order, done by as many threads as cores.

    Parameters
    ----------
    work : callable
        Compiled for the most part: other code waits for the interpreter lock.
    pieces : iterable
        What `work` takes, one each; worth some milliseconds, as threads are slow to start.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(work, pieces)
