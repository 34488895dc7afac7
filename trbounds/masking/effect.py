"""What masking does to a batch: what is accepted, and the surrogate that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.masking.acceptance import (
    Acceptance,
    Bin,
    accept_share,
    by_length,
    by_value,
    token_exclusion,
)
from trbounds.masking.guarantees import (
    Guarantee,
    LengthNeutralGuarantee,
    guarantee_of,
    length_neutral_of,
)
from trbounds.masking.language import parse_rule
from trbounds.masking.rules import Rule
from trbounds.masking.statistics import compute_statistics
from trbounds.traces.error_estimates import centred_reward
from trbounds.traces.jackknife import Blocks, Estimate
from trbounds.traces.summary import TraceSummary

__all__ = ["MaskEffect", "compare", "mask"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskEffect:
    """What a rule does to a trace.

    Parameters
    ----------
    rule : Rule
        The rule.
    accept : ndarray of bool
        One entry per sequence, in the order of the summary.
    accepted : Acceptance
        Share of the sequences accepted.
    accepted_token_share : float
        Share of the tokens.
    by_length, by_reward, by_step : tuple of Bin
        Acceptance by tenths of the lengths, by reward and by training step; empty where these are
        not logged. Does the rule drop the long ones, or the good ones?
    token_exclusion : float
        p of the shares ``(1-p)^T`` that are expected by length.
    surrogate : Estimate or None
        ``(1/N) sum_i accept_i (R_i - b_i) M_i``, divided by the batch size N, with ``b_i`` the
        mean reward of the other sequences of the prompt; None without rewards.
    unmasked_surrogate : Estimate or None
        The same with every sequence.
    ppl_gap, accepted_ppl_gap : float
        Mean of ``|mean_t log pi - mean_t log mu|`` in nats, of all and of accepted sequences.
    guarantee : Guarantee or None
        What the caps of the rule prove.
    length_neutral : LengthNeutralGuarantee or None
        What LN-TRM says, where the rule caps it.
    """

    rule: Rule
    accept: NDArray[np.bool_]
    accepted: Acceptance
    accepted_token_share: float
    by_length: tuple[Bin, ...]
    by_reward: tuple[Bin, ...]
    by_step: tuple[Bin, ...]
    token_exclusion: float
    surrogate: Estimate | None
    unmasked_surrogate: Estimate | None
    ppl_gap: float
    accepted_ppl_gap: float
    guarantee: Guarantee | None
    length_neutral: LengthNeutralGuarantee | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the mask itself."""
        return {
            "rule": str(self.rule),
            "accepted": self.accepted.to_dict(),
            "accepted_token_share": self.accepted_token_share,
            "by_length": [part.to_dict() for part in self.by_length],
            "by_reward": [part.to_dict() for part in self.by_reward],
            "by_step": [part.to_dict() for part in self.by_step],
            "token_exclusion": self.token_exclusion,
            "surrogate": _plain(self.surrogate),
            "unmasked_surrogate": _plain(self.unmasked_surrogate),
            "ppl_gap": self.ppl_gap,
            "accepted_ppl_gap": self.accepted_ppl_gap,
            "guarantee": None if self.guarantee is None else vars(self.guarantee),
            "length_neutral": _plain(self.length_neutral),
        }


def mask(
    summary: TraceSummary,
    rule: str | Rule,
    statistics: Mapping[str, NDArray[Any]] | None = None,
) -> MaskEffect:
    """Apply a masking rule to a trace.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rule : str or Rule
        The rule; see :func:`trbounds.masking.parse_rule`.
    statistics : mapping of str to ndarray, optional
        Of :func:`trbounds.masking.compute_statistics`, for rules that need the tokens.

    Returns
    -------
    MaskEffect

    Raises
    ------
    InputError
        If the text is no rule, or the trace lacks what it needs.

    Examples
    --------
    >>> from trbounds.masking import mask
    >>> from trbounds.traces import example_path, summarize
    >>> mask(summarize(example_path()), "max kl <= 0.005").accepted.share.value
    0.9921875
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    if statistics is None:
        statistics = compute_statistics(summary, rule.statistics)
    table, groups = summary.sequences, summary.groups()
    accept, lengths = rule.accept(statistics), table["length"]
    gap = np.abs(table["log_weight"] / np.maximum(lengths, 1))
    surrogate = unmasked = None
    rewards: tuple[Bin, ...] = ()
    if summary.has("reward"):
        terms = centred_reward(table, groups) * table["ratio_sum"]
        blocks = Blocks(groups)
        surrogate, unmasked = blocks.mean(np.where(accept, terms, 0.0)), blocks.mean(terms)
        rewards = by_value(accept, table["reward"], groups)
    tokens, caps = int(lengths.sum(dtype=np.int64)), rule.caps()
    return MaskEffect(
        rule=rule,
        accept=accept,
        accepted=accept_share(accept, groups),
        accepted_token_share=float(lengths[accept].sum() / tokens) if tokens else 0.0,
        by_length=by_length(accept, lengths, groups),
        by_reward=rewards,
        by_step=by_value(accept, table["step"], groups, each=True) if summary.has("step") else (),
        token_exclusion=token_exclusion(accept, lengths),
        surrogate=surrogate,
        unmasked_surrogate=unmasked,
        ppl_gap=float(gap.mean()),
        accepted_ppl_gap=float(gap[accept].mean()) if accept.any() else math.nan,
        guarantee=guarantee_of(summary, caps, all_accepted=bool(accept.all())),
        length_neutral=length_neutral_of(summary, caps, statistics, accept),
    )


def compare(
    summary: TraceSummary,
    rules: Sequence[str | Rule],
    statistics: Mapping[str, NDArray[Any]] | None = None,
) -> list[MaskEffect]:
    """Apply several rules to one trace, each by itself.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rules : sequence of str or Rule
        The rules.
    statistics : mapping of str to ndarray, optional
        As for :func:`mask`, with what every rule needs.

    Returns
    -------
    list of MaskEffect
        In order of the rules.
    """
    parsed = [parse_rule(rule) if isinstance(rule, str) else rule for rule in rules]
    if statistics is None:
        names = [name for rule in parsed for name in rule.statistics]
        statistics = compute_statistics(summary, names)
    return [mask(summary, rule, statistics) for rule in parsed]


def _plain(part: Estimate | LengthNeutralGuarantee | None) -> dict[str, Any] | None:
    return None if part is None else part.to_dict()
