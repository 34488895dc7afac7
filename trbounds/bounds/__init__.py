"""The bounds, one file each. Discovered by listing this folder: to add a bound, add a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from trbounds.bound import Bound
from trbounds.errors import InputError

__all__ = ["all_bounds", "get_bound"]


@cache
def all_bounds() -> Mapping[str, Bound]:
    """Return every bound by key, in order of rank.

    Returns
    -------
    mapping of str to Bound
        One entry per file of this folder whose name does not start with an underscore.
    """
    names = sorted(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))
    found = [import_module(f"{__name__}.{name}").BOUND for name in names]
    for name, bound in zip(names, found, strict=True):
        if bound.key != name:
            raise RuntimeError(f"file {name}.py holds the bound '{bound.key}'")
    return MappingProxyType({b.key: b for b in sorted(found, key=lambda b: (b.rank, b.key))})


def get_bound(key: str) -> Bound:
    """Return one bound.

    Parameters
    ----------
    key : str
        Its key, such as ``"pinsker_marginal"``.

    Raises
    ------
    InputError
        If there is no such bound; the message lists the keys.
    """
    bounds = all_bounds()
    if key not in bounds:
        raise InputError(f"no bound '{key}'; there are: {', '.join(bounds)}")
    return bounds[key]
