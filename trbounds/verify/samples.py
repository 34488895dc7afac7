"""Expectations that the sampled tokens must reproduce."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.error_estimates import ErrorEstimates
from trbounds.traces.jackknife import Blocks
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.summary import TraceSummary
from trbounds.traces.unseen_mass import ratio_sum_error, unsampled_error
from trbounds.verify.tokens import STORED
from trbounds.verify.verdict import Verdict, within_errors

__all__ = ["consistency_verdicts", "sample_verdicts"]

Column = Callable[[SequenceTable], NDArray[np.float64]]


class _Pair(NamedTuple):
    """Two per-sequence sums with the same expectation."""

    statement: str
    left: Column
    right: Column


_PAIRS = {
    "mean_ratio": _Pair(
        "mean rho = 1 (absolute continuity)",
        lambda table: table["length"] + table["ratio_sum"],
        lambda table: table["length"].astype(np.float64),
    ),
    "k3_kl": _Pair(
        "mean k3 = mean kl", lambda table: table["k3_sum"], lambda table: table["kl_sum"]
    ),
    "chain_rule": _Pair(
        "mean -log rho = mean kl (chain rule)",
        lambda table: -table["log_weight"],
        lambda table: table["kl_sum"],
    ),
    "abs_ratio_tv": _Pair(
        "mean |rho - 1| = mean 2 tv",
        lambda table: table["abs_ratio_sum"],
        lambda table: 2 * table["tv_sum"],
    ),
    "square_chi2": _Pair(
        "mean (rho - 1)^2 = mean chi2",
        lambda table: table["square_sum"],
        lambda table: table["chi2_sum"],
    ),
    "surprise_entropy": _Pair(
        "mean -log mu = mean entropy",
        lambda table: -table["rollout_logprob_sum"],
        lambda table: table["entropy_sum"].astype(np.float64),
    ),
}

_RARE = ("k3_kl", "chain_rule", "abs_ratio_tv")
"""Pairs of which tokens too rare to be in the sample may carry a part."""

_LARGEST_SURPRISE = 20.0
"""Surprise in nats above which tokens carry next to nothing of an entropy."""

_BELOW_ONE = "below 1: some tokens of the training policy are never sampled (top-p or top-k?)"
_ABOVE_ONE = "above 1: the two log-probabilities do not belong to these samples"
_SHORT = "the samples fall short: the logged divergence is too large, or its rare part is unsampled"


def sample_verdicts(summary: TraceSummary, *, limit: float) -> Iterator[Verdict]:
    """Yield the verdict on each pair of means over tokens that must agree.

    Parameters
    ----------
    summary : TraceSummary
        With at least one token.
    limit : float
        Largest admissible distance in standard errors: the larger of that clustered by sequence
        and that of the jackknife over prompts.

    Notes
    -----
    Where chi2 is logged, standard errors allow for tokens that training favours and that are too
    rare to be in the sample: see :func:`trbounds.traces.unseen_mass.ratio_sum_error` and
    :func:`~trbounds.traces.unseen_mass.unsampled_error`. For (rho - 1)^2 itself, which depends on
    them most, nothing that is logged tells its variance: samples that fall short of chi2 decide
    nothing, and are a finding (``unsampled_chi2``).
    """
    table, blocks = summary.sequences, Blocks(summary.groups())
    unsampled = unsampled_error(table, blocks)
    # Per sequence and then scaled to a token: the denominator is taken as known.
    per_token = summary.n_sequences / summary.n_tokens
    for check, pair in _PAIRS.items():
        left, right = pair.left(table), pair.right(table)
        if np.isnan(right).any():
            yield _not_logged(check, pair.statement)
            continue
        difference = blocks.mean(left - right)
        base = blocks.mean(right).value * per_token
        error = difference.error
        if check == "mean_ratio":
            error = ratio_sum_error(table, blocks)
        elif check in _RARE:
            error = math.hypot(error, unsampled)
        elif check == "surprise_entropy" and difference.value < 0:
            # Surprise that is missing is in tokens too rare to be in the sample, of at most this
            # surprise each: a sum of them has at most so much variance.
            error = math.hypot(error, math.sqrt(-difference.value * _LARGEST_SURPRISE / len(table)))
        verdict = within_errors(
            check,
            pair.statement,
            base + difference.value * per_token,
            base,
            error=max(error * per_token, STORED * abs(base) / limit),
            limit=limit,
            equality=True,
        )
        if verdict.holds is False:
            verdict = replace(verdict, note=_explanation(check, difference.value))
            if check == "square_chi2" and difference.value < 0:
                verdict = replace(verdict, holds=None)
        yield verdict
    truncated = summary.counts["truncated_sampling"]
    if truncated:
        yield Verdict(
            check="full_sampling",
            statement="sequences sampled with top-p or top-k",
            status="exact",
            left=float(truncated),
            right=0.0,
            holds=False,
            note=f"{truncated} of {summary.n_sequences} sequences: no bound but sequence_kl and "
            "triangle applies to them",
        )


def consistency_verdicts(
    summary: TraceSummary, estimates: ErrorEstimates, *, limit: float
) -> Iterator[Verdict]:
    """Yield the verdicts on a sum taken in two ways, and on the TV of whole sequences.

    Parameters
    ----------
    summary : TraceSummary
        With at least one token.
    estimates : ErrorEstimates
        Of the same trace.
    limit : float
        Largest admissible distance in standard errors.
    """
    table, tv_seq = summary.sequences, estimates.tv_seq
    if summary.has("kl"):
        by_sequence = math.fsum(table["kl_sum"]) / summary.n_sequences
        by_position = math.fsum(summary.positions.mean("kl"))
        tolerance = 1e-12 * by_sequence
        yield Verdict(
            check="kl_sums",
            statement="D over sequences = D over positions",
            status="exact",
            left=by_sequence,
            right=by_position,
            tolerance=tolerance,
            equality=True,
            holds=abs(by_sequence - by_position) <= tolerance,
        )
        yield within_errors(
            "tv_seq_pinsker",
            "V = E max(0, 1 - W) <= sqrt(D/2) (Pinsker)",
            tv_seq.value,
            math.sqrt(by_sequence / 2),
            error=tv_seq.error,
            limit=limit,
        )
    if summary.has("tv"):
        yield within_errors(
            "tv_seq_total",
            "V = E max(0, 1 - W) <= sum of mean tv",
            tv_seq.value,
            float(table["tv_sum"].mean()),
            error=tv_seq.error,
            limit=limit,
        )


def _explanation(check: str, difference: float) -> str:
    """Say what a violated expectation may come from."""
    if check == "mean_ratio":
        return _BELOW_ONE if difference < 0 else _ABOVE_ONE
    if difference < 0 and check in ("k3_kl", "abs_ratio_tv", "square_chi2"):
        return _SHORT
    return ""


def _not_logged(check: str, statement: str) -> Verdict:
    return Verdict(
        check=check, statement=statement, status="estimated", note="its columns are not logged"
    )
