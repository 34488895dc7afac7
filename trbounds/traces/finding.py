"""The form of a finding: one thing a trace shows of how it was logged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

FINDINGS = {
    "identical_logprobs": "training log-probabilities are copies of the rollout ones",
    "zero_train_logprobs": "training log-probabilities are zero-filled",
    "zero_rollout_logprobs": "rollout log-probabilities are zero-filled",
    "shifted_by_one": "the two lists are shifted against each other by one token",
    "unrelated_logprobs": "the two lists do not belong to the same tokens",
    "misaligned_sequences": "in some sequences the two lists do not belong to the same tokens",
    "repeated_tokens": "every token is in the lists twice",
    "constant_offset": "log rho is nearly constant and not 0",
    "temperature_mismatch": "the two log-probabilities are scaled differently",
    "rounded_logprobs": "log-probabilities have the few digits of bfloat16",
    "raw_logprobs": "log-probabilities are those before temperature, top-p or top-k",
    "truncated_sampling": "some tokens of the training policy are never sampled",
    "ratio_above_one": "the mean of rho is above 1",
    "unsampled_chi2": "the samples hold only a part of the logged chi2",
    "post_rejection_mask": "the mask leaves out tokens that a rejection rule dropped",
    "length_mismatch": "lengths are not those that were logged",
    "empty_sequences": "sequences have no token that counts",
    "uneven_groups": "prompts have different numbers of sequences",
    "rejected_sequences": "sequences were sampled and rejected",
    "repeated_sequences": "sequences are in the trace twice",
    "mixed_weight_versions": "sequences were sampled by changing weights",
}
"""Every finding, and what it means."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found about how a trace was logged.

    Parameters
    ----------
    name : str
        A key of :data:`FINDINGS`.
    severity : {"error", "warning", "info"}
        Error: what is computed from the trace is wrong, or no bound applies. Warning: part of it
        is, or it would be between any two versions of one language model. Info: to be known.
    found : str
        What was found, in a sentence.
    advice : str
        What to do.
    numbers : dict of str to float
        What it rests on.
    """

    name: str
    severity: Severity
    found: str
    advice: str
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.found}. {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)
