"""What a trace's summary says of how it was logged: faults that ruin an analysis, with advice."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from trbounds.traces.finding import Finding
from trbounds.traces.jackknife import Blocks, student_limit
from trbounds.traces.record_findings import UNLIKELY, record_findings
from trbounds.traces.summary import TraceSummary
from trbounds.traces.unseen_mass import distinct_sequences, ratio_sum_error

_STANDARD_ERRORS = 4.0
"""Distance of the mean of rho from 1 that chance gives with probability 6e-5; more with few
sequences, as Student's t."""

_FEW_TOKENS = 100
"""Fewer tokens than this show no pattern."""

_SHIFT_MARGIN = 0.1
"""A right trace correlates above 0.99 at lag 0 and about 0.2 at lag 1."""

_WEAK = 0.5
"""A correlation that no two versions of one policy have."""

_RELATED = 0.9
"""A correlation that any two versions of one policy exceed."""

_ABSURD_KL = 0.5
"""Mean k3 of a sequence, in nats per token: 60 times that of 16 policy-gradient steps."""

_SLOPE_TOLERANCE = 0.05
"""Six real mismatches, 16 policy-gradient steps among them, have slopes within 0.004 of 1; a
temperature that differs by 10 % gives about 0.1."""

_LONG = 16
"""Tokens over which a mean is worth something."""

_SMALL_SHARE = 0.01
_ZERO_SHARE = 1e-3
_MASK_FACTOR = 2.0


def findings(summary: TraceSummary) -> list[Finding]:
    """Look for faults in how a trace was logged.

    Parameters
    ----------
    summary : TraceSummary
        Of the trace.

    Returns
    -------
    list of Finding
        Errors first. Empty for a trace with nothing to report, or without a token that counts.

    Notes
    -----
    These are tests on sums: they find faults that run through a trace, not a few bad values. A
    trace without findings is not proved right.
    """
    if summary.n_tokens == 0:
        return []
    found = [*_copied(summary), *_zero_filled(summary)]
    columns = ("equal_logprobs", "zero_rollout_logprobs", "zero_train_logprobs")
    if not any(summary.counts[name] == summary.n_tokens for name in columns):
        # A copied or an empty column says nothing more.
        found += [*_aligned(summary), *_ratios(summary), *_unsampled(summary)]
        found += _rounded(summary)
    found += [*_masked(summary), *record_findings(summary)]
    order = ("error", "warning", "info")
    return sorted(found, key=lambda item: order.index(item.severity))


def _copied(summary: TraceSummary) -> Iterator[Finding]:
    counts, n = summary.counts, summary.n_tokens
    # Two certain tokens are equal without being copies.
    certain = min(counts["zero_rollout_logprobs"], counts["zero_train_logprobs"])
    equal = counts["equal_logprobs"]
    all_equal = equal == n and certain < n
    if all_equal and summary.has("kl") and not summary.sequences["kl_sum"].any():
        return  # The two policies are the same, as their divergences say.
    if not all_equal and (n - certain < _FEW_TOKENS or 2 * (equal - certain) < n - certain):
        yield from _copied_sequences(summary)
        return
    share = (equal - certain) / (n - certain)
    yield Finding(
        name="identical_logprobs",
        severity="error" if all_equal else "warning",
        found=f"{share:.1%} of the tokens have the same log-probability under both policies",
        advice=(
            "One column is a copy of the other: the trainer ran in bypass or forced on-policy "
            "mode. Have it recompute its own log-probabilities"
        ),
        numbers={"share": share},
    )


def _copied_sequences(summary: TraceSummary) -> Iterator[Finding]:
    """Look for sequences that are copies among others that are not."""
    table = summary.sequences
    unlikely = table["rollout_logprob_sum"] < UNLIKELY
    copied = unlikely & (table["abs_ratio_sum"] == 0.0)
    if summary.has("kl"):
        copied &= table["kl_sum"] > 0.0
    count, share = int(np.count_nonzero(copied)), float(copied.sum() / max(unlikely.sum(), 1))
    if share > _SMALL_SHARE:
        yield Finding(
            name="identical_logprobs",
            severity="warning",
            found=f"{count} sequences have the same log-probability under both policies at every "
            "token, others do not",
            advice=(
                "There one column is a copy of the other: the trainer ran in bypass or forced "
                "on-policy mode. Leave these sequences out, or have it recompute its own "
                "log-probabilities"
            ),
            numbers={"sequences": float(count), "share": share},
        )


def _zero_filled(summary: TraceSummary) -> Iterator[Finding]:
    counts, n = summary.counts, summary.n_tokens
    for side, other, advice in (
        ("train", "rollout", "The trainer did not compute them (bypass or forced on-policy mode)"),
        (
            "rollout",
            "train",
            "The rollout engine did not return them for these tokens (or top-p or top-k left a "
            "single token to sample)",
        ),
    ):
        zeros, filled = counts[f"zero_{side}_logprobs"], counts[f"zero_filled_{side}"]
        all_zero = zeros == n and counts[f"zero_{other}_logprobs"] < n
        if not all_zero and not filled:
            continue
        yield Finding(
            name=f"zero_{side}_logprobs",
            severity="error" if all_zero or filled > _ZERO_SHARE * n else "warning",
            found=(
                f"{zeros if all_zero else filled} of {n} tokens have {side} log-probability "
                f"exactly 0, and are not certain under the {other} policy"
            ),
            advice=f"{advice}; such tokens must be masked, or the records left out",
            numbers={"tokens": float(filled), "zeros": float(zeros), "share": filled / n},
        )


