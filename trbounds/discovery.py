"""Theorems found by listing a folder: to add one, add a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType
from typing import TypeVar

from trbounds.errors import no_such
from trbounds.theorem import Theorem

__all__ = ["discover", "look_up"]

Found = TypeVar("Found", bound=Theorem)


def discover(
    package: str, folder: Iterable[str], name: str, kind: type[Found]
) -> Mapping[str, Found]:
    """Import every file of a folder and collect its theorem.

    Parameters
    ----------
    package : str
        Name of the folder's package.
    folder : iterable of str
        Its ``__path__``.
    name : str
        The variable in which a file keeps its theorem, such as ``"BOUND"``.
    kind : type
        What it must be.

    Returns
    -------
    mapping of str to theorem
        By key, in order of rank. Files that start with an underscore are left out.

    Raises
    ------
    RuntimeError
        If a file holds no theorem, or one with another key than the file's name.
    """
    files = sorted(m.name for m in iter_modules(folder) if not m.name.startswith("_"))
    found = [_theorem(import_module(f"{package}.{file}"), file, name, kind) for file in files]
    return MappingProxyType({t.key: t for t in sorted(found, key=lambda t: (t.rank, t.key))})


def _theorem(module: ModuleType, file: str, name: str, kind: type[Found]) -> Found:
    theorem = getattr(module, name, None)
    if not isinstance(theorem, kind):
        raise RuntimeError(f"{module.__file__}: expected {name} = {kind.__name__}(...)")
    if theorem.key != file:
        raise RuntimeError(
            f"{module.__file__}: {name} has the key '{theorem.key}', expected '{file}', the "
            "file's name"
        )
    return theorem


def look_up(theorems: Mapping[str, Found], key: str, what: str) -> Found:
    """Return one theorem by key; the error lists the keys."""
    if key not in theorems:
        raise no_such(what, key, theorems)
    return theorems[key]
