"""Sums over the rows of a sequence table that are used in more than one place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.sequence_table import NO_GROUP, SequenceTable

__all__ = [
    "PairedDifference",
    "dense_groups",
    "number_groups",
    "paired_differences",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """A difference per token whose expectation is 0, summed over sequences.

    Tokens of one sequence depend on each other, so the sequence is the unit of the standard
    error.

    Parameters
    ----------
    sum, sum_of_squares : float
        Of the per-sequence sums.
    n_sequences, n_tokens : int
        How many.
    """

    sum: float
    sum_of_squares: float
    n_sequences: int
    n_tokens: int

    @classmethod
    def of(cls, values: Floats, lengths: NDArray[np.int32]) -> PairedDifference:
        """Take per-sequence sums."""
        return cls(
            sum=math.fsum(values),
            sum_of_squares=math.fsum(values * values),
            n_sequences=values.size,
            n_tokens=int(lengths.sum(dtype=np.int64)),
        )

    @property
    def mean(self) -> float:
        """Mean per token."""
        return self.sum / self.n_tokens if self.n_tokens else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`mean`, clustered by sequence."""
        n = self.n_sequences
        if n < 2 or not self.n_tokens:
            return math.nan
        spread = max(self.sum_of_squares - self.sum**2 / n, 0.0)
        return math.sqrt(spread * n / (n - 1)) / self.n_tokens

    @property
    def z(self) -> float:
        """:attr:`mean` in units of its standard error; 0 if both are 0."""
        if self.sum == 0.0:
            return 0.0
        error = self.standard_error
        return math.copysign(math.inf, self.sum) if error == 0.0 else self.mean / error


def paired_differences(table: SequenceTable) -> dict[str, PairedDifference]:
    """Differences whose expectation is 0 if the logs are right.

    Returns
    -------
    dict of str to PairedDifference
        ``ratio_minus_one`` (rho - 1: absolute continuity); where logged ``k3_minus_kl``,
        ``chain_rule`` (-log rho - kl), ``abs_minus_2tv`` (abs(rho - 1) - 2 tv),
        ``square_minus_chi2`` ((rho - 1)^2 - chi2), ``surprise_minus_entropy``
        (-log mu - entropy).
    """
    pairs = {
        "ratio_minus_one": table["ratio_sum"],
        "k3_minus_kl": table["k3_sum"] - table["kl_sum"],
        "chain_rule": -table["log_weight"] - table["kl_sum"],
        "abs_minus_2tv": table["abs_ratio_sum"] - 2.0 * table["tv_sum"],
        "square_minus_chi2": table["square_sum"] - table["chi2_sum"],
        "surprise_minus_entropy": -table["rollout_logprob_sum"] - table["entropy_sum"],
    }
    return {
        name: PairedDifference.of(values, table["length"])
        for name, values in pairs.items()
        if not np.isnan(values).any()
    }


def dense_groups(table: SequenceTable) -> NDArray[np.int64]:
    """Number the prompts of a table 0, 1, ...; a row without one is a group of its own."""
    return number_groups(table["group"])


def number_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number groups 0, 1, ... as :func:`dense_groups` does, from the column ``group`` itself."""
    named = groups != NO_GROUP
    out = np.empty(groups.size, dtype=np.int64)
    values, out[named] = np.unique(groups[named], return_inverse=True)
    out[~named] = values.size + np.arange(np.count_nonzero(~named))
    return out
