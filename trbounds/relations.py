"""Relations between the quantities of a profile: each bounds one field by others.

Every relation is an inequality ``target <= value(profile)``; source TRM sections 2 and 3 and
trbounds (the ratio cap and the sharp conversion).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trbounds.arrays import asarray_float64, device
from trbounds.divergences import chi2_from_kl, tv_from_chi2
from trbounds.provenance import Provenance

if TYPE_CHECKING:
    from trbounds.profile import DivergenceProfile

__all__ = ["RELATIONS", "Relation", "derive_missing"]

Known = dict[str, Any]


@dataclass(frozen=True)
class Relation:
    """One inequality ``target <= value``.

    Parameters
    ----------
    target : str
        The field that is bounded.
    needs : tuple of str
        The fields it is bounded by.
    text : str
        The inequality as a reader would write it.
    value : callable
        ``value(profile, known)``: the right-hand side, `known` mapping the names to arrays.
    """

    target: str
    needs: tuple[str, ...]
    text: str
    value: Callable[[DivergenceProfile, Known], Any]


def _one_minus_power(p: DivergenceProfile, k: Known) -> Any:
    xp = p.xp
    # 1 - (1 - eps)^T; at eps = 1 the logarithm is -inf and the result 1, as it should be.
    inside = xp.where(k["tv_max"] < 1, k["tv_max"], 0.5 * xp.ones_like(k["tv_max"]))
    return xp.where(k["tv_max"] < 1, -xp.expm1(p.T * xp.log1p(-inside)), 1.0)


def _position_moment_from_sequence(p: DivergenceProfile, k: Known) -> Any:
    xp = p.xp
    # Largest sum of (s-1) k_s with k_s <= kl_max and sum kl_seq: fill the last positions.
    cap, total = k["kl_max"], xp.minimum(k["kl_seq"], p.T * k["kl_max"])
    full = xp.floor(total / xp.where(cap > 0, cap, xp.ones_like(cap)))
    full = xp.clip(full, 0.0, None)
    rest = total - full * cap
    return full * cap * (p.T - 1 - (full - 1) / 2) + rest * (p.T - 1 - full)


def _position_moment_from_means(p: DivergenceProfile, k: Known) -> Any:
    xp = p.xp
    kl = k["kl_mean"]
    before = xp.arange(kl.shape[-1], dtype=kl.dtype, device=device(kl))
    return xp.sum(kl * before, axis=-1)


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "chi2_max",
        ("kl_max", "log_ratio_max"),
        "chi2_max <= kl_max (e^r - 1)^2 / (e^r - 1 - r), r = log_ratio_max",
        lambda p, k: chi2_from_kl(k["kl_max"], k["log_ratio_max"]),
    ),
    Relation(
        "chi2_max",
        ("chi2_position_max",),
        "chi2_max = largest chi2_position_max",
        lambda p, k: p.xp.max(k["chi2_position_max"], axis=-1),
    ),
    Relation(
        "chi2_path_max",
        ("chi2_max",),
        "chi2_path_max <= T chi2_max",
        lambda p, k: p.T * k["chi2_max"],
    ),
    Relation(
        "chi2_path_max",
        ("chi2_position_max",),
        "chi2_path_max <= sum_t chi2_position_max[t]",
        lambda p, k: p.xp.sum(k["chi2_position_max"], axis=-1),
    ),
    Relation("kl_path_max", ("kl_max",), "kl_path_max <= T kl_max", lambda p, k: p.T * k["kl_max"]),
    Relation(
        "tv_max",
        ("kl_max",),
        "tv_max <= TV(kl_max)",
        lambda p, k: p.tv_from_kl(k["kl_max"]),
    ),
    Relation(
        "tv_max",
        ("chi2_max",),
        "tv_max <= min(1, sqrt(chi2_max) / 2)",
        lambda p, k: tv_from_chi2(k["chi2_max"]),
    ),
    Relation(
        "chi2_mean",
        ("kl_mean", "log_ratio_max"),
        "chi2_mean[t] <= kl_mean[t] (e^r - 1)^2 / (e^r - 1 - r), r = log_ratio_max",
        lambda p, k: chi2_from_kl(k["kl_mean"], k["log_ratio_max"][..., None]),
    ),
    Relation(
        "tv_mean",
        ("kl_mean",),
        "tv_mean[t] <= TV(kl_mean[t])",
        lambda p, k: p.tv_from_kl(k["kl_mean"]),
    ),
    Relation(
        "tv_mean",
        ("kl_mean", "tv_max"),
        "tv_mean[t] <= min(tv_max, TV(kl_mean[t]))",
        lambda p, k: p.xp.minimum(p.tv_from_kl(k["kl_mean"]), k["tv_max"][..., None]),
    ),
    Relation(
        "kl_seq",
        ("kl_mean",),
        "kl_seq = sum_t kl_mean[t]",
        lambda p, k: p.xp.sum(k["kl_mean"], axis=-1),
    ),
    Relation("kl_seq", ("kl_max",), "kl_seq <= T kl_max", lambda p, k: p.T * k["kl_max"]),
    Relation("kl_seq", ("kl_path_max",), "kl_seq <= kl_path_max", lambda p, k: k["kl_path_max"]),
    Relation(
        "tv_total",
        ("tv_mean",),
        "tv_total = sum_t tv_mean[t]",
        lambda p, k: p.xp.sum(k["tv_mean"], axis=-1),
    ),
    Relation("tv_total", ("tv_max",), "tv_total <= T tv_max", lambda p, k: p.T * k["tv_max"]),
    Relation(
        "tv_total",
        ("kl_seq",),
        "tv_total <= T TV(kl_seq / T)",
        lambda p, k: p.T * p.tv_from_kl(k["kl_seq"] / p.T),
    ),
    Relation(
        "chi2_total",
        ("chi2_mean",),
        "chi2_total = sum_t chi2_mean[t]",
        lambda p, k: p.xp.sum(k["chi2_mean"], axis=-1),
    ),
    Relation(
        "chi2_total", ("chi2_max",), "chi2_total <= T chi2_max", lambda p, k: p.T * k["chi2_max"]
    ),
    Relation(
        "chi2_total",
        ("chi2_path_max",),
        "chi2_total <= chi2_path_max",
        lambda p, k: k["chi2_path_max"],
    ),
    Relation(
        "kl_position_moment",
        ("kl_mean",),
        "kl_position_moment = sum_s (s - 1) kl_mean[s]",
        _position_moment_from_means,
    ),
    Relation(
        "kl_position_moment",
        ("kl_seq",),
        "kl_position_moment <= (T - 1) kl_seq",
        lambda p, k: (p.T - 1) * k["kl_seq"],
    ),
    Relation(
        "kl_position_moment",
        ("kl_seq", "kl_max"),
        "kl_position_moment <= largest sum_s (s - 1) k_s with k_s <= kl_max, sum k_s = kl_seq",
        _position_moment_from_sequence,
    ),
    Relation(
        "tv_seq",
        ("kl_seq",),
        "tv_seq <= TV(kl_seq)",
        lambda p, k: p.tv_from_kl(k["kl_seq"]),
    ),
    Relation(
        "tv_seq",
        ("tv_total",),
        "tv_seq <= min(1, tv_total)",
        lambda p, k: p.xp.minimum(k["tv_total"], p.xp.ones_like(k["tv_total"])),
    ),
    Relation("tv_seq", ("tv_max",), "tv_seq <= 1 - (1 - tv_max)^T", _one_minus_power),
    Relation(
        "reward_var",
        (),
        "reward_var <= (r_hi - r_lo)^2 / 4",
        lambda p, k: p.xp.full_like(p.T, p.reward_width**2 / 4),
    ),
)


def derive_missing(
    profile: DivergenceProfile, wanted: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Provenance]]:
    """Bound missing fields by the known ones.

    Parameters
    ----------
    profile : DivergenceProfile
        The known fields.
    wanted : iterable of str
        The fields to bound; what they are derived through is bounded too, the rest is not.

    Returns
    -------
    values : dict of str to array
        The missing fields that could be derived. Of several relations for one field the smallest
        value is taken, element by element.
    provenance : dict of str to Provenance
        The relation each came from.
    """
    xp = profile.xp
    # Of scalars some functions make plain numbers.
    as_array = partial(asarray_float64, xp=xp, like=profile.T)
    known = {name: getattr(profile, name) for name in profile.known}
    marks = dict(profile.provenance)
    new: dict[str, Provenance] = {}
    # RELATIONS is ordered so that every field is derived before a relation needs it.
    needed = _ancestors(wanted, known)
    for target in dict.fromkeys(r.target for r in RELATIONS):
        if target in known or target not in needed:
            continue
        usable = [r for r in RELATIONS if r.target == target and all(n in known for n in r.needs)]
        # A bound that overflows says nothing.
        with np.errstate(over="ignore"):
            derived = [(r, as_array(r.value(profile, known))) for r in usable]
        candidates = [(r, c) for r, c in derived if bool(xp.all(xp.isfinite(c)))]
        if not candidates:
            continue
        best = candidates[0][1]
        for _, other in candidates[1:]:
            best = xp.minimum(best, other)
        chosen = [r for r, c in candidates if bool(xp.any(c == best))]
        chosen = chosen or [r for r, _ in candidates]  # an empty batch has no smallest value
        known[target] = best
        new[target] = Provenance(
            "derived",
            by=chosen[0].text,
            plug_in=any(marks[n].plug_in for r in chosen for n in r.needs),
        )
        marks[target] = new[target]
    return {name: known[name] for name in new}, new


def _ancestors(wanted: Iterable[str], known: Known) -> set[str]:
    """Every unknown field that a wanted one may be derived through, itself included."""
    found: set[str] = set()
    queue = [name for name in wanted if name not in known]
    while queue:
        target = queue.pop()
        if target not in found:
            found.add(target)
            queue += [n for r in RELATIONS if r.target == target for n in r.needs if n not in known]
    return found