def _aligned(summary: TraceSummary) -> Iterator[Finding]:
    pairs = summary.pairs
    if summary.n_tokens < _FEW_TOKENS:
        return
    partly = list(_partly_shifted(summary))
    yield from partly
    if partly:
        return
    here = pairs.correlation(0)
    for lag in (-1, 1):
        there = pairs.correlation(lag)
        if there > 0.5 and not here > there - _SHIFT_MARGIN:
            yield Finding(
                name="shifted_by_one",
                severity="error",
                found=(
                    f"the rollout log-probability of a token correlates with the training one of "
                    f"the token {'after' if lag > 0 else 'before'} it ({there:.3f}), not with its "
                    f"own ({here:.3f})"
                ),
                advice="Shift one of the two lists by one token",
                numbers={"lag": float(lag), "correlation": there, "correlation_at_0": here},
            )
            return
    if not here > _WEAK and pairs.log_ratio_deviation > _WEAK:
        yield Finding(
            name="unrelated_logprobs",
            severity="warning",
            found=f"the two log-probabilities of a token correlate at {here:.3f} only",
            advice=(
                "Unless the two policies have nothing in common, the lists are not of the same "
                "tokens: check how they were joined"
            ),
            numbers={"correlation": here},
        )
        return
    yield from _misaligned(summary)
    if pairs.correlation(1) > _WEAK:
        yield Finding(
            name="repeated_tokens",
            severity="warning",
            found=(
                "the rollout log-probability of a token correlates with the training one of the "
                f"next at {pairs.correlation(1):.3f}, where about 0.2 is usual"
            ),
            advice="Check whether tokens were written twice",
            numbers={"correlation": pairs.correlation(1)},
        )
    slope = pairs.slope
    if here > 0.9 and abs(slope - 1.0) > _SLOPE_TOLERANCE:
        yield Finding(
            name="temperature_mismatch",
            severity="warning",
            found=(
                f"the training log-probability changes by {slope:.3f} per unit of the rollout "
                "log-probability, where 1 is expected"
            ),
            advice=(
                "One side was probably scaled by the sampling temperature and the other not: log "
                "both after the temperature that was sampled with"
            ),
            numbers={"slope": slope, "correlation": here},
        )


def _partly_shifted(summary: TraceSummary) -> Iterator[Finding]:
    """Look for a shift in some steps, files or sequences: two lags share the correlation."""
    pairs = summary.pairs
    here = pairs.correlation(0)
    for lag in (-1, 1):
        there, opposite = pairs.correlation(lag), pairs.correlation(-lag)
        if max(here, there) < _RELATED < here + there and there - opposite > _SHIFT_MARGIN:
            yield Finding(
                name="shifted_by_one",
                severity="error",
                found=(
                    "in a part of the trace: the rollout log-probability of a token correlates "
                    f"with its own training one at {here:.3f}, and with that of the token "
                    f"{'after' if lag > 0 else 'before'} it at {there:.3f}, where more than 0.99 "
                    "and about 0.2 are usual"
                ),
                advice=(
                    "Find where D leaps (trbounds steps, or verify of single files), and shift one "
                    "of the two lists there by one token"
                ),
                numbers={"lag": float(lag), "correlation": there, "correlation_at_0": here},
            )
            return


def _misaligned(summary: TraceSummary) -> Iterator[Finding]:
    table = summary.sequences
    long = table["length"] >= _LONG
    k3 = table["k3_sum"][long] / table["length"][long]
    bad = int(np.count_nonzero(k3 > _ABSURD_KL))
    if not bad:
        return
    rows = np.flatnonzero(long)
    worst = int(rows[int(np.argmax(k3))])
    place = f"{summary.files[table['file'][worst]]}, record {table['record'][worst]}"
    yield Finding(
        name="misaligned_sequences",
        severity="warning",
        found=(
            f"{bad} sequences have a mean k3 above {_ABSURD_KL} nats per token, the worst "
            f"{k3.max():.3g} ({place})"
        ),
        advice="Their two lists are hardly of the same tokens: check how sequences were joined",
        numbers={"sequences": float(bad), "worst": float(k3.max())},
    )


