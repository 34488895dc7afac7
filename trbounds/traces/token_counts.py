"""Counts of tokens and sequences that deserve a second look."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.batch import TraceBatch, reduce_segments
from trbounds.traces.token_terms import TokenTerms

COUNTS = {
    "tokens": "tokens that count",
    "masked_tokens": "tokens left out by the mask",
    "finished": "sequences that ended by themselves",
    "empty_sequences": "sequences without a token that counts",
    "saturated_sequences": "sequences of which a prefix weight was cut at e^100",
    "truncated_sampling": "sequences logged with top_p < 1 or top_k > 0",
    "mixed_versions": "sequences sampled by more than one version of the weights",
    "equal_logprobs": "tokens with the same log-probability under both policies",
    "zero_rollout_logprobs": "tokens with rollout log-probability exactly 0",
    "zero_train_logprobs": "tokens with training log-probability exactly 0",
    "zero_filled_rollout": "tokens with rollout log-probability 0 and training one below -0.1",
    "zero_filled_train": "tokens with training log-probability 0 and rollout one below -0.1",
    "probed_tokens": "tokens of which the digits were looked at, up to four of a sequence",
    "rounded_rollout_logprobs": "of those, with a rollout log-probability of at most 8 bits",
    "rounded_train_logprobs": "of those, with a training log-probability of at most 8 bits",
    "raw_logprobs": "sequences logged before temperature, top-p or top-k, and drawn with them",
    "length_mismatches": "sequences whose logged length is not their number of tokens",
    "rejected_sequences": "sequences with log-probabilities of which no token counts",
    "unaccepted_sequences": "sequences that the framework left out of its update",
    "kl_above_log_chi2": "tokens with kl > log(1 + chi2)",
    "skipped": "records and files left out because of an error",
}
"""What ``TraceSummary.counts`` counts."""

CERTAIN = -0.1
"""A log-probability of 0 under one policy is a filler if the other's is below this."""

_EIGHTHS = np.array([1, 3, 5, 7])
"""Where in a sequence digits are looked at."""

_BELOW_BFLOAT16 = (1 << 45) - 1
"""The bits of a float64 that a bfloat16 leaves at 0."""


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


def count_block(tokens: TokenCounts, batch: TraceBatch, block: TraceBatch) -> Counter[str]:
    """Return the :data:`COUNTS` of a block, those of its tokens having been counted.

    Parameters
    ----------
    tokens : TokenCounts
        Of the tokens that count.
    batch, block : TraceBatch
        The sequences without and with the masked tokens.
    """
    counts: dict[str, Any] = {
        **tokens._asdict(),
        "tokens": batch.n_tokens,
        "masked_tokens": block.n_tokens - batch.n_tokens,
        "finished": 0 if batch.finished is None else np.count_nonzero(batch.finished),
        "empty_sequences": np.count_nonzero(batch.lengths == 0),
    }
    if block.length is not None:
        # With or without the masked tokens: loops differ in which of them they call the response.
        other = (block.length != block.lengths) & (block.length != batch.lengths)
        counts["length_mismatches"] = np.count_nonzero(other)
    if block.mask is not None:
        scored = reduce_segments(np.add, block.rollout_logprobs < 0.0, block.offsets) > 0
        counts["rejected_sequences"] = np.count_nonzero(scored & (batch.lengths == 0))
    if batch.accepted is not None:
        counts["unaccepted_sequences"] = batch.n_sequences - np.count_nonzero(batch.accepted)
    truncated = np.zeros(batch.n_sequences, dtype=bool)
    if batch.top_p is not None:
        truncated |= batch.top_p < 1.0
    if batch.top_k is not None:
        truncated |= batch.top_k > 0
    counts["truncated_sampling"] = np.count_nonzero(truncated)
    if batch.logprobs_mode is not None:
        raw = np.strings.startswith(batch.logprobs_mode.astype(np.str_), "raw")
        if batch.temperature is not None:
            truncated |= batch.temperature != 1.0
        counts["raw_logprobs"] = np.count_nonzero(raw & truncated)
    counts |= _probe(batch)
    if batch.weight_version is not None:
        version = batch.weight_version.astype(np.float64)
        mixed = batch.segment_max(version) != -batch.segment_max(-version)
        counts["mixed_versions"] = np.count_nonzero(mixed)
    return Counter({name: int(count) for name, count in counts.items() if count})


def _probe(batch: TraceBatch) -> dict[str, Any]:
    """Count how many of a few tokens of every sequence have no more digits than a bfloat16."""
    lengths = batch.lengths[:, None]
    places = (batch.offsets[:-1, None] + lengths * _EIGHTHS // 8)[lengths[:, 0] > 0].ravel()
    # Each once, where a sequence has fewer than four tokens; np.unique would not see the order.
    places = places[np.diff(places, prepend=-1) > 0]
    rollout, train = batch.rollout_logprobs[places], batch.train_logprobs[places]
    # Near certainty a float32 has as few digits.
    uncertain = (rollout < CERTAIN) & (train < CERTAIN)
    return {
        "probed_tokens": np.count_nonzero(uncertain),
        "rounded_rollout_logprobs": np.count_nonzero(uncertain & _is_rounded(rollout)),
        "rounded_train_logprobs": np.count_nonzero(uncertain & _is_rounded(train)),
    }


def _is_rounded(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(values.view(np.int64) & _BELOW_BFLOAT16 == 0)
