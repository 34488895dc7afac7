"""The contract that every bound keeps. No formulas here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trbounds.arrays import asarray_float64, is_numpy
from trbounds.errors import InputError, MissingField
from trbounds.profile import POSITION_FIELDS, DivergenceProfile
from trbounds.special import entropy_dual_gain
from trbounds.theorem import Kind, Source, Theorem

if TYPE_CHECKING:
    from trbounds.oracle import TabularPair

__all__ = [
    "ABSOLUTE_CONTINUITY",
    "BASELINE_IN_RANGE",
    "Assessment",
    "Bound",
    "Kind",
    "Relaxation",
    "Source",
    "largest_surrogate_gain",
]

ABSOLUTE_CONTINUITY = "the training policy gives no probability to tokens that the rollout cannot"
#: For bounds that do without it: adding a constant to the reward then changes L'.
BASELINE_IN_RANGE = (
    "the training policy gives no probability to tokens that the rollout cannot, or else the "
    "surrogate counts rewards from a baseline within their range"
)

# Elements evaluated at a time: small enough that temporaries stay in cache.
_BLOCK = 32_768


@dataclass(frozen=True)
class Relaxation:
    """A simpler, larger form of a bound. It holds everywhere, and loses little where no cap binds.

    Parameters
    ----------
    text : str
        The form, and the condition under which no cap binds.
    formula : callable
        The larger value for rewards in [0, 1].
    """

    text: str
    formula: Callable[[DivergenceProfile], Any]


@dataclass(frozen=True)
class Assessment:
    """A bound evaluated at one profile or a batch.

    Parameters
    ----------
    bound : Bound
        The bound.
    value : float or array
        Upper bound on |Error|, in reward units.
    centred_value : float or array
        The same bound with the reward centred: half of a paper's constant, otherwise `value`.
    relaxed_value : float, array or None
        The relaxed form; None where the bound has none.
    informative : bool or array
        Whether the value lies below the width of the reward range, the largest change of the
        objective. |Error| itself can exceed it.
    can_certify : bool, array or None
        Whether the value lies below :func:`largest_surrogate_gain`. If not, no gain that can be
        measured exceeds it; if so, that is not ruled out. None where the sequence KL is unknown.
    plug_in : bool
        Whether the value rests on estimates or observed maxima: then it is not certified.
    """

    bound: Bound
    value: Any
    centred_value: Any
    relaxed_value: Any
    informative: Any
    can_certify: Any
    plug_in: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Bound(Theorem):
    """An upper bound on |Error| = |J(pi) - J(mu) - L'|, with its statement and its proof.

    A theorem about a policy pair: `requires` names fields of the completed profile, and
    ``formula(profile)`` is the value for rewards in [0, 1].

    Parameters
    ----------
    key, title, source, requires, formula, statement, derive, rank
        As of every :class:`~trbounds.theorem.Theorem`. Papers' bounds rank first, in their order.
    quantity : str
        What it bounds.
    uses : tuple of str
        Further fields that the formula takes into account when they are known.
    growth : float
        Power of ``T`` by which the bound grows when every other quantity is fixed and small.
    assumes : tuple of str
        Assumptions beyond the profile.
    halves : bool
        Whether centring the reward halves the constant (true of the papers' bounds).
    relaxed : Relaxation, optional
        A simpler, larger form.
    attained : callable, optional
        Returns a tabular pair whose |Error| equals the bound: the bound is then tight there.

    Notes
    -----
    Bounds are found with :func:`trbounds.get_bound` and :func:`trbounds.all_bounds`. ``statement``
    and ``derive`` import sympy; ``formula`` does not. Any number of threads may evaluate bounds at
    once, but only one at a time may use ``statement`` and ``derive``: sympy keeps what it knows of
    an expression in the expression, and a thread that looks on meanwhile can miss a sign. To add
    a bound, copy ``trbounds/bounds/_template.py``.
    """

    quantity: str = "|Error|"
    growth: float
    uses: tuple[str, ...] = ()
    assumes: tuple[str, ...] = (ABSOLUTE_CONTINUITY,)
    halves: bool = False
    relaxed: Relaxation | None = None
    attained: Callable[[], TabularPair] | None = None

    def evaluate(self, profile: DivergenceProfile) -> Any:
        """Evaluate the bound.

        Parameters
        ----------
        profile : DivergenceProfile
            What is known; completed here.

        Returns
        -------
        float or array
            Upper bound on |Error| in reward units: a float when every field is a scalar (position
            fields apart), otherwise an array of the batch's shape, on the profile's array
            namespace and device.

        Raises
        ------
        MissingField
            If the completed profile lacks a field the bound requires.
        """
        return self._evaluate(profile.complete(*self.requires, *self.uses), self.formula)

    def assess(self, profile: DivergenceProfile) -> Assessment:
        """Evaluate the bound and say what the value is good for.

        Parameters
        ----------
        profile : DivergenceProfile
            What is known; completed here.

        Returns
        -------
        Assessment
            Value, centred and relaxed value, whether informative, whether it can certify.

        Raises
        ------
        MissingField
            If the completed profile lacks a field the bound requires.
        """
        known = profile.complete(*self.requires, *self.uses, "kl_seq", "reward_var")
        value = self._evaluate(known, self.formula)
        return Assessment(
            bound=self,
            value=value,
            centred_value=value / 2 if self.halves else value,
            relaxed_value=None
            if self.relaxed is None
            else self._evaluate(known, self.relaxed.formula),
            informative=value < known.reward_width,
            can_certify=None if known.kl_seq is None else value < largest_surrogate_gain(known),
            plug_in=any(
                known.provenance[name].plug_in
                for name in (*self.requires, *self.uses)
                if name in known.provenance
            ),
        )

    def _evaluate(
        self, known: DivergenceProfile, formula: Callable[[DivergenceProfile], Any]
    ) -> Any:
        lacking = self.missing(known)
        if lacking:
            raise MissingField(
                f"bound '{self.key}' needs {', '.join(lacking)}; known: "
                f"{', '.join(('T', *known.known))}"
            )
        with np.errstate(over="ignore"):  # a bound beyond float64 is infinite
            value = _in_blocks(known, (*self.requires, *self.uses), formula) * known.reward_width
        return _as_result(value, known)


def _as_result(value: Any, profile: DivergenceProfile) -> Any:
    if is_numpy(profile.xp) and np.ndim(value) == 0:
        return float(value)
    value = asarray_float64(value, xp=profile.xp, like=profile.T)  # a formula may give a number
    return profile.xp.astype(value, profile.dtype, copy=False)


def _in_blocks(
    profile: DivergenceProfile,
    fields: tuple[str, ...],
    formula: Callable[[DivergenceProfile], Any],
) -> Any:
    """Evaluate a large numpy batch a few rows at a time, so that temporaries stay in cache."""
    xp = profile.xp
    known = {"T": profile.T} | {n: getattr(profile, n) for n in fields if n in profile.known}
    if not is_numpy(xp) or any(name in POSITION_FIELDS for name in known):
        return formula(profile)
    shape = np.broadcast_shapes(*(array.shape for array in known.values()))
    if len(shape) < 2 or 0 in shape:
        return formula(profile)
    rows = max(1, _BLOCK // math.prod(shape[1:]))
    out = xp.empty(shape, dtype=xp.float64)
    for start in range(0, shape[0], rows):
        part = slice(start, start + rows)
        cut = {
            name: a[part] if a.ndim == len(shape) and a.shape[0] > 1 else a
            for name, a in known.items()
        }
        block = DivergenceProfile(
            **cut, reward_range=profile.reward_range, conversion=profile.conversion
        )
        out[part] = formula(block)
    return out


def largest_surrogate_gain(profile: DivergenceProfile) -> Any:
    """Upper bound on |L'|, by the sequence KL and the reward's variance.

    ``G(D, v) = inf_{lambda > 1} [lambda D + v (-1 - lambda log(1 - 1/lambda))] = v w`` with
    ``w - log(1 + w) = D/v``, about ``sqrt(2 D v)`` for small D. An improvement is certified when
    ``L'`` exceeds a bound on |Error|: a bound at or above this value never certifies.

    Parameters
    ----------
    profile : DivergenceProfile
        With ``kl_seq`` known or derivable; without ``reward_var`` the largest variance of the
        reward range is taken.

    Returns
    -------
    float or array
        In reward units, of the profile's batch shape and array namespace.

    Raises
    ------
    InputError
        If the profile neither has ``kl_seq`` nor implies it.

    Notes
    -----
    Source: trbounds (proved with ``trbounds derive entropy_dual``). Approached for every ratio D/v
    as v goes to 0, by problems of one token; for larger variances it is not the smallest bound.
    """
    known = profile.complete("kl_seq", "reward_var")
    if known.kl_seq is None:
        raise InputError("the sequence KL is needed", field="kl_seq")
    gain = entropy_dual_gain(known.kl_seq, known.unit_reward_var, xp=known.xp)
    return _as_result(gain * known.reward_width, known)
