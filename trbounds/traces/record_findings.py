"""Findings about records: what is there twice, what is missing, and what was sampled by whom."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trbounds.traces.finding import Finding
from trbounds.traces.sequence_table import NO_GROUP
from trbounds.traces.summary import TraceSummary

__all__ = ["UNLIKELY", "record_findings"]

UNLIKELY = -20.0
"""Log-probability, in nats, below which chance samples, or scores, no sequence twice alike."""

_REPEATED_SHARE = 0.01
_EMPTY_SHARE = 0.01


def record_findings(summary: TraceSummary) -> Iterator[Finding]:
    """Look for faults in which records there are, whatever their log-probabilities.

    Parameters
    ----------
    summary : TraceSummary
        Of the trace.

    Yields
    ------
    Finding
    """
    yield from _rejected(summary)
    yield from _repeated(summary)
    yield from _lengths(summary)
    yield from _empty(summary)
    yield from _uneven(summary)
    yield from _versions(summary)
    yield from _raw(summary)


def _counted(count: int, summary: TraceSummary) -> dict[str, float]:
    return {"sequences": float(count), "share": count / summary.n_sequences}


def _rejected(summary: TraceSummary) -> Iterator[Finding]:
    rejected = summary.counts["rejected_sequences"]
    dropped = summary.counts["unaccepted_sequences"]
    if rejected:
        yield Finding(
            name="rejected_sequences",
            severity="warning",
            found=f"of {rejected} sequences with log-probabilities no token counts",
            advice=(
                "If a rejection rule masked them, estimates are over what it kept and not over "
                "the rollout policy: log the mask from before the rule"
            ),
            numbers=_counted(rejected, summary),
        )
    if dropped:
        yield Finding(
            name="rejected_sequences",
            severity="warning",
            found=f"the framework left {dropped} sequences out of its update",
            advice=(
                "They are kept here, as they were sampled, so numbers differ from those of its "
                "update; if it dropped others before logging (dynamic sampling), estimates are "
                "over what it kept"
            ),
            numbers=_counted(dropped, summary),
        )


def _repeated(summary: TraceSummary) -> Iterator[Finding]:
    table = summary.sequences
    unlikely = table["rollout_logprob_sum"] < UNLIKELY
    names = ("length", "log_weight", "rollout_logprob_sum")
    keys = np.stack([table[name][unlikely].astype(np.float64) for name in names], axis=1)
    repeated = len(keys) - len(np.unique(keys, axis=0))
    if repeated > _REPEATED_SHARE * summary.n_sequences:
        yield Finding(
            name="repeated_sequences",
            severity="warning",
            found=f"{repeated} sequences have exactly the log-probabilities of another",
            advice=(
                "If they were logged twice (by two ranks, or again after a restart), drop the "
                "copies: standard errors are too small with them"
            ),
            numbers=_counted(repeated, summary),
        )


def _lengths(summary: TraceSummary) -> Iterator[Finding]:
    other = summary.counts["length_mismatches"]
    if other:
        yield Finding(
            name="length_mismatch",
            severity="warning",
            found=f"the logged length of {other} of {summary.n_sequences} sequences is not their "
            "number of log-probabilities",
            advice=(
                "If tokens were lost, sums over sequences and all that follows from them are too "
                "small; if length counts something else (the prompt too), leave the field out"
            ),
            numbers=_counted(other, summary),
        )


def _empty(summary: TraceSummary) -> Iterator[Finding]:
    # Those that were scored and then masked are named as rejected.
    empty = summary.counts["empty_sequences"] - summary.counts["rejected_sequences"]
    if empty > _EMPTY_SHARE * summary.n_sequences:
        yield Finding(
            name="empty_sequences",
            severity="warning",
            found=f"{empty} of {summary.n_sequences} sequences have no token that counts",
            advice=(
                "They enter every estimate as sequences on which the policies agree. If they were "
                "masked for what they are (truncated completions, say), log them as sampled"
            ),
            numbers=_counted(empty, summary),
        )


def _uneven(summary: TraceSummary) -> Iterator[Finding]:
    table = summary.sequences
    named = table["group"] != NO_GROUP
    prompts = np.stack([table["step"][named], table["group"][named]], axis=1)
    sizes = np.unique(prompts, axis=0, return_counts=True)[1]
    if sizes.size and sizes.min() < sizes.max():
        yield Finding(
            name="uneven_groups",
            severity="info",
            found=f"prompts have between {sizes.min()} and {sizes.max()} sequences",
            advice=(
                "If as many were sampled of each and some were dropped before logging for what "
                "they were (by length, reward or ratio), estimates are over what was kept"
            ),
            numbers={"smallest": float(sizes.min()), "largest": float(sizes.max())},
        )


def _versions(summary: TraceSummary) -> Iterator[Finding]:
    mixed = summary.counts["mixed_versions"]
    if mixed:
        yield Finding(
            name="mixed_weight_versions",
            severity="warning",
            found=f"{mixed} of {summary.n_sequences} sequences were sampled by more than one "
            "version of the rollout weights",
            advice=(
                "The rollout policy is then a mixture along the sequence. Bounds apply to it as "
                "it sampled, if each token's log-probability is that of its own version"
            ),
            numbers=_counted(mixed, summary),
        )


def _raw(summary: TraceSummary) -> Iterator[Finding]:
    raw = summary.counts["raw_logprobs"]
    if raw:
        yield Finding(
            name="raw_logprobs",
            severity="error",
            found=f"{raw} of {summary.n_sequences} sequences have a raw logprobs_mode, and a "
            "temperature other than 1, top-p or top-k",
            advice=(
                "Their rollout log-probabilities are not those of the policy that was sampled "
                "from: log processed ones (vLLM: logprobs_mode='processed_logprobs')"
            ),
            numbers=_counted(raw, summary),
        )
