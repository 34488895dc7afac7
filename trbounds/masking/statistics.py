"""Statistics of a sequence, or of a token, that masking rules compare with a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, no_such
from trbounds.masking.length_neutral import length_neutral_score, length_neutral_weights
from trbounds.masking.terms import TERMS, power
from trbounds.masking.token_pass import blocks_of
from trbounds.traces.batch import TraceBatch
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.summary import TraceSummary
from trbounds.traces.token_terms import LOG_RATIO_CLAMP

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """One number per sequence, or per token.

    Parameters
    ----------
    name : str
        As rules write it.
    title : str
        What it is.
    needs : tuple of str
        Optional trace fields it needs.
    column : callable or None
        From the table of a summary, for clamped terms if nothing exceeds the clamp; None where
        the tokens are needed.
    aggregate, term : str
        How the tokens make it; both empty where it is no aggregate of a term. The aggregate
        "token" leaves one number per token.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    column: Callable[[SequenceTable], NDArray[Any]] | None
    aggregate: str = ""
    term: str = ""


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
_SAMPLED = {"kl": "k3", "tv": "|rho-1|", "chi2": "(rho-1)^2"}
"""What sampled tokens alone say of a divergence."""

_MAXIMA = {"k2": "k2_max", "kl": "kl_max"}


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


def _of_terms() -> list[Statistic]:
    found = []
    for term, parts in TERMS.items():
        if term == "advantages":
            # Decides which way a token may move; over a sequence it says nothing of the policies.
            continue
        # Clamping changes no column where nothing exceeds the clamp.
        plain = parts.clamped or term
        largest = _maximum(plain) if plain in _MAXIMA else None
        mean, total = (_mean(plain), _sum(plain)) if plain in _SUMS else (None, None)
        kinds: list[tuple[str, str, Any]] = [("max", "largest", largest)]
        if term in ("k1", "ratio"):
            kinds.append(("min", "smallest", None))
        if term != "ratio":
            kinds += [("mean", "mean", mean), ("sum", "sum of", total)]
        found += [
            Statistic(
                f"{aggregate} {term}", f"{word} {parts.title}", parts.needs, column, aggregate, term
            )
            for aggregate, word, column in kinds
        ]
    return found


def _all() -> dict[str, Statistic]:
    found = [
        *_of_terms(),
        Statistic(
            "product ratio",
            "product of the ratios, the sequence weight W",
            (),
            lambda table: power(table["log_weight"]),
        ),
        Statistic(
            "geomean ratio",
            "geometric mean of the ratios",
            (),
            lambda table: power(table["log_weight"] / np.maximum(table["length"], 1)),
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
"""Every statistic of a sequence by name."""

TOKEN_STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {
        f"token {term}": Statistic(f"token {term}", parts.title, parts.needs, None, "token", term)
        for term, parts in TERMS.items()
    }
)
"""Every term of a single token, by the name that rules on tokens give it."""


def _statistic(name: str) -> Statistic:
    if name not in STATISTICS:
        raise no_such("statistic", name, STATISTICS)
    return STATISTICS[name]


def check_logged(
    name: str, needs: Iterable[str], summary: TraceSummary, known: Iterable[str]
) -> None:
    """Check that a trace has the fields that a statistic needs.

    Parameters
    ----------
    name : str
        The statistic.
    needs : iterable of str
        Its fields.
    summary : TraceSummary
        Of the trace.
    known : iterable of str
        Statistics of the same kind, one of which may do in its place.

    Raises
    ------
    InputError
        If one is not logged; names what the sampled tokens alone give in its place.
    """
    lacking = [field for field in needs if not summary.has(field)]
    if not lacking:
        return
    problem = f"'{name}' needs {', '.join(lacking)} of every sequence"
    aggregate, _, term = name.partition(" ")
    sampled = f"{aggregate} {_SAMPLED.get(term)}"
    if sampled in known:
        problem += f"; of sampled tokens alone there is '{sampled}'"
    raise InputError(problem)


def needs_tokens(names: Iterable[str], summary: TraceSummary | None = None) -> bool:
    """Whether some statistic is not in the table of a summary.

    Clamped ones are, unless a log-ratio of the trace exceeds the clamp; without a summary it is
    taken that none does.

    Raises
    ------
    InputError
        If there is no such statistic; the message lists the names.
    """
    return any(
        name in TOKEN_STATISTICS or not _in_table(_statistic(name), summary) for name in names
    )


def _in_table(statistic: Statistic, summary: TraceSummary | None) -> bool:
    if statistic.column is None:
        return False
    if summary is None or not (statistic.term and TERMS[statistic.term].clamped):
        return True
    largest = summary.extremes.get("abs_log_ratio_max")
    return largest is None or largest.value <= LOG_RATIO_CLAMP


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
        check_logged(name, _statistic(name).needs, summary, STATISTICS)
    table = summary.sequences
    out = {
        name: statistic.column(table)
        for name, statistic in ((name, STATISTICS[name]) for name in wanted)
        if statistic.column is not None and _in_table(statistic, summary)
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
    columns = [*names, *(weights_of(name) for name in weights)]
    out: dict[str, NDArray[Any]] = {name: np.empty(summary.n_sequences) for name in columns}
    for batch, _, rows in blocks_of(summary, batches):
        for name, values in _of_block(batch, names, weights).items():
            out[name][rows] = values
    return out


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
        term = statistic.term
        if term not in terms:
            terms[term] = TERMS[term].of(batch)
        out[name] = _reduce(batch, terms[term], statistic.aggregate, TERMS[term].empty)
    return out


def _reduce(batch: TraceBatch, values: Floats, aggregate: str, empty: float) -> Floats:
    if aggregate == "max":
        return np.asarray(batch.segment_max(values, empty=empty), dtype=np.float64)
    if aggregate == "min":
        return np.asarray(-batch.segment_max(-values, empty=-empty), dtype=np.float64)
    total = np.asarray(batch.segment_sum(values), dtype=np.float64)
    return total if aggregate == "sum" else total / np.maximum(batch.lengths, 1)
