"""What is known about a policy pair, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import numpy as np

from trbounds.arrays import array_namespace, asarray_float64, device, to_numpy
from trbounds.checks import COUNT, as_number, as_number_arrays, is_count, kept, refuse_where
from trbounds.divergences import tv_from_kl_pinsker, tv_from_kl_sharp
from trbounds.errors import InputError
from trbounds.provenance import Provenance
from trbounds.relations import RELATIONS, derive_missing

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

# Positions are stored one by one.
_LONGEST_UNIFORM = 10_000_000

_AT_MOST_ONE = {"tv_max", "tv_mean", "tv_seq", "chi2_stop_prob"}


_GIVEN = Provenance("given")
_TEXTS = {relation.text for relation in RELATIONS}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DivergenceProfile:
    """What is known about a rollout policy mu and a training policy pi.

    Every field but the horizon is optional; a bound says which ones it needs, and
    :meth:`complete` derives what can be derived. Divergences are in nats (natural log), with
    ``kl`` meaning KL(mu || pi) and ``chi2`` meaning chi2(pi || mu) = sum pi^2/mu - 1. Note that
    KL(mu || pi) is not bounded by log(1 + chi2(pi || mu)): the directions differ.

    Scalars may be arrays that broadcast against each other: a batch of profiles. The fields of
    ``POSITION_FIELDS`` carry positions 1..T on a trailing axis of length ``T``. A profile keeps
    copies of numpy arrays, which are read-only.

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
        given = {"T": self.T} | {name: value for name, value in self._raw() if value is not None}
        if self.dtype is None:
            object.__setattr__(self, "dtype", _result_dtype(list(given.values())))
        for name, array in as_number_arrays(given).items():
            _check_values(name, array, self.reward_width)
            object.__setattr__(self, name, kept(array))
        shape: tuple[int, ...] = ()
        for name in given:
            shape = self._check_shape(name, shape)
        _check_names(self.provenance, "provenance")
        marks = {name: self.provenance.get(name, _GIVEN) for name in self.known}
        object.__setattr__(self, "provenance", MappingProxyType(marks))

    def _raw(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in FIELDS)

    def _check_reward_range(self) -> None:
        try:
            low, high = (as_number("reward_range", r) for r in self.reward_range)
        except (TypeError, ValueError):
            raise InputError(
                f"found {self.reward_range!r}, expected two numbers", field="reward_range"
            ) from None
        if not 1e-150 <= high - low <= 1e150:  # the square of the width is needed too
            raise InputError(
                f"found ({low}, {high}), expected two numbers, the first the smaller by 1e-150 to "
                "1e150",
                field="reward_range",
            )
        object.__setattr__(self, "reward_range", (low, high))

    def _check_positions(self, name: str) -> None:
        array = getattr(self, name)
        horizons = to_numpy(self.T).astype("int64")
        if array.ndim == 0 or bool((horizons != array.shape[-1]).any()):
            found = f"{array.shape[-1]} positions" if array.ndim else "one number for all positions"
            raise InputError(
                f"found {found}, expected a trailing axis of length T = {horizons}", field=name
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

    def __repr__(self) -> str:
        """Return the known fields, long ones abridged."""
        values = {"T": to_numpy(self.T).astype("int64")}
        values |= {name: to_numpy(getattr(self, name)) for name in self.known}
        shown = [
            f"{name}={np.array2string(value, precision=6, separator=', ', threshold=6)}"
            for name, value in values.items()
        ]
        shown += [f"reward_range={self.reward_range}"] * (self.reward_range != (0.0, 1.0))
        shown += [f"conversion={self.conversion!r}"] * (self.conversion != "pinsker")
        return f"DivergenceProfile({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        # Read-only mappings cannot be pickled.
        return self.__dict__ | {"provenance": dict(self.provenance)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, provenance=MappingProxyType(state["provenance"]))

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
        """Return the largest TV that a KL (nats, at least 0) allows, by the conversion."""
        return tv_from_kl_sharp(kl) if self.conversion == "sharp" else tv_from_kl_pinsker(kl)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain numbers and lists, as JSON takes them.

        Returns
        -------
        dict
            ``T``, ``reward_range``, ``conversion``, and per known field its ``value``, ``kind``,
            ``plug_in`` and, where there are any, ``by`` and ``standard_error``.
        """
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
        """Return a copy with some fields replaced.

        Parameters
        ----------
        **changes
            Any parameters of the class; None forgets a field.

        Returns
        -------
        DivergenceProfile
            In which the replaced fields are "given". What :meth:`complete` had derived is left
            out, since it may have followed from what is replaced.
        """
        stale = [k for k, v in self.provenance.items() if v.kind == "derived" and v.by in _TEXTS]
        changes = dict.fromkeys(stale) | changes
        marks = {k: v for k, v in self.provenance.items() if k not in changes}
        changes["provenance"] = marks | dict(changes.get("provenance", {}))
        return replace(self, **changes)

    def complete(self, *wanted: str) -> DivergenceProfile:
        """Return the profile with every field that the known ones bound.

        Parameters
        ----------
        *wanted : str
            Bound only these fields and what they are derived through; all fields by default.

        Returns
        -------
        DivergenceProfile
            With the provenance of what was derived; the profile itself if nothing was.

        Raises
        ------
        InputError
            If one of them is no field.

        Notes
        -----
        A given value is kept, even where a relation would give a smaller one. Of several
        relations that bound a missing field the smallest result is taken. Applying this twice
        changes nothing.
        """
        _check_names(wanted, "wanted")
        values, marks = derive_missing(self, wanted or FIELDS)
        return replace(self, **values, provenance={**self.provenance, **marks}) if values else self

    @classmethod
    def uniform(cls, T: int, **scalars: Any) -> DivergenceProfile:
        """Spread per-token maxima evenly over the positions: every mean is the maximum.

        Parameters
        ----------
        T : int
            One horizon, at most 10 million (the positions are stored one by one).
        **scalars : float
            Any of ``tv_max``, ``kl_max``, ``chi2_max`` and further fields.

        Returns
        -------
        DivergenceProfile
            With ``tv_mean``, ``kl_mean``, ``chi2_mean`` and ``chi2_position_max`` filled in where
            their maximum is given, hence ``kl_seq = T kl_max`` by completion.

        Raises
        ------
        InputError
            If T is not one number in range, or a field is wrong.
        """
        base = cls(T=T, **scalars)
        if base.T.ndim or base.T > _LONGEST_UNIFORM:
            raise InputError(
                f"found {T}, expected one horizon of at most {_LONGEST_UNIFORM:,}", field="T"
            )
        xp, length = base.xp, int(base.T)
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
            name: xp.broadcast_to(value[..., None], (*value.shape, length))
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


def _result_dtype(values: list[Any]) -> Any:
    xp = array_namespace(*values)
    # Numpy's scalars are no arrays, and may stand beside arrays of another library.
    dtypes = [v.dtype for v in values if device(v) is not None]
    floating = [dtype for dtype in dtypes if xp.isdtype(dtype, "real floating")]
    return xp.result_type(*floating) if floating else xp.float64


def _check_names(names: Iterable[str], field: str) -> None:
    for name in names:
        if name not in FIELDS:
            raise InputError(f"found '{name}', expected one of {', '.join(FIELDS)}", field=field)


def _check_values(name: str, array: Any, reward_width: float) -> None:
    xp = array_namespace(array)
    if name == "T":
        refuse_where(~is_count(array, xp), array, COUNT, name)
        return
    refuse_where(~xp.isfinite(array), array, "a finite number", name)
    refuse_where(array < 0, array, "a number of at least 0", name)
    if name in _AT_MOST_ONE:
        refuse_where(array > 1, array, "a number of at most 1", name)
    if name == "reward_var":
        largest = reward_width**2 / 4
        # A sample variance of a 0/1 reward can exceed 1/4 by rounding alone.
        expected = f"at most a quarter of the squared range, {largest:g}"
        refuse_where(array > largest * (1 + 1e-12), array, expected, name)
