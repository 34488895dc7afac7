"""What masking does to a batch: what is accepted, which lengths, and the surrogate left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.masking.guarantees import Guarantee, guarantee_of
from trbounds.masking.rules import get_rule
from trbounds.traces.error_estimates import centred_reward
from trbounds.traces.jackknife import Blocks, Estimate
from trbounds.traces.summary import TraceSummary

__all__ = ["LengthBin", "MaskEffect", "mask", "sweep"]

Floats = NDArray[np.float64]

_BINS = 5


@dataclass(frozen=True)
class LengthBin:
    """Acceptance among sequences of similar length, ``shortest`` to ``longest`` tokens."""

    shortest: int
    longest: int
    n_sequences: int
    accepted_share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskEffect:
    """What a rule, or several at once, does to a trace.

    Parameters
    ----------
    thresholds : mapping of str to float
        Rule and threshold; a sequence is accepted when every rule accepts it.
    accept : ndarray of bool
        One entry per sequence, in the order of the summary.
    accepted_share, accepted_token_share : float
        Of the sequences, and of their tokens.
    by_length : tuple of LengthBin
        Acceptance by fifths of the lengths: does the rule drop the long ones?
    surrogate : Estimate or None
        ``(1/N) sum_i accept_i (R_i - b_i) M_i``, divided by the batch size N, with ``b_i`` the
        mean reward of the other sequences of the prompt; None without rewards.
    unmasked_surrogate : Estimate or None
        The same with every sequence.
    ppl_gap, accepted_ppl_gap : float
        Mean of ``|mean_t log pi - mean_t log mu|`` in nats, of all and of accepted sequences.
    guarantee : Guarantee or None
        What a cap on a path sum proves.
    """

    thresholds: Mapping[str, float]
    accept: NDArray[np.bool_]
    accepted_share: float
    accepted_token_share: float
    by_length: tuple[LengthBin, ...]
    surrogate: Estimate | None
    unmasked_surrogate: Estimate | None
    ppl_gap: float
    accepted_ppl_gap: float
    guarantee: Guarantee | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the mask itself."""
        return {
            "thresholds": dict(self.thresholds),
            "accepted_share": self.accepted_share,
            "accepted_token_share": self.accepted_token_share,
            "by_length": [vars(b) for b in self.by_length],
            "surrogate": None if self.surrogate is None else self.surrogate.to_dict(),
            "unmasked_surrogate": None
            if self.unmasked_surrogate is None
            else self.unmasked_surrogate.to_dict(),
            "ppl_gap": self.ppl_gap,
            "accepted_ppl_gap": self.accepted_ppl_gap,
            "guarantee": None if self.guarantee is None else vars(self.guarantee),
        }


def mask(
    summary: TraceSummary,
    thresholds: Mapping[str, float],
    *,
    scores: Mapping[str, Floats] | None = None,
) -> MaskEffect:
    """Apply masking rules to a trace.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    thresholds : mapping of str to float
        Largest accepted score of each rule of :data:`trbounds.masking.RULES`.
    scores : mapping of str to ndarray, optional
        Scores of rules that need the tokens.

    Returns
    -------
    MaskEffect

    Raises
    ------
    InputError
        For an unknown rule, a threshold that is not a number of at least 0, or a missing field.

    Examples
    --------
    >>> from trbounds.masking import mask
    >>> from trbounds.traces import example_path, summarize
    >>> mask(summarize(example_path()), {"trm_max": 0.005}).accepted_share
    0.9921875
    """
    if not thresholds:
        raise InputError("no rule given, expected at least one")
    accept = np.ones(summary.n_sequences, dtype=bool)
    for key, threshold in thresholds.items():
        if not threshold >= 0:
            raise InputError(f"found {threshold:g}, expected a number of at least 0", field=key)
        accept &= _scores_of(summary, key, scores) <= threshold
    return _effect(summary, dict(thresholds), accept)


def sweep(
    summary: TraceSummary,
    rule: str,
    thresholds: Sequence[float] | None = None,
    *,
    scores: Mapping[str, Floats] | None = None,
) -> list[MaskEffect]:
    """Apply one rule with several thresholds.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rule : str
        Key of a rule.
    thresholds : sequence of float, optional
        By default those that accept 10 %, 20 %, ... 100 % of the sequences.
    scores : mapping of str to ndarray, optional
        As for :func:`mask`.

    Returns
    -------
    list of MaskEffect
        One per threshold.
    """
    if thresholds is None:
        found = _scores_of(summary, rule, scores)
        shares = np.arange(1, 11) / 10
        levels = np.quantile(found, shares, method="inverted_cdf")
        thresholds = [float(level) for level in np.unique(levels)]
    return [mask(summary, {rule: threshold}, scores=scores) for threshold in thresholds]


def _scores_of(summary: TraceSummary, key: str, scores: Mapping[str, Floats] | None) -> Floats:
    rule = get_rule(key)
    return scores[key] if scores and key in scores else rule.scores(summary)


def _effect(
    summary: TraceSummary, thresholds: dict[str, float], accept: NDArray[np.bool_]
) -> MaskEffect:
    table = summary.sequences
    lengths = table["length"]
    gap = np.abs(table["log_weight"] / np.maximum(lengths, 1))
    surrogate = unmasked = None
    if summary.has("reward"):
        groups = summary.groups()
        terms = centred_reward(table, groups) * table["ratio_sum"]
        blocks = Blocks(groups)
        surrogate, unmasked = blocks.mean(np.where(accept, terms, 0.0)), blocks.mean(terms)
    tokens = int(lengths.sum())
    return MaskEffect(
        thresholds=thresholds,
        accept=accept,
        accepted_share=float(accept.mean()),
        accepted_token_share=float(lengths[accept].sum() / tokens) if tokens else 0.0,
        by_length=_by_length(lengths, accept),
        surrogate=surrogate,
        unmasked_surrogate=unmasked,
        ppl_gap=float(gap.mean()),
        accepted_ppl_gap=float(gap[accept].mean()) if accept.any() else math.nan,
        guarantee=guarantee_of(summary, thresholds, bool(accept.all())),
    )


def _by_length(lengths: NDArray[np.int32], accept: NDArray[np.bool_]) -> tuple[LengthBin, ...]:
    edges = np.unique(np.quantile(lengths, np.arange(1, _BINS) / _BINS, method="inverted_cdf"))
    which = np.searchsorted(edges, lengths, side="left")
    return tuple(
        LengthBin(
            int(lengths[inside].min()),
            int(lengths[inside].max()),
            int(inside.sum()),
            float(accept[inside].mean()),
        )
        for inside in (which == number for number in range(edges.size + 1))
        if inside.any()
    )
