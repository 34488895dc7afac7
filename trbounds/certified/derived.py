"""The relations between profile fields in ball arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

from flint import arb

from trbounds.certified.sharp import sharp_tv
from trbounds.profile import Conversion
from trbounds.relations import RELATIONS

Known = dict[str, Any]


@dataclass(frozen=True)
class Situation:
    """What relations depend on besides fields.

    Parameters
    ----------
    T : int
        Horizon.
    reward_width : Fraction
        Width of the reward range.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.
    """

    T: int
    reward_width: Fraction
    conversion: Conversion

    def tv(self, kl: Any) -> Any:
        """Largest TV that a KL allows, by the conversion."""
        if self.conversion == "sharp":
            return sharp_tv(kl)
        return (kl / 2).nonnegative_part().sqrt().min(arb(1))


def _chi2(k: Known, kl: Any) -> Any:
    r = k["log_ratio_max"]
    return kl * (2 if r == 0 else r.expm1() ** 2 / (r.expm1() - r))


def _total(entries: list[Any]) -> Any:
    return sum(entries, arb(0))


def _position_moment(s: Situation, k: Known) -> Any:
    """Fill the last positions up to ``kl_max`` until the sequence KL is used up."""
    cap = k["kl_max"]
    if cap == 0:
        return arb(0)
    total = k["kl_seq"].min(s.T * cap)
    filled = total / cap
    if not filled.is_finite():
        return arb.nan()
    first, last = (int(end.floor().unique_fmpz()) for end in (filled.lower(), filled.upper()))
    if last > first + 1:
        return arb.nan()

    def with_full(full: int) -> Any:
        rest = total - full * cap
        return full * cap * (2 * s.T - 1 - full) / 2 + rest * (s.T - 1 - full)

    # At a whole number of filled positions either count is right.
    return with_full(max(first, 0)).union(with_full(max(last, 0)))


def _weighted(entries: list[Any]) -> Any:
    return _total([n * entry for n, entry in enumerate(entries)])


#: ``value(situation, known)`` of each relation, by target and needs. The inequalities are those of
#: :data:`trbounds.relations.RELATIONS`; a test compares the two.
BALL_RELATIONS: Mapping[tuple[str, ...], Callable[[Situation, Known], Any]] = {
    ("chi2_max", "kl_max", "log_ratio_max"): lambda s, k: _chi2(k, k["kl_max"]),
    ("chi2_max", "chi2_position_max"): lambda s, k: reduce(arb.max, k["chi2_position_max"]),
    ("chi2_path_max", "chi2_max"): lambda s, k: s.T * k["chi2_max"],
    ("chi2_path_max", "chi2_position_max"): lambda s, k: _total(k["chi2_position_max"]),
    ("kl_path_max", "kl_max"): lambda s, k: s.T * k["kl_max"],
    ("tv_max", "kl_max"): lambda s, k: s.tv(k["kl_max"]),
    ("tv_max", "chi2_max"): lambda s, k: (k["chi2_max"].sqrt() / 2).min(arb(1)),
    ("chi2_mean", "kl_mean", "log_ratio_max"): lambda s, k: [_chi2(k, x) for x in k["kl_mean"]],
    ("tv_mean", "kl_mean"): lambda s, k: [s.tv(x) for x in k["kl_mean"]],
    ("tv_mean", "kl_mean", "tv_max"): lambda s, k: [s.tv(x).min(k["tv_max"]) for x in k["kl_mean"]],
    ("kl_seq", "kl_mean"): lambda s, k: _total(k["kl_mean"]),
    ("kl_seq", "kl_max"): lambda s, k: s.T * k["kl_max"],
    ("kl_seq", "kl_path_max"): lambda s, k: k["kl_path_max"],
    ("tv_total", "tv_mean"): lambda s, k: _total(k["tv_mean"]),
    ("tv_total", "tv_max"): lambda s, k: s.T * k["tv_max"],
    ("tv_total", "kl_seq"): lambda s, k: s.T * s.tv(k["kl_seq"] / s.T),
    ("chi2_total", "chi2_mean"): lambda s, k: _total(k["chi2_mean"]),
    ("chi2_total", "chi2_max"): lambda s, k: s.T * k["chi2_max"],
    ("chi2_total", "chi2_path_max"): lambda s, k: k["chi2_path_max"],
    ("kl_position_moment", "kl_mean"): lambda s, k: _weighted(k["kl_mean"]),
    ("kl_position_moment", "kl_seq"): lambda s, k: (s.T - 1) * k["kl_seq"],
    ("kl_position_moment", "kl_seq", "kl_max"): _position_moment,
    ("tv_seq", "kl_seq"): lambda s, k: s.tv(k["kl_seq"]),
    ("tv_seq", "tv_total"): lambda s, k: k["tv_total"].min(arb(1)),
    ("tv_seq", "tv_max"): lambda s, k: 1 - (1 - k["tv_max"]) ** s.T,
    ("reward_var",): lambda s, k: (
        arb(1) * s.reward_width.numerator**2 / (4 * s.reward_width.denominator**2)
    ),
}


def derive_missing(situation: Situation, known: Known, wanted: Iterable[str]) -> Known:
    """Bound missing fields by the known ones, as a profile's completion does.

    Parameters
    ----------
    situation : Situation
        Horizon, reward width and conversion.
    known : dict
        Fields as balls, position fields as lists of balls.
    wanted : iterable of str
        The fields to bound; what they are derived through is bounded too, the rest is not.

    Returns
    -------
    dict
        The known fields and those that follow: of several relations the smallest value.
    """
    found = dict(known)
    needed = _sources(wanted)
    for target in dict.fromkeys(r.target for r in RELATIONS):
        if target in known or target not in needed:
            continue
        values = [
            BALL_RELATIONS[(target, *r.needs)](situation, found)
            for r in RELATIONS
            if r.target == target and all(name in found for name in r.needs)
        ]
        if values:
            found[target] = _nonnegative(reduce(_smaller, values))
    return found


def derivable(known: Iterable[str]) -> set[str]:
    """Return the names of the known fields and of those that follow from them."""
    found = set(known)
    for relation in RELATIONS:
        if set(relation.needs) <= found:
            found.add(relation.target)
    return found


def _sources(wanted: Iterable[str]) -> set[str]:
    found = set(wanted)
    # A field is derived after those it is derived from.
    for relation in reversed(RELATIONS):
        if relation.target in found:
            found.update(relation.needs)
    return found


def _nonnegative(value: Any) -> Any:
    # Every field is at least 0; rounding alone can suggest otherwise.
    if isinstance(value, list):
        return [entry.nonnegative_part() for entry in value]
    return value.nonnegative_part()


def _smaller(a: Any, b: Any) -> Any:
    if isinstance(a, list):
        return [x.min(y) for x, y in zip(a, b, strict=True)]
    return a.min(b)
