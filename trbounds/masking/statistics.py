"""Statistics of a sequence that masking rules compare with a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.masking.length_neutral import length_neutral_score, length_neutral_weights
from trbounds.traces.batch import TraceBatch
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.summary import TraceSummary
from trbounds.traces.token_terms import k3_of

__all__ = [
    "STATISTICS",
    "Statistic",
    "compute_statistics",
    "get_statistic",
    "needs_tokens",
    "weights_of",
]

Floats = NDArray[np.float64]

_BLOCK_TOKENS = 131_072


@dataclass(frozen=True)
class Statistic:
    """One number per sequence.

    Parameters
    ----------
    name : str
        As rules write it.
    title : str
        What it is.
    needs : tuple of str
        Optional trace fields it needs.
    column : callable or None
        From the table of a summary; None where the tokens are needed.
    aggregate, term : str
        How the tokens make it; both empty for LN-TRM.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    column: Callable[[SequenceTable], NDArray[Any]] | None
    aggregate: str = ""
    term: str = ""


#: Terms of a token; the empty sum, and the empty maximum, is 0 (1 for a ratio).
_TERMS: dict[str, tuple[str, Callable[[TraceBatch], Floats]]] = {
    "k1": ("-log rho", lambda batch: -batch.log_ratio),
    "k2": ("(log rho)^2/2", lambda batch: 0.5 * batch.log_ratio**2),
    "k3": ("rho - 1 - log rho", lambda batch: k3_of(batch.log_ratio, batch.ratio_minus_one)),
    "|rho-1|": ("|rho - 1|", lambda batch: np.abs(batch.ratio_minus_one)),
    "(rho-1)^2": ("(rho - 1)^2", lambda batch: batch.ratio_minus_one**2),
    "kl": ("logged kl", lambda batch: _logged(batch, "kl")),
    "tv": ("logged tv", lambda batch: _logged(batch, "tv")),
    "chi2": ("logged chi2", lambda batch: _logged(batch, "chi2")),
}

#: Columns of the table that hold a sum over the tokens, and their sign.
_SUMS = {
    "k1": ("log_weight", -1.0),
    "k3": ("k3_sum", 1.0),
    "|rho-1|": ("abs_ratio_sum", 1.0),
    "(rho-1)^2": ("square_sum", 1.0),
    "kl": ("kl_sum", 1.0),
    "tv": ("tv_sum", 1.0),
    "chi2": ("chi2_sum", 1.0),
}
# Single precision, and compared as such: a threshold equal to a logged value accepts it.
_MAXIMA = {"k2": "k2_max", "kl": "kl_max"}


def _logged(batch: TraceBatch, name: str) -> Floats:
    values = getattr(batch, name)
    if values is None:
        raise InputError("not logged", file=batch.file, field=name)
    return np.asarray(values, dtype=np.float64)


def _sum(name: str) -> Callable[[SequenceTable], Floats]:
    column, sign = _SUMS[name]
    return lambda table: sign * table[column]


def _mean(name: str) -> Callable[[SequenceTable], Floats]:
    column, sign = _SUMS[name]
    # A sequence without tokens scores 0: nothing in it can be off.
    return lambda table: sign * table[column] / np.maximum(table["length"], 1)


def _maximum(name: str) -> Callable[[SequenceTable], NDArray[Any]]:
    column = _MAXIMA[name]
    return lambda table: table[column]


def _power(values: Floats) -> Floats:
    # A ratio beyond float64 is above every threshold.
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values), dtype=np.float64)


def _all() -> dict[str, Statistic]:
    found = []
    for term, (title, _) in _TERMS.items():
        needs = (term,) if term in ("kl", "tv", "chi2") else ()
        largest = _maximum(term) if term in _MAXIMA else None
        mean, total = (_mean(term), _sum(term)) if term in _SUMS else (None, None)
        for aggregate, word, column in (
            ("max", "largest", largest),
            ("mean", "mean", mean),
            ("sum", "sum of", total),
        ):
            name = f"{aggregate} {term}"
            found.append(Statistic(name, f"{word} {title}", needs, column, aggregate, term))
    found += [
        Statistic("min k1", "smallest -log rho", (), None, "min", "k1"),
        Statistic("max ratio", "largest token ratio rho", (), None, "max", "ratio"),
        Statistic("min ratio", "smallest token ratio rho", (), None, "min", "ratio"),
        Statistic(
            "product ratio",
            "product of the ratios, the sequence weight W",
            (),
            lambda table: _power(table["log_weight"]),
        ),
        Statistic(
            "geomean ratio",
            "geometric mean of the ratios",
            (),
            lambda table: _power(table["log_weight"] / np.maximum(table["length"], 1)),
        ),
        Statistic("ser", "mean |rho - 1| (SER)", (), _mean("|rho-1|")),
        Statistic("ln_trm", "mean of |rho - 1| weighted by min(1, sqrt((T-t) kl_max/2))", (), None),
        Statistic(
            "ln_trm_tv",
            "mean of |rho - 1| weighted by min(1, (T-t) tv_max, sqrt((T-t) kl_max/2))",
            (),
            None,
        ),
    ]
    return {statistic.name: statistic for statistic in found}


STATISTICS: Mapping[str, Statistic] = MappingProxyType(_all())
"""Every statistic by name."""


