"""Counts of tokens and sequences that deserve a second look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trbounds.traces.token_terms import TokenTerms

__all__ = ["TokenCounts"]


class TokenCounts(NamedTuple):
    """What a pass over the tokens counts; the names are those of ``COUNTS``."""

    equal_logprobs: int
    zero_rollout_logprobs: int
    zero_train_logprobs: int
    saturated_sequences: int
    kl_above_log_chi2: int = 0

    @classmethod
    def of(cls, terms: TokenTerms) -> TokenCounts:
        """Count in a block."""
        batch = terms.batch
        excess = terms.kl_log_chi2_excess
        return cls(
            # Comparing first is faster: booleans are counted eight at a time.
            int(np.count_nonzero(terms.log_ratio == 0.0)),
            int(np.count_nonzero(batch.rollout_logprobs == 0.0)),
            int(np.count_nonzero(batch.train_logprobs == 0.0)),
            terms.saturated,
            0 if excess is None else int(np.count_nonzero(excess > 0.0)),
        )
