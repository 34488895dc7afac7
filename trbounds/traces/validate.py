"""The one place that decides whether logged values are admissible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS, TraceBatch, offsets_of

LOWEST_SAMPLED_LOGPROB = -100.0
"""A token of probability below e^-100 is never sampled: such a value is a filler. The limit
also keeps fourth powers of a ratio well inside float64."""

RANGES = {
    "rollout_logprobs": (LOWEST_SAMPLED_LOGPROB, 0.0),
    "train_logprobs": (-1e4, 0.0),
    "kl": (0.0, 1e4),
    "tv": (0.0, 1.0),
    "chi2": (0.0, float(np.exp(-LOWEST_SAMPLED_LOGPROB))),
    "entropy": (0.0, 1e4),
    "advantages": (-1e30, 1e30),
}
"""Lowest and highest admissible value of the token fields."""

_LARGEST_REWARD, _NARROWEST = 1e30, 1e-30
"""Squares of rewards times weights of up to e^100 stay well inside float64."""

_INT32 = (float(np.iinfo(np.int32).min), float(np.iinfo(np.int32).max))
_POSITIVE = (float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max))


class Ragged(NamedTuple):
    """A column of lists: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: NDArray[np.int64]
    values: NDArray[Any]

    def select(self, keep: NDArray[np.bool_]) -> Ragged:
        """Keep the lists where ``keep`` is true."""
        lengths = np.diff(self.offsets)
        return Ragged(offsets_of(lengths[keep]), self.values[np.repeat(keep, lengths)])


def _forget(error: InputError) -> None:
    """Take no note of a record left out."""


SKIPPING = "on_error='skip' leaves it out"
"""The note of an error that reading can go on after."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a trace.

    Parameters
    ----------
    reward_range : tuple of float
        Lowest and highest admissible reward: from -1e30 to 1e30, the first the smaller by at
        least 1e-30.
    on_error : {"fail", "skip"}
        Raise on the first bad record, or leave it out and call ``on_skip``.
    on_skip : callable
        Receives the error of each record left out.
    batch_tokens : int
        Tokens a batch should hold; a longer sequence makes a batch of its own.
    max_length : int
        Longest admissible sequence, in tokens. Memory grows with the longest sequence.

    Raises
    ------
    InputError
        If a setting is not admissible.
    """

    reward_range: tuple[float, float] = (0.0, 1.0)
    on_error: str = "fail"
    on_skip: Callable[[InputError], None] = field(default=_forget)
    batch_tokens: int = 131_072
    max_length: int = 131_072

    def __post_init__(self) -> None:
        check_reward_range(*self.reward_range)
        if self.on_error not in ("fail", "skip"):
            raise InputError(
                f"found {self.on_error!r}, expected 'fail' or 'skip'", field="on_error"
            )
        for name in ("batch_tokens", "max_length"):
            if getattr(self, name) < 1:
                raise InputError(f"found {getattr(self, name)}, expected at least 1", field=name)

    def refuse(self, error: InputError) -> None:
        """Raise the error, with a note on how to go on, or hand it to ``on_skip``."""
        if self.on_error == "fail":
            if SKIPPING not in getattr(error, "__notes__", ()):
                error.add_note(SKIPPING)
            raise error
        self.on_skip(error)


class _Fault(NamedTuple):
    sequence: int
    field: str
    problem: str


def check_reward_range(low: float, high: float, *, file: str | None = None) -> None:
    """Refuse a range with which squares of rewards and weights would leave float64.

    Parameters
    ----------
    low, high : float
        Lowest and highest admissible reward.
    file : str, optional
        Where they came from.

    Raises
    ------
    InputError
        Unless both are from -1e30 to 1e30, and the first is the smaller by at least 1e-30.
    """
    if not (-_LARGEST_REWARD <= low <= high <= _LARGEST_REWARD and high - low >= _NARROWEST):
        raise InputError(
            f"found ({low:g}, {high:g}), expected two numbers from {-_LARGEST_REWARD:g} to "
            f"{_LARGEST_REWARD:g}, the first the smaller by at least {_NARROWEST:g}",
            file=file,
            field="reward_range",
        )