def _ratios(summary: TraceSummary) -> Iterator[Finding]:
    pairs, counts = summary.pairs, summary.counts
    offset, deviation = pairs.log_ratio_mean, pairs.log_ratio_deviation
    mean, z = _mean_ratio(summary)
    limit = student_limit(_STANDARD_ERRORS, distinct_sequences(summary.sequences))
    numbers = {"mean_ratio": mean, "z": z}
    enough = summary.n_tokens >= _FEW_TOKENS
    if enough and abs(offset) > deviation and abs(z) > limit:
        yield Finding(
            name="constant_offset",
            severity="error",
            found=f"log rho is {offset:.4f} +- {deviation:.4f} (mean, deviation), where its mean "
            "must be small against its deviation",
            advice=(
                "Below 0, this is the log of the probability that top-p or top-k kept, or a "
                "temperature on one side only: log both over the same set of tokens"
            ),
            numbers={"mean_log_ratio": offset, "deviation": deviation, **numbers},
        )
    logged = counts["truncated_sampling"]
    if logged or z < -limit:
        seen = f"the mean of rho is {mean:.5f}, {-z:.1f} standard errors below 1"
        yield Finding(
            name="truncated_sampling",
            severity="error",
            found=f"{logged} sequences were sampled with top-p or top-k" if logged else seen,
            advice=(
                "Some tokens of the training policy are never sampled (top-p, top-k, min-p, or a "
                "mask over what was sampled; or they are too rare to be in this trace): no bound "
                "but sequence_kl and triangle applies to such a rollout. Sample from the whole "
                "vocabulary. Logarithms to base 10 in both columns look the same"
            ),
            numbers={"sequences": float(logged), **numbers},
        )
    if z > limit:
        yield Finding(
            name="ratio_above_one",
            severity="error",
            found=f"the mean of rho is {mean:.5f}, {z:.1f} standard errors above 1",
            advice=(
                "The rollout log-probabilities are not those the tokens were sampled with: check "
                "the temperature, the alignment, that both lists belong to the same tokens, and "
                "that their logarithms are natural"
            ),
            numbers=numbers,
        )


def _mean_ratio(summary: TraceSummary) -> tuple[float, float]:
    """Return the mean of rho over tokens, and its distance from 1 in standard errors."""
    table = summary.sequences
    total = math.fsum(table["ratio_sum"])
    mean = 1.0 + total / summary.n_tokens
    error = len(table) * ratio_sum_error(table, Blocks(summary.groups()))
    if total == 0.0 or math.isnan(error):
        return mean, 0.0
    return mean, total / error if error > 0.0 else math.copysign(math.inf, total)


def _unsampled(summary: TraceSummary) -> Iterator[Finding]:
    if not summary.has("chi2"):
        return
    table = summary.sequences
    sampled, logged = math.fsum(table["square_sum"]), math.fsum(table["chi2_sum"])
    difference = Blocks(summary.groups()).mean(table["square_sum"] - table["chi2_sum"])
    limit = student_limit(_STANDARD_ERRORS, distinct_sequences(table))
    short = sampled < (1 - _SMALL_SHARE) * logged
    if short and difference.value < -limit * difference.error:
        yield Finding(
            name="unsampled_chi2",
            severity="warning",
            found=f"the sampled (rho - 1)^2 add up to {sampled / logged:.1%} of the logged chi2",
            advice=(
                "Tokens that training favours carry the rest and are too rare to be in this trace, "
                "so that estimates from weights, and their standard errors, are too small; or "
                "chi2 was logged too large"
            ),
            numbers={"sampled": sampled, "logged": logged, "share": sampled / logged},
        )


def _rounded(summary: TraceSummary) -> Iterator[Finding]:
    counts = summary.counts
    probed = counts["probed_tokens"]
    sides = {
        "rollout": counts["rounded_rollout_logprobs"],
        "training": counts["rounded_train_logprobs"],
    }
    rounded = [side for side, count in sides.items() if count > (1 - _SMALL_SHARE) * probed]
    if probed < _FEW_TOKENS or not rounded:
        return
    yield Finding(
        name="rounded_logprobs",
        severity="warning",
        found=f"{' and '.join(rounded)} log-probabilities have 8 significant bits, as bfloat16 has",
        advice=(
            "Rounding moves each by up to 0.4 %: where the policies are closer than that, "
            "divergences come out too large. Log them as float32"
        ),
        numbers={"tokens": float(probed)},
    )


def _masked(summary: TraceSummary) -> Iterator[Finding]:
    pairs = summary.pairs
    holes, mean, smallest = pairs.masked("hole")
    largest = summary.extremes["abs_log_ratio_max"].value
    kept = summary.histograms["abs_log_ratio"]
    typical = kept.quantile(0.5)
    exact = holes >= 10 and smallest >= largest
    if exact or (holes >= _FEW_TOKENS and mean > _MASK_FACTOR * _mean_abs(summary)):
        yield Finding(
            name="post_rejection_mask",
            severity="error",
            found=(
                f"{holes} masked tokens have both log-probabilities and |log rho| of at least "
                f"{smallest:.3g}, {mean:.3g} on average; tokens that count have at most "
                f"{largest:.3g}, {typical:.3g} in the median"
            ),
            advice=(
                "The mask is the one after a rejection rule, so that exactly the tokens that "
                "matter are missing: log the mask of the response, from before the rule"
            ),
            numbers={"tokens": float(holes), "smallest": smallest, "mean": mean, "kept": largest},
        )


def _mean_abs(summary: TraceSummary) -> float:
    """Return the root mean square of log rho over tokens, at least its mean absolute value."""
    return math.hypot(summary.pairs.log_ratio_mean, summary.pairs.log_ratio_deviation)
