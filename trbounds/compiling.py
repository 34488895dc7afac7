"""Which passes numba (the extra ``fast``) compiles, and on how many cores they run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
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


def on_all_cores(work: Callable[[_Piece], _Result], pieces: Iterable[_Piece]) -> list[_Result]:
    """Do pieces of work, in this thread and in as many others as there are cores.

    This thread begins at once; the others join it as they wake up, which takes a millisecond on
    some machines.

    Parameters
    ----------
    work : callable
        Compiled for the most part: other code waits for the interpreter lock.
    pieces : iterable
        What `work` takes, one each; a quarter of a millisecond of work or more.

    Returns
    -------
    list
        Results in the order of the pieces.
    """
    left = deque(enumerate(pieces))
    results: dict[int, _Result] = {}

    def take() -> None:
        try:
            while left:
                try:
                    place, piece = left.popleft()
                except IndexError:  # another thread was faster
                    return
                results[place] = work(piece)
        except BaseException:
            left.clear()
            raise

    others = [_threads().submit(take) for _ in range(min(usable_cores(), len(left)) - 1)]
    try:
        take()
    finally:
        # Those that have not begun have nothing to do any more.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()
    return [results[place] for place in range(len(results))]


@cache
def _threads() -> ThreadPoolExecutor:
    """Return threads that stay: this one would wait until a new one has started."""
    return ThreadPoolExecutor(max(usable_cores() - 1, 1), thread_name_prefix="trbounds")


if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads.
    os.register_at_fork(after_in_child=_threads.cache_clear)
