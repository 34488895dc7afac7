"""The bounds, one file each. Discovered by listing this folder: to add a bound, add a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from trbounds.bound import Assessment, Bound
from trbounds.discovery import discover, look_up
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile

__all__ = ["all_bounds", "assess_all", "best_bound", "get_bound"]


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


def assess_all(profile: DivergenceProfile) -> dict[str, Assessment]:
    """Evaluate every bound that a profile allows.

    Parameters
    ----------
    profile : DivergenceProfile
        What is known of the two policies, single or a batch; completed here.

    Returns
    -------
    dict of str to Assessment
        By the bound's key, in order of rank.

    Raises
    ------
    InputError
        If no bound can be evaluated.

    Examples
    --------
    >>> from trbounds import DivergenceProfile, assess_all
    >>> found = assess_all(DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01))
    >>> round(found["mixed"].value, 2), found["mixed"].informative
    (8.19, False)
    """
    completed = profile.complete()
    return {bound.key: bound.assess(completed) for bound in _allowed(completed)}


def best_bound(profile: DivergenceProfile) -> Assessment:
    """Find the smallest bound that a profile allows.

    Parameters
    ----------
    profile : DivergenceProfile
        What is known of the two policies, not a batch; completed here.

    Returns
    -------
    Assessment
        Of several that are equally small the first in rank.

    Raises
    ------
    InputError
        If no bound can be evaluated, or the profile is a batch.

    Examples
    --------
    >>> from trbounds import DivergenceProfile, best_bound
    >>> best = best_bound(DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01))
    >>> best.bound.key, best.value
    ('sequence_kl', 0.01)
    """
    completed = profile.complete()
    found = [(bound, bound.evaluate(completed)) for bound in _allowed(completed)]
    if any(getattr(value, "ndim", 0) for _, value in found):
        raise InputError("found a batch of profiles, expected one", field="profile")
    bound, _ = min(found, key=lambda pair: float(pair[1]))
    return bound.assess(completed)


def _allowed(completed: DivergenceProfile) -> list[Bound]:
    found = [bound for bound in all_bounds().values() if not bound.missing(completed)]
    if not found:
        raise InputError(f"no bound can be evaluated from {', '.join(completed.known)} alone")
    return found