def validate(batch: TraceBatch, *, reward_range: tuple[float, float] = (0.0, 1.0)) -> None:
    """Check the shapes and values of a batch.

    Parameters
    ----------
    batch : TraceBatch
        The batch. Values of masked tokens are not looked at.
    reward_range : tuple of float
        Lowest and highest admissible reward.

    Raises
    ------
    InputError
        For the first record with an inadmissible value, naming file, record, field, what was
        found and what was expected. Admissible are: ``rollout_logprobs`` in [-100, 0],
        ``train_logprobs`` in [-1e4, 0], ``kl`` and ``entropy`` in [0, 1e4], ``tv`` in [0, 1],
        ``chi2`` in [0, e^100], finite ``advantages``, ``reward`` in ``reward_range``,
        ``temperature`` and ``top_p`` above 0, ``step`` of 32 bits.
    """
    _check_shapes(batch)
    faults = _value_faults(batch, reward_range, first_only=True)
    if faults:
        first = min(faults, key=lambda fault: fault.sequence)
        raise _as_error(first, batch.file, batch.record_numbers)


def assemble(
    columns: Mapping[str, Ragged | NDArray[Any]],
    *,
    file: str,
    first_record: int,
    records: NDArray[np.int64] | None = None,
    missing: Mapping[str, NDArray[np.bool_]] | None = None,
    options: ReadOptions,
) -> TraceBatch:
    """Build a validated batch from the columns of a file.

    Parameters
    ----------
    columns : mapping
        :class:`Ragged` columns under the names of :data:`~trbounds.traces.batch.TOKEN_FIELDS`,
        arrays under those of :data:`~trbounds.traces.batch.SEQUENCE_FIELDS`.
        ``rollout_logprobs`` and ``train_logprobs`` are required.
    file : str
        Where the columns came from.
    first_record : int
        Zero-based number in the file of the first record.
    records : ndarray of int64, optional
        Record numbers where they are not consecutive.
    missing : mapping, optional
        For a column in which some records have no value, which ones (bool, one per record).
    options : ReadOptions
        Admissible rewards and lengths, and what to do with a bad record.

    Returns
    -------
    TraceBatch
        Only admissible records; it may have none when bad ones are skipped. ``mask`` may come
        as numbers 0 and 1, ``weight_version`` as whole numbers of any type.

    Raises
    ------
    InputError
        As :func:`validate`, and for lists of unequal length, unless bad records are skipped.
    """
    lists = {name: column for name, column in columns.items() if isinstance(column, Ragged)}
    plain = {name: column for name, column in columns.items() if not isinstance(column, Ragged)}
    offsets = lists["rollout_logprobs"].offsets
    if records is None:
        records = first_record + np.arange(offsets.size - 1, dtype=np.int64)
    faults = [
        _Fault(int(i), name, "found no value, expected one in every record")
        for name, absent in (missing or {}).items()
        for i in np.flatnonzero(absent)
    ]
    faults += _length_faults(lists, options.max_length)
    faults += _whole_number_faults(lists)
    keep = _refuse(faults, file, records, options)
    if not keep.all():
        lists = {name: column.select(keep) for name, column in lists.items()}
        plain = {name: column[keep] for name, column in plain.items()}
        records = records[keep]
    tokens = {name: column.values for name, column in lists.items()}
    for name, kind in (("mask", np.bool_), ("weight_version", np.int64)):
        if name in tokens:
            tokens[name] = tokens[name].astype(kind)
    consecutive = records.size == 0 or bool(
        records[-1] - records[0] == records.size - 1 and np.all(np.diff(records) == 1)
    )
    batch = TraceBatch(
        offsets=lists["rollout_logprobs"].offsets,
        file=file,
        first_record=int(records[0]) if records.size else first_record,
        records=None if consecutive else records,
        **tokens,
        **plain,
    )
    first_only = options.on_error == "fail"
    faults = _value_faults(batch, options.reward_range, first_only=first_only)
    keep = _refuse(faults, file, records, options)
    return batch if keep.all() else batch.select(keep)


def _refuse(
    faults: list[_Fault], file: str, records: NDArray[np.int64], options: ReadOptions
) -> NDArray[np.bool_]:
    """Report the first fault of each bad record; say which records are left."""
    keep = np.ones(records.size, dtype=bool)
    for fault in sorted(faults, key=lambda item: item.sequence):
        if keep[fault.sequence]:
            keep[fault.sequence] = False
            options.refuse(_as_error(fault, file, records))
    return keep


def _as_error(fault: _Fault, file: str, records: NDArray[np.int64]) -> InputError:
    return InputError(
        fault.problem, file=file, record=int(records[fault.sequence]), field=fault.field
    )


