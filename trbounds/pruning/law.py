"""The contract of a law of pruning, and the situation it speaks about. No formulas here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, ClassVar

from trbounds.arrays import array_namespace
from trbounds.checks import COUNT, as_number_arrays, is_count, kept, refuse_where
from trbounds.theorem import Kind, Law

_COUNTS = ("T", "vocabulary")
_BELOW_ONE = ("pruned_mass", "pruned_mass_max")
_AT_MOST_ONE = ("kept_product", "tv")


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningCase:
    """What is known of a pruned policy. Values may be arrays that broadcast.

    Parameters
    ----------
    T : array or int, optional
        Horizon.
    vocabulary : array or int, optional
        Number of tokens, n.
    min_p : array or float, optional
        Threshold: tokens less likely than this times the likeliest are pruned; in (0, 1].
    pruned_mass : array or float, optional
        Mass ``1 - Z`` that a context loses, in [0, 1).
    pruned_mass_max : array or float, optional
        The largest one over contexts, in [0, 1).
    pruned_mass_total : array or float, optional
        ``E_full[sum_t (1 - Z(c_t))]``, the mean over full rollouts.
    kept_product : array or float, optional
        ``E_pruned[prod_t Z(c_t)]``, the mean over pruned rollouts, in (0, 1].
    kl, tv : array or float, optional
        KL(rollout‖train) in nats and TV of two policies before both are pruned to one set.

    Raises
    ------
    InputError
        If a value is out of range or not a number.
    """

    T: Any = None
    vocabulary: Any = None
    min_p: Any = None
    pruned_mass: Any = None
    pruned_mass_max: Any = None
    pruned_mass_total: Any = None
    kept_product: Any = None
    kl: Any = None
    tv: Any = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in self._fields() if value is not None}
        for name, array in as_number_arrays(given).items():
            _check(name, array)
            object.__setattr__(self, name, kept(array))

    def _fields(self) -> Iterator[tuple[str, Any]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    @property
    def xp(self) -> ModuleType:
        """Array namespace of the values."""
        return array_namespace(*(value for _, value in self._fields()))


def _check(name: str, x: Any) -> None:
    if name in _COUNTS:
        ok, expected = is_count(x, array_namespace(x)), COUNT
    elif name == "min_p":
        ok, expected = (x > 0) & (x <= 1), "a number in (0, 1]"
    elif name in _BELOW_ONE:
        ok, expected = (x >= 0) & (x < 1), "a number in [0, 1)"
    elif name in _AT_MOST_ONE:
        ok, expected = (x >= 0) & (x <= 1), "a number in [0, 1]"
    else:
        ok, expected = (x >= 0) & (x < math.inf), "a finite number of at least 0"
    refuse_where(~ok, x, expected, name)


@dataclass(frozen=True, kw_only=True, repr=False)
class PruningLaw(Law[PruningCase]):
    """A law of pruning: a theorem about a :class:`PruningCase`.

    Parameters
    ----------
    key, title, source, quantity, requires, formula, statement, derive, rank, assumes, \
attained, relaxed
        As of every :class:`~trbounds.theorem.Law`.
    exact : bool
        Whether the quantity equals the value; otherwise it is at most the value.

    Notes
    -----
    Relative error below 1e-14.
    """

    notation: ClassVar = (
        ("mu, pi", "the rollout and the training policy; mu_S, pi_S: pruned to one set S"),
        ("Z, b", "the mass that a context keeps, and b = 1 - Z; b_max is the largest b"),
        ("tau, n", "min-p, and the number of tokens"),
        ("full, pruned", "the policy before and after; P_full, P_pruned of whole sequences"),
        ("T", "horizon: the longest response"),
    )

    exact: bool = False

    @property
    def kind(self) -> Kind:
        """Exact, or an upper bound."""
        return Kind.EXACT if self.exact else super().kind
