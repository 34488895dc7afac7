"""The laws of pruning, one file each. Discovered by listing this folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from trbounds.discovery import discover, look_up
from trbounds.pruning.law import PruningLaw

__all__ = ["all_laws", "get_law"]


@cache
def all_laws() -> Mapping[str, PruningLaw]:
    """Return every law by key, in order of rank.

    Returns
    -------
    mapping of str to PruningLaw
        One entry per file of this folder.
    """
    return discover(__name__, __path__, "LAW", PruningLaw)


def get_law(key: str) -> PruningLaw:
    """Return one law.

    Parameters
    ----------
    key : str
        Its key, such as ``"sequence_tv"``.

    Returns
    -------
    PruningLaw
        Statement, proof and evaluator.

    Raises
    ------
    InputError
        If there is no such law; the message lists the keys.
    """
    return look_up(all_laws(), key, "law of pruning")
