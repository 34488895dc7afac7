"""How close an instance comes to a bound, and files of such instances."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import numpy as np

from trbounds.bound import Bound
from trbounds.errors import InputError
from trbounds.oracle.exact import exact, stopped_path_fields
from trbounds.oracle.profiles import profile_of
from trbounds.oracle.tabular import TabularPair

__all__ = [
    "Tightness",
    "best_known",
    "error_over_bound",
    "load_tightness",
    "save_tightness",
]

#: A ratio above this is a counterexample; rounding stays far below it.
VIOLATION = 1 + 1e-9
_FORMAT, _VERSION = "trbounds-tightness", 1
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Tightness:
    """The tightest instance found for one bound.

    Parameters
    ----------
    key : str
        The bound.
    ratio : float
        |Error| over the bound's value.
    centred_ratio : float
        |Error| over the value with the reward centred: twice `ratio` for a paper's bound.
    pair : TabularPair
        The instance, its reward included.
    stop_budget : float or None
        Budget of the stopped path sum, where the bound has one.
    family : str
        How it was parametrised.
    evaluations : int
        Instances enumerated by the search.
    seed : int
        Of the search.
    """

    key: str
    ratio: float
    centred_ratio: float
    pair: TabularPair
    stop_budget: float | None
    family: str
    evaluations: int
    seed: int

    @property
    def violates(self) -> bool:
        """Whether the instance refutes the bound: it is then wrong."""
        return self.centred_ratio > VIOLATION

    def __str__(self) -> str:
        """Return one line for people; a violation is shouted."""
        if self.violates:
            return (
                f"{self.key}: VIOLATED, |Error| is {self.centred_ratio:.9g} times the bound "
                f"(T = {self.pair.T}, vocabulary {self.pair.A}): the bound is wrong"
            )
        return (
            f"{self.key}: |Error| reaches {self.ratio:.6f} of the bound, {self.centred_ratio:.6f} "
            f"with the reward centred (T = {self.pair.T}, vocabulary {self.pair.A})"
        )


def error_over_bound(
    bound: Bound, pair: TabularPair, stop_budget: float | None = None
) -> tuple[float, float]:
    """Return |Error| over a bound's value, and over its value with the reward centred.

    Parameters
    ----------
    bound : Bound
        The bound.
    pair : TabularPair
        The instance, with its reward.
    stop_budget : float, optional
        Budget of the stopped path sum of chi2.

    Returns
    -------
    tuple of float
        Both ratios; 0 where the error is 0.

    Raises
    ------
    InputError
        If a divergence that the bound needs is infinite or unknown.
    """
    truth = exact(pair)
    profile = profile_of(truth)
    if stop_budget is not None:
        stop = stopped_path_fields(pair, stop_budget)
        profile = profile.with_values(
            **{name: _probability(name, value) for name, value in stop.items()}
        )
    value = float(bound.evaluate(profile))
    ratio = _over(abs(float(truth.error)), value)
    return ratio, 2 * ratio if bound.halves else ratio


def _probability(name: str, value: Any) -> float:
    return min(float(value), 1.0) if name == "chi2_stop_prob" else float(value)


def _over(error: float, value: float) -> float:
    if error == 0:
        return 0.0
    return error / value if value > 0 else float("inf")


# -- files -------------------------------------------------------------------------------------


def save_tightness(results: Iterable[Tightness], path: str | os.PathLike[str]) -> None:
    """Write results as JSON; floats survive exactly.

    Parameters
    ----------
    results : iterable of Tightness
        In the order they are to have.
    path : path
        Written under a temporary name and renamed.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    from trbounds.traces.writing import replacing

    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "results": [_to_record(result) for result in results],
    }
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file, allow_nan=False, separators=(",", ":"))
        file.write("\n")


def load_tightness(path: str | os.PathLike[str]) -> tuple[Tightness, ...]:
    """Read what :func:`save_tightness` wrote.

    Parameters
    ----------
    path : path
        The file, at most 64 MiB.

    Returns
    -------
    tuple of Tightness
        The results.

    Raises
    ------
    InputError
        If the file is not of this form; the message names the record and the field.
    """
    name = os.fspath(path)
    try:
        if os.path.getsize(name) > _MOST_BYTES:
            raise InputError("is larger than 64 MiB", file=name)
        with open(name, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=name) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not JSON ({error})", file=name) from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError(f"expected a JSON object of format '{_FORMAT}'", file=name)
    if document.get("version") != _VERSION:
        found = document.get("version")
        raise InputError(f"found version {found!r}, expected {_VERSION}", file=name)
    records = document.get("results")
    if not isinstance(records, list):
        raise InputError("expected a list", file=name, field="results")
    return tuple(_from_record(record, name, i) for i, record in enumerate(records))


def best_known() -> tuple[Tightness, ...]:
    """Return the tightest instances that ship with trbounds, one per bound."""
    with as_file(files("trbounds") / "data" / "tightness.json") as path:
        return load_tightness(path)


def _to_record(result: Tightness) -> dict[str, Any]:
    pair = result.pair
    rows: dict[tuple[float, ...], int] = {}

    def numbered(policy: tuple[Any, ...]) -> list[list[list[int]]]:
        return [
            [
                [rows.setdefault(tuple(row), len(rows)) for row in prompt]
                for prompt in table.tolist()
            ]
            for table in policy
        ]

    rollout, train = numbered(pair.rollout), numbered(pair.train)
    return {
        "bound": result.key,
        "ratio": result.ratio,
        "centred_ratio": result.centred_ratio,
        "stop_budget": result.stop_budget,
        "family": result.family,
        "evaluations": result.evaluations,
        "seed": result.seed,
        "T": pair.T,
        "vocabulary": pair.A,
        "eos": pair.eos,
        "reward_range": list(pair.reward_range),
        "prompt_probability": pair.prompt_probability.tolist(),
        # Distributions that occur, and which of them each context has.
        "rows": [list(row) for row in rows],
        "rollout": rollout,
        "train": train,
        "reward": pair.reward.tolist(),
    }


def _from_record(record: Any, file: str, number: int) -> Tightness:
    field = None
    try:
        rows = np.asarray(_read(record, "rows", list), dtype=np.float64)
        policies = {}
        for field in ("rollout", "train"):
            tables = [np.asarray(t, dtype=np.int64) for t in _read(record, field, list)]
            if any(table.min() < 0 for table in tables):
                raise InputError("found a negative row number", field=field)
            policies[field] = tuple(rows[table] for table in tables)
        field = "reward"
        pair = TabularPair(
            **policies,
            reward=np.asarray(_read(record, "reward", list), dtype=np.float64),
            prompt_probability=np.asarray(_read(record, "prompt_probability", list)),
            reward_range=tuple(_read(record, "reward_range", list)),
            eos=record.get("eos"),
        )
        field = None
        budget = record.get("stop_budget")
        return Tightness(
            key=_read(record, "bound", str),
            ratio=_read(record, "ratio", float),
            centred_ratio=_read(record, "centred_ratio", float),
            pair=pair,
            stop_budget=None if budget is None else _read(record, "stop_budget", float),
            family=_read(record, "family", str),
            evaluations=_read(record, "evaluations", int),
            seed=_read(record, "seed", int),
        )
    except InputError as error:
        raise InputError(error.problem, file=file, record=number, field=error.field) from None
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(str(error), file=file, record=number, field=field) from None


def _read(record: Any, name: str, kind: type) -> Any:
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, kind):
        found = type(value).__name__
        raise InputError(f"found {found}, expected {kind.__name__}", field=name)
    return value