def get_statistic(name: str) -> Statistic:
    """Return a statistic by its name.

    Raises
    ------
    InputError
        If there is no such statistic; the message lists the names.
    """
    if name not in STATISTICS:
        raise InputError(f"no statistic '{name}'; there are: {', '.join(STATISTICS)}")
    return STATISTICS[name]


def needs_tokens(names: Iterable[str]) -> bool:
    """Whether some statistic is not in the table of a summary."""
    return any(get_statistic(name).column is None for name in names)


def weights_of(name: str) -> str:
    """Name of the column with the sum of the weights of an LN-TRM statistic."""
    return f"{name} weights"


def compute_statistics(
    summary: TraceSummary,
    names: Iterable[str],
    batches: Iterable[TraceBatch] | None = None,
    *,
    kl_max: float | None = None,
    tv_max: float | None = None,
) -> dict[str, NDArray[Any]]:
    """Compute statistics of every sequence of a trace.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    names : iterable of str
        Keys of :data:`STATISTICS`.
    batches : iterable of TraceBatch, optional
        The same trace again, for statistics that need the tokens (:func:`needs_tokens`).
    kl_max, tv_max : float, optional
        Largest token divergences, for the weights of LN-TRM; by default the largest logged ones.

    Returns
    -------
    dict of str to ndarray
        One entry per sequence in the order of the summary; for LN-TRM also the sums of its
        weights, under :func:`weights_of`. Largest k2 and kl are float32 where they come from the
        table.

    Raises
    ------
    InputError
        If a field is not logged, the tokens are needed and not given, or they are not those of
        the summary.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        statistic = get_statistic(name)
        lacking = [field for field in statistic.needs if not summary.has(field)]
        if lacking:
            raise InputError(f"'{name}' needs {', '.join(lacking)} of every sequence")
    table = summary.sequences
    out = {
        name: statistic.column(table)
        for name, statistic in ((name, STATISTICS[name]) for name in wanted)
        if statistic.column is not None
    }
    rest = [name for name in wanted if name not in out]
    if rest:
        if batches is None:
            raise InputError(f"'{rest[0]}' needs the tokens: give the trace, not a summary")
        weights = {
            name: length_neutral_weights(
                summary.T,
                _largest(summary, "kl", kl_max),
                _largest(summary, "tv", tv_max) if name == "ln_trm_tv" else None,
            )
            for name in rest
            if name.startswith("ln_trm")
        }
        out |= _from_tokens(summary, rest, batches, weights)
    return out


def _largest(summary: TraceSummary, name: str, given: float | None) -> float:
    if given is not None:
        if not given >= 0:
            raise InputError(
                f"found {given:g}, expected a number of at least 0", field=f"{name}_max"
            )
        return given
    if not summary.has(name):
        raise InputError("not logged, and not given", field=f"{name}_max")
    return summary.extremes[f"{name}_max"].value


def _from_tokens(
    summary: TraceSummary,
    names: list[str],
    batches: Iterable[TraceBatch],
    weights: Mapping[str, Floats],
) -> dict[str, NDArray[Any]]:
    places: list[tuple[str, NDArray[np.int64]]] = []
    parts: list[dict[str, Floats]] = []
    for whole in batches:
        for block in whole.slices(_BLOCK_TOKENS):
            batch = block.counted()
            places.append((batch.file, batch.record_numbers))
            parts.append(_of_block(batch, names, weights))
    index = {file: number for number, file in enumerate(summary.files)}
    if any(file not in index for file, _ in places):
        raise InputError("found other files than in the summary: the trace changed")
    file_of = np.concatenate([np.full(r.size, index[file]) for file, r in places])
    record = np.concatenate([r for _, r in places])
    order = np.lexsort((record, file_of))
    table = summary.sequences
    if not (
        np.array_equal(file_of[order], table["file"])
        and np.array_equal(record[order], table["record"])
    ):
        raise InputError("found other sequences than in the summary: the trace changed")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _of_block(
    batch: TraceBatch, names: list[str], weights: Mapping[str, Floats]
) -> dict[str, Floats]:
    terms: dict[str, Floats] = {}
    out = {}
    for name in names:
        statistic = STATISTICS[name]
        if name in weights:
            out[name], out[weights_of(name)] = length_neutral_score(batch, weights[name])
            continue
        # The ratio falls as k1 = -log rho rises: its largest is that of the smallest k1.
        ratio = statistic.term == "ratio"
        term = "k1" if ratio else statistic.term
        if term not in terms:
            terms[term] = _TERMS[term][1](batch)
        if ratio:
            opposite = "min" if statistic.aggregate == "max" else "max"
            out[name] = _power(-_reduce(batch, terms[term], opposite))
        else:
            out[name] = _reduce(batch, terms[term], statistic.aggregate)
    return out


def _reduce(batch: TraceBatch, values: Floats, aggregate: str) -> Floats:
    if aggregate == "max":
        return np.asarray(batch.segment_max(values), dtype=np.float64)
    if aggregate == "min":
        return np.asarray(-batch.segment_max(-values), dtype=np.float64)
    total = np.asarray(batch.segment_sum(values), dtype=np.float64)
    return total if aggregate == "sum" else total / np.maximum(batch.lengths, 1)
