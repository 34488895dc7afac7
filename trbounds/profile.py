"""What is known about a policy pair, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import numpy as np

from trbounds.arrays import array_namespace, asarray_float64, to_numpy
from trbounds.divergences import tv_from_kl_pinsker, tv_from_kl_sharp
from trbounds.errors import InputError

__all__ = ["FIELDS", "POSITION_FIELDS", "Conversion", "DivergenceProfile", "Provenance"]

Conversion = Literal["pinsker", "sharp"]

#: Fields with one value per position, on a trailing axis of length ``T``.
POSITION_FIELDS = ("tv_mean", "kl_mean", "chi2_mean", "chi2_position_max")

#: Every optional field, with what it means.
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "tv_max": "largest TV over reachable contexts",
        "kl_max": "largest KL(rollout || train) over reachable contexts",
        "chi2_max": "largest chi2(train || rollout) over reachable contexts",
        "tv_mean": "mean TV at each position, over rollouts",
        "kl_mean": "mean KL(rollout || train) at each position, over rollouts",
        "chi2_mean": "mean chi2(train || rollout) at each position, over rollouts",
        "chi2_position_max": "largest chi2(train || rollout) at each position",
        "tv_seq": "TV of the two distributions of whole sequences",
        "kl_seq": "KL(rollout || train) of whole sequences, the sum of the mean KLs",
        "tv_total": "mean over rollouts of the per-sequence sum of TV",
        "chi2_total": "mean over rollouts of the per-sequence sum of chi2",
        "kl_position_moment": "sum over positions s of (s - 1) times the mean KL at s",
        "chi2_path_max": "largest per-sequence sum of chi2 over rollouts",
        "kl_path_max": "largest per-sequence sum of KL over rollouts",
        "chi2_stop_budget": "budget x at which the running sum of chi2 is stopped",
        "chi2_stop_prob": "probability under the training policy that the budget is exceeded",
        "chi2_stop_tail": "mean over rollouts of the sum of chi2 from the stopping step on",
        "log_ratio_max": "largest |log(train / rollout)| of a token",
        "residual_square": "E_mu[(W - 1 - M)^2] under the rollout policy",
        "reward_var": "mean within-prompt variance of the reward, in reward units squared",
    }
)

_AT_MOST_ONE = {"tv_max", "tv_mean", "tv_seq", "chi2_stop_prob"}


@dataclass(frozen=True)
class Provenance:
    """Where a value of a profile comes from.

    Parameters
    ----------
    kind : {"given", "derived", "estimated", "observed"}
        Given by the caller; derived from other fields by a proved relation; estimated from
        samples; or the largest value observed in samples, which is not the largest possible.
    by : str
        The relation, or how the estimate was made.
    standard_error : float, optional
        Of an estimate.
    plug_in : bool
        True when the value rests on an estimate or an observed maximum, directly or through
        the fields it is derived from. What is computed from it is then not certified.
    """

    kind: Literal["given", "derived", "estimated", "observed"]
    by: str = ""
    standard_error: float | None = None
    plug_in: bool = False

    def __post_init__(self) -> None:
        if self.kind in ("estimated", "observed"):
            object.__setattr__(self, "plug_in", True)


_GIVEN = Provenance("given")


@dataclass(frozen=True, kw_only=True, eq=False)
class DivergenceProfile:
    """What is known about a rollout policy mu and a training policy pi.

    Every field but the horizon is optional; a bound says which ones it needs, and
    :meth:`complete` derives what can be derived. Divergences are in nats (natural log), with
    ``kl`` meaning KL(mu || pi) and ``chi2`` meaning chi2(pi || mu) = sum pi^2/mu - 1. Note that
    KL(mu || pi) is not bounded by log(1 + chi2(pi || mu)): the directions differ.

    Scalars may be arrays that broadcast against each other: a batch of profiles. The fields of
    ``POSITION_FIELDS`` carry positions 1..T on a trailing axis of length ``T``.

    Parameters
    ----------
    T : int or array
        Horizon: the longest response, at least 1.
    tv_max, kl_max, chi2_max, tv_mean, kl_mean, chi2_mean, chi2_position_max, tv_seq, kl_seq, \
