"""What masking does to a batch: what is accepted or kept, and the surrogate that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.masking.acceptance import (
    Acceptance,
    Bin,
    accept_share,
    by_length,
    by_value,
    kept_share,
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
from trbounds.masking.token_masks import KeptTokens
from trbounds.traces.error_estimates import centred_reward
from trbounds.traces.jackknife import Blocks, Estimate
from trbounds.traces.summary import TraceSummary


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MaskEffect:
    """What a rule does to a trace.

    Parameters
    ----------
    rule : Rule
        The rule.
    kept : KeptTokens
        What it keeps of every sequence, in the order of the summary.
    accepted : Acceptance
        Share of the sequences accepted: of which no token is masked.
    kept_token_share : Estimate
        Share of the tokens kept. A rule on sequences keeps all tokens of those it accepts.
    by_length, by_reward, by_step : tuple of Bin
        Acceptance by tenths of the lengths, by reward and by training step; empty where these are
        not logged. Does the rule drop the long ones, or the good ones?
    token_exclusion : float
        p of the shares ``(1-p)^T`` that are expected by length.
    surrogate : Estimate or None
        ``(1/N) sum_i (R_i - b_i) sum_t keep_it (rho_t - 1)``, divided by the batch size N, with
        ``b_i`` the mean reward of the other sequences of the prompt; None without rewards.
    unmasked_surrogate : Estimate or None
        The same with every sequence.
    ppl_gap, accepted_ppl_gap : float
        Mean of ``|mean_t log pi - mean_t log mu|`` in nats, of all and of accepted sequences.
    guarantee : Guarantee or None
        What the caps of the rule prove. None for a rule on tokens, which proves nothing: it takes
        terms out of the surrogate, and the two policies stay as far apart as they are.
    length_neutral : LengthNeutralGuarantee or None
        What LN-TRM says, where a rule on sequences caps it.
    """

    rule: Rule
    kept: KeptTokens
    accepted: Acceptance
    kept_token_share: Estimate
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

    @property
    def accept(self) -> NDArray[np.bool_]:
        """Of every sequence, whether it is accepted: no token of it is masked."""
        return self.kept.accept

    @property
    def on_tokens(self) -> bool:
        """Whether the rule masks single tokens, not only whole sequences."""
        return bool(self.rule.token_statistics)

    def __repr__(self) -> str:
        return (
            f"MaskEffect({str(self.rule)!r}: {self.accepted.share.value:.1%} of the sequences "
            f"accepted, {self.kept_token_share.value:.1%} of the tokens kept)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the mask itself."""
        return {
            "rule": str(self.rule),
            "on_tokens": self.on_tokens,
            "accepted": self.accepted.to_dict(),
            "kept_token_share": self.kept_token_share.to_dict(),
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
    kept: Mapping[Rule, KeptTokens] | None = None,
) -> MaskEffect:
    """Apply a masking rule to a trace.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rule : str or Rule
        The rule; see :func:`trbounds.masking.parse_rule`.
    statistics : mapping of str to ndarray, optional
        Of :func:`trbounds.masking.compute_statistics`, for statistics that need the tokens.
    kept : mapping of Rule to KeptTokens, optional
        Of :func:`trbounds.masking.keep_tokens`, for rules on tokens.

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

    A rule on tokens reads them again:

    >>> from trbounds.masking import keep_tokens, parse_rule
    >>> from trbounds.traces import open_trace
    >>> summary, rule = summarize(example_path()), parse_rule("0.99 <= token ratio <= 1.01")
    >>> kept = keep_tokens(summary, [rule], open_trace(example_path()))
    >>> round(mask(summary, rule, kept=kept).kept_token_share.value, 3)
    0.704
    """
    rule = parse_rule(rule) if isinstance(rule, str) else rule
    if statistics is None:
        statistics = compute_statistics(summary, rule.statistics)
    found = _kept(summary, rule, statistics, kept)
    table, groups = summary.sequences, summary.groups()
    accept, lengths = found.accept, table["length"]
    gap = np.abs(table["log_weight"] / np.maximum(lengths, 1))
    parts = (accept, lengths, groups, found.count)
    surrogate = unmasked = None
    rewards: tuple[Bin, ...] = ()
    if summary.has("reward"):
        centred, blocks = centred_reward(table, groups), Blocks(groups)
        surrogate = blocks.mean(centred * found.ratio_sum)
        unmasked = blocks.mean(centred * table["ratio_sum"])
        rewards = by_value(table["reward"], *parts)
    steps = by_value(table["step"], *parts, each=True) if summary.has("step") else ()
    # What caps prove is of sequences that are kept whole.
    caps = {} if rule.token_statistics else rule.caps()
    return MaskEffect(
        rule=rule,
        kept=found,
        accepted=accept_share(accept, groups),
        kept_token_share=kept_share(found.count, lengths, groups),
        by_length=by_length(*parts),
        by_reward=rewards,
        by_step=steps,
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
    kept: Mapping[Rule, KeptTokens] | None = None,
) -> list[MaskEffect]:
    """Apply several rules to one trace, each by itself.

    Parameters
    ----------
    summary : TraceSummary
        The trace.
    rules : sequence of str or Rule
        The rules.
    statistics, kept : mapping, optional
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
    return [mask(summary, rule, statistics, kept) for rule in parsed]


def _kept(
    summary: TraceSummary,
    rule: Rule,
    statistics: Mapping[str, NDArray[Any]],
    kept: Mapping[Rule, KeptTokens] | None,
) -> KeptTokens:
    if not rule.token_statistics:
        return KeptTokens.whole(summary, rule.accept(statistics))
    if kept is None or rule not in kept:
        raise InputError(f"'{rule}' needs the tokens: give the trace, not a summary")
    return kept[rule]


def _plain(part: Estimate | LengthNeutralGuarantee | None) -> dict[str, Any] | None:
    return None if part is None else part.to_dict()
