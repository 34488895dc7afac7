"""Counts of tokens and sequences that deserve a second look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.token_terms import TokenTerms

__all__ = ["CERTAIN", "TokenCounts"]

CERTAIN = -0.1
"""A log-probability of 0 under one policy is a filler if the other's is below this."""


class TokenCounts(NamedTuple):
    """What a pass over the tokens counts; the names are those of ``COUNTS``."""

    equal_logprobs: int
    zero_rollout_logprobs: int
    zero_train_logprobs: int
    saturated_sequences: int
    zero_filled_rollout: int
    zero_filled_train: int
    kl_above_log_chi2: int = 0

    @classmethod
    def of(cls, terms: TokenTerms) -> TokenCounts:
        """Count in a block."""
        rollout, train = terms.batch.rollout_logprobs, terms.batch.train_logprobs
        excess = terms.kl_log_chi2_excess
        zero_rollout, filled_rollout = _zeros(rollout, train)
        zero_train, filled_train = _zeros(train, rollout)
        return cls(
            # Comparing first is faster: booleans are counted eight at a time.
            int(np.count_nonzero(terms.log_ratio == 0.0)),
            zero_rollout,
            zero_train,
            terms.saturated,
            filled_rollout,
            filled_train,
            0 if excess is None else int(np.count_nonzero(excess > 0.0)),
        )


def _zeros(values: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[int, int]:
    """Count the zeros, and those that are fillers."""
    zero = values == 0.0
    count = int(np.count_nonzero(zero))
    return count, int(np.count_nonzero(others[zero] < CERTAIN)) if count else 0