tv_total, chi2_total, kl_position_moment, chi2_path_max, kl_path_max, chi2_stop_budget, \
chi2_stop_prob, chi2_stop_tail, log_ratio_max, residual_square, reward_var : array or float
        As :data:`FIELDS` says. Finite and non-negative; TVs and probabilities at most 1.
    reward_range : (float, float)
        Smallest and largest reward. Every bound scales with the width.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV: ``min(1, sqrt(kl/2))``, or the exact largest TV that a KL allows.
    provenance : mapping of str to Provenance
        Where each value comes from; "given" by default.
    dtype : dtype, optional
        Of the bounds evaluated from it; that of the floating arrays given by default. Values are
        kept, and bounds computed, in float64 all the same.

    Raises
    ------
    InputError
        If a value is out of range, not finite, or of the wrong length.

    Notes
    -----
    Source: TRM (arXiv 2512.23075) sections 2 and 3 for the quantities; the path sums, the second
    moments and the sharp conversion are trbounds'.
    """

    T: Any
    tv_max: Any = None
    kl_max: Any = None
    chi2_max: Any = None
    tv_mean: Any = None
    kl_mean: Any = None
    chi2_mean: Any = None
    chi2_position_max: Any = None
    tv_seq: Any = None
    kl_seq: Any = None
    tv_total: Any = None
    chi2_total: Any = None
    kl_position_moment: Any = None
    chi2_path_max: Any = None
    kl_path_max: Any = None
    chi2_stop_budget: Any = None
    chi2_stop_prob: Any = None
    chi2_stop_tail: Any = None
    log_ratio_max: Any = None
    residual_square: Any = None
    reward_var: Any = None
    reward_range: tuple[float, float] = (0.0, 1.0)
    conversion: Conversion = "pinsker"
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.conversion not in ("pinsker", "sharp"):
            raise InputError(
                f"found {self.conversion!r}, expected 'pinsker' or 'sharp'", field="conversion"
            )
        self._check_reward_range()
        known = {name: value for name, value in self._raw() if value is not None}
        xp = array_namespace(self.T, *known.values())
        like = next((v for v in (self.T, *known.values()) if hasattr(v, "dtype")), None)
        if self.dtype is None:
            object.__setattr__(self, "dtype", _result_dtype(xp, [self.T, *known.values()]))
        for name, value in {"T": self.T, **known}.items():
            array = _as_array(name, value, xp, like)
            _check_values(name, array, xp, self.reward_range)
            object.__setattr__(self, name, array)
        shape: tuple[int, ...] = ()
        for name in ("T", *known):
            shape = self._check_shape(name, shape)
        for name in self.provenance:
            if name not in FIELDS:
                raise InputError(f"found '{name}', which is no field", field="provenance")
        marks = {name: self.provenance.get(name, _GIVEN) for name in known}
        object.__setattr__(self, "provenance", MappingProxyType(marks))

    def _raw(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in FIELDS)

    def _check_reward_range(self) -> None:
        try:
            low, high = (float(r) for r in self.reward_range)
        except (TypeError, ValueError):
            raise InputError(
                f"found {self.reward_range!r}, expected two numbers", field="reward_range"
            ) from None
        if not (-float("inf") < low < high < float("inf")):
            raise InputError(
                f"found ({low}, {high}), expected two finite numbers, the first the smaller",
                field="reward_range",
            )
        object.__setattr__(self, "reward_range", (low, high))

    def _check_positions(self, name: str) -> None:
        array = getattr(self, name)
        length = array.shape[-1] if array.ndim else 0
        horizons = to_numpy(self.T)
        if array.ndim == 0 or not bool((horizons == length).all()):
            raise InputError(
                f"found {length} positions, expected a trailing axis of length T = {horizons}",
                field=name,
            )

    def _check_shape(self, name: str, batch: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the batch with one more field in it."""
        shape = getattr(self, name).shape
        if name in POSITION_FIELDS:
            self._check_positions(name)
            shape = shape[:-1]
        try:
            return np.broadcast_shapes(batch, shape)
        except ValueError:
            raise InputError(
                f"found a batch of shape {shape}, expected one that broadcasts against {batch}",
                field=name,
            ) from None

    # -- reading -------------------------------------------------------------------------------

    @property
    def xp(self) -> ModuleType:
        """Array namespace of the values."""
        return array_namespace(self.T)

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the fields that have a value."""
        return tuple(name for name, value in self._raw() if value is not None)

    @property
    def reward_width(self) -> float:
        """Width of the reward range."""
        return self.reward_range[1] - self.reward_range[0]

    @property
    def unit_reward_var(self) -> Any:
        """The reward's variance for rewards rescaled to [0, 1]; 1/4 where it is not known."""
        if self.reward_var is None:
            return asarray_float64(0.25, xp=self.xp, like=self.T)
        return self.reward_var / self.reward_width**2

    def tv_from_kl(self, kl: Any) -> Any:
        """Largest TV that a KL allows, by the profile's conversion."""
        return tv_from_kl_sharp(kl) if self.conversion == "sharp" else tv_from_kl_pinsker(kl)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain numbers and lists, each value with its provenance."""
        values = {
            name: {
                "value": to_numpy(value).tolist(),
                "kind": mark.kind,
                **({"by": mark.by} if mark.by else {}),
                **({} if mark.standard_error is None else {"standard_error": mark.standard_error}),
                "plug_in": mark.plug_in,
            }
            for name, value in self._raw()
            if value is not None
            for mark in [self.provenance[name]]
        }
        return {
            "T": to_numpy(self.T).astype("int64").tolist(),
            **values,
            "reward_range": list(self.reward_range),
            "conversion": self.conversion,
        }

    # -- making --------------------------------------------------------------------------------

    def with_values(self, **changes: Any) -> DivergenceProfile:
        """Return a copy with some fields replaced (their provenance becomes "given")."""
        marks = {k: v for k, v in self.provenance.items() if k not in changes}
        changes["provenance"] = marks | dict(changes.get("provenance", {}))
        return replace(self, **changes)

    def complete(self, *wanted: str) -> DivergenceProfile:
        """Return the profile with every field that the known ones bound.

        Parameters
        ----------
        *wanted : str
            Bound only these fields and what they are derived through; all fields by default.

        Notes
        -----
        A given value is kept, even where a relation would give a smaller one. Of several
        relations that bound a missing field the smallest result is taken. Applying this twice
        changes nothing.
        """
        from trbounds.relations import derive_missing

        values, marks = derive_missing(self, wanted or FIELDS)
        return replace(self, **values, provenance={**self.provenance, **marks}) if values else self

    @classmethod
    def uniform(cls, T: int, **scalars: Any) -> DivergenceProfile:
        """Spread per-token maxima evenly over the positions: every mean is the maximum.

        Parameters
        ----------
        T : int
            Horizon, at most 10 million (the positions are stored one by one).
        **scalars : float
            Any of ``tv_max``, ``kl_max``, ``chi2_max`` and further fields.

        Returns
        -------
        DivergenceProfile
            With ``tv_mean``, ``kl_mean``, ``chi2_mean`` and ``chi2_position_max`` filled in where
            their maximum is given, hence ``kl_seq = T kl_max`` by completion.
        """
        if not 1 <= T <= 10_000_000:
            raise InputError(f"found {T}, expected 1 to 10,000,000", field="T")
        base = cls(T=T, **scalars)
        xp = base.xp
        sources = {
            name: source
            for name, source in (
                ("tv_mean", "tv_max"),
                ("kl_mean", "kl_max"),
                ("chi2_mean", "chi2_max"),
                ("chi2_position_max", "chi2_max"),
            )
            if getattr(base, source) is not None and getattr(base, name) is None
        }
        spread = {
            name: xp.broadcast_to(value[..., None], (*value.shape, T))
            for name, value in ((name, getattr(base, source)) for name, source in sources.items())
        }
        marks = {
            name: Provenance(
                "derived",
                by="uniform: every position at its maximum",
                plug_in=base.provenance[source].plug_in,
            )
            for name, source in sources.items()
        }
        return replace(base, **spread, provenance={**base.provenance, **marks})


def _result_dtype(xp: ModuleType, values: list[Any]) -> Any:
    floating = [v for v in values if hasattr(v, "dtype") and xp.isdtype(v.dtype, "real floating")]
    return xp.result_type(*floating) if floating else xp.float64


def _as_array(name: str, value: Any, xp: ModuleType, like: Any) -> Any:
    if isinstance(value, (str, bytes, bool)):
        raise InputError(f"found {value!r}, expected a number", field=name)
    try:
        return asarray_float64(value, xp=xp, like=like)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected a number or an array of numbers ({error})", field=name
        ) from None


def _check_values(name: str, array: Any, xp: ModuleType, reward_range: tuple[float, float]) -> None:
    def refuse(bad: Any, expected: str) -> None:
        if bool(xp.any(bad)):
            found = to_numpy(array)[to_numpy(bad)].ravel()[0]
            raise InputError(f"found {found:g}, expected {expected}", field=name)

    refuse(~xp.isfinite(array), "a finite number")
    if name == "T":
        refuse(
            (array < 1) | (array != xp.round(array)) | (array > 2.0**53),
            "a whole number of at least 1",
        )
        return
    refuse(array < 0, "a number of at least 0")
    if name in _AT_MOST_ONE:
        refuse(array > 1, "a number of at most 1")
    if name == "reward_var":
        largest = (reward_range[1] - reward_range[0]) ** 2 / 4
        # A sample variance of a 0/1 reward can exceed 1/4 by rounding alone.
        refuse(
            array > largest * (1 + 1e-12), f"at most a quarter of the squared range, {largest:g}"
        )
