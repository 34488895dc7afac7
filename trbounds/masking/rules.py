"""The rules that accept or mask whole sequences: each a score, accepted up to a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.summary import TraceSummary
from trbounds.traces.weights import weight_minus_one

__all__ = ["RULES", "Rule", "get_rule"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """A rule that accepts a sequence when its score is at most a threshold.

    Parameters
    ----------
    key : str
        Name in code and on the command line.
    title : str
        The criterion in words.
    source : str
        Where it is from.
    needs : tuple of str
        Optional trace fields it needs.
    score : callable or None
        From the table of sequences to one score each; None where the tokens are needed
        (:func:`trbounds.masking.length_neutral_scores`).
    """

    key: str
    title: str
    source: str
    needs: tuple[str, ...]
    score: Callable[[SequenceTable], Floats] | None

    def scores(self, summary: TraceSummary) -> Floats:
        """Score every sequence of a summary.

        Raises
        ------
        InputError
            If the trace lacks a field, or the rule needs the tokens.
        """
        lacking = [name for name in self.needs if not summary.has(name)]
        if lacking:
            raise InputError(f"rule '{self.key}' needs {', '.join(lacking)} of every sequence")
        if self.score is None:
            raise InputError(f"rule '{self.key}' needs the tokens: give the trace, not a summary")
        return np.asarray(self.score(summary.sequences), dtype=np.float64)


def _per_token(table: SequenceTable, column: str) -> Floats:
    # A sequence without tokens scores 0: nothing in it can be off.
    return np.asarray(table[column] / np.maximum(table["length"], 1), dtype=np.float64)


_ALL = (
    Rule("trm_max", "largest token kl", "TRM v2", ("kl",), lambda t: t["kl_max"]),
    Rule("trm_max_k2", "largest token k2 = (log rho)^2/2", "TRM v2", (), lambda t: t["k2_max"]),
    Rule("trm_average", "mean token kl", "TRM v2", ("kl",), lambda t: _per_token(t, "kl_sum")),
    Rule("trm_average_k3", "mean token k3", "TRM v2", (), lambda t: _per_token(t, "k3_sum")),
    Rule(
        "ln_trm",
        "mean of |rho - 1| weighted by min(1, sqrt((T-t) kl_max/2))",
        "TRM v2",
        (),
        None,
    ),
    Rule(
        "ln_trm_tv",
        "mean of |rho - 1| weighted by min(1, (T-t) tv_max, sqrt((T-t) kl_max/2))",
        "TRM v3",
        (),
        None,
    ),
    Rule("ser", "mean token |rho - 1|", "TRM", (), lambda t: _per_token(t, "abs_ratio_sum")),
    Rule(
        "geometric_ratio",
        "|log| of the geometric mean of rho",
        "training frameworks",
        (),
        lambda t: np.abs(_per_token(t, "log_weight")),
    ),
    Rule(
        "sequence_ratio",
        "sequence weight W",
        "training frameworks",
        (),
        lambda t: 1 + weight_minus_one(t),
    ),
    Rule("path_sum_chi2", "sum of chi2", "trbounds", ("chi2",), lambda t: t["chi2_sum"]),
    Rule("path_sum_kl", "sum of kl", "trbounds", ("kl",), lambda t: t["kl_sum"]),
)

RULES: Mapping[str, Rule] = MappingProxyType({rule.key: rule for rule in _ALL})
"""Every rule by key."""


def get_rule(key: str) -> Rule:
    """Return a rule by its key.

    Raises
    ------
    InputError
        If there is no such rule; the message lists the keys.
    """
    if key not in RULES:
        raise InputError(f"no rule '{key}'; there are: {', '.join(RULES)}")
    return RULES[key]