def _length_faults(lists: Mapping[str, Ragged], max_length: int) -> list[_Fault]:
    expected = np.diff(lists["rollout_logprobs"].offsets)
    faults = [
        _Fault(
            int(i),
            "rollout_logprobs",
            f"found {expected[i]} entries, expected at most {max_length} (max_length)",
        )
        for i in np.flatnonzero(expected > max_length)
    ]
    for name, column in lists.items():
        found = np.diff(column.offsets)
        faults += [
            _Fault(
                int(i),
                name,
                f"found {found[i]} entries, expected {expected[i]} as in rollout_logprobs",
            )
            for i in np.flatnonzero(found != expected)
        ]
    return faults


def _whole_number_faults(lists: Mapping[str, Ragged]) -> list[_Fault]:
    """Find entries of ``mask`` that are neither 0 nor 1, and broken weight versions."""
    faults = []
    for name, expected in (("mask", "0 or 1"), ("weight_version", "a whole number")):
        if name not in lists or lists[name].values.dtype.kind in "bi":
            continue
        offsets, values = lists[name]
        fine = (values == 0) | (values == 1) if name == "mask" else np.abs(values) < 2**53
        fine &= values == np.floor(values)
        for token in np.flatnonzero(~fine):
            owner = int(np.searchsorted(offsets, token, side="right")) - 1
            problem = f"found {_found(values[token])}, expected {expected}"
            faults.append(_Fault(owner, name, problem))
    return faults


def _check_shapes(batch: TraceBatch) -> None:
    offsets = batch.offsets
    if offsets.ndim != 1 or offsets.size < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise InputError(
            "expected one-dimensional, non-decreasing integers that start at 0",
            file=batch.file,
            field="offsets",
        )
    for names, size in ((TOKEN_FIELDS, batch.n_tokens), (SEQUENCE_FIELDS, batch.n_sequences)):
        for name in names:
            values = getattr(batch, name)
            if values is not None and values.shape != (size,):
                raise InputError(
                    f"found shape {values.shape}, expected ({size},)", file=batch.file, field=name
                )


def _value_faults(
    batch: TraceBatch, reward_range: tuple[float, float], *, first_only: bool
) -> list[_Fault]:
    faults: list[_Fault] = []
    for name, (low, high) in RANGES.items():
        values = getattr(batch, name)
        if values is not None:
            faults += _token_faults(batch, name, values, low, high, first_only=first_only)
    for name, (low, high) in (
        ("reward", reward_range),
        ("temperature", _POSITIVE),
        ("top_p", (_POSITIVE[0], 1.0)),
        ("step", _INT32),
    ):
        values = getattr(batch, name)
        if values is not None:
            bad = np.flatnonzero(~((values >= low) & (values <= high)))
            faults += [
                _Fault(
                    int(i), name, f"found {values[i]:.10g}, expected {_expected(name, low, high)}"
                )
                for i in bad
            ]
    return faults


def _token_faults(
    batch: TraceBatch,
    name: str,
    values: NDArray[np.float64],
    low: float,
    high: float,
    *,
    first_only: bool,
) -> list[_Fault]:
    # Two reductions decide the usual case; a NaN makes both comparisons false.
    counted = values if batch.mask is None else values[batch.mask]
    if counted.size == 0 or (counted.min() >= low and counted.max() <= high):
        return []
    bad = ~((values >= low) & (values <= high))
    if batch.mask is not None:
        bad &= batch.mask
    tokens = np.flatnonzero(bad)
    if first_only:
        tokens = tokens[:1]
    owners = np.searchsorted(batch.offsets, tokens, side="right") - 1
    owners, first = np.unique(owners, return_index=True)
    return [
        _Fault(
            int(owner),
            name,
            f"found {_found(values[token])} at position {batch.place(int(token))[2]}, "
            f"expected {_expected(name, low, high)}",
        )
        for owner, token in zip(owners, tokens[first], strict=True)
    ]


def _found(value: float) -> str:
    return "a missing value (null or NaN)" if np.isnan(value) else f"{value:g}"


def _expected(name: str, low: float, high: float) -> str:
    if name.endswith("_logprobs"):
        return f"a log-probability in [{low:g}, 0] (nats)"
    if name == "step":
        return "a whole number of 32 bits"
    if name in ("temperature", "top_p"):
        return "a number above 0" if high > 1.0 else "a number in (0, 1]"
    return f"a number in [{low:g}, {high:g}]"
