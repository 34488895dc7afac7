"""The bounds, one file each. Discovered by listing this folder: to add a bound, add a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from trbounds.bound import Bound
from trbounds.discovery import discover, look_up

__all__ = ["all_bounds", "get_bound"]


@cache
def all_bounds() -> Mapping[str, Bound]:
    """Return every bound by key, in order of rank.

    Returns
    -------
    mapping of str to Bound
        One entry per file of this folder whose name does not start with an underscore. Papers'
        bounds come first; the mapping is read-only and made once.
    """
    return discover(__name__, __path__, "BOUND", Bound)


def get_bound(key: str) -> Bound:
    """Return one bound.

    Parameters
    ----------
    key : str
        Its key, such as ``"pinsker_marginal"``.

    Returns
    -------
    Bound
        Statement, proof and evaluator.

    Raises
    ------
    InputError
        If there is no such bound; the message lists the keys.
    """
    return look_up(all_bounds(), key, "bound")
