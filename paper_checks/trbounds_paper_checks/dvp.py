"""Dynamic Vocabulary Pruning: Stable LLM-RL by Taming the Tail, arXiv 2512.23087, its abstract.

Only the abstract was at hand. It prints no number: each statement is set against our own derivation
of it, and against real logits.
"""

from __future__ import annotations

from trbounds_paper_checks import _mismatch_evidence as evidence
from trbounds_paper_checks._claim import Claim, Statement, Verdict

PAPER = "DVP"
ABSTRACT = "abstract (our derivation of the claim)"


CLAIMS: tuple[Claim, ...] = (
    Statement(
        key="one_minus_p",
        paper=PAPER,
        place=ABSTRACT,
        text="the bound on the log-probability mismatch scales as 1 - p",
        evaluate=evidence.scales_with_one_minus_p,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="one_minus_p_unperturbed",
        paper=PAPER,
        place=ABSTRACT,
        text="the same, read as |mismatch| <= 2a (1 - p) with the p of one policy",
        evaluate=evidence.scales_with_unperturbed_p,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="vanishes",
        paper=PAPER,
        place=ABSTRACT,
        text="it vanishes for high-probability tokens",
        evaluate=evidence.vanishes_for_likely_tokens,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="asymmetry",
        paper=PAPER,
        place=ABSTRACT,
        text="it remains significant for low-probability tokens",
        evaluate=evidence.tail_keeps_its_bound,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="biased_tail",
        paper=PAPER,
        place=ABSTRACT,
        text="sampled tail tokens carry a systematically biased mismatch",
        evaluate=evidence.tail_samples_are_biased,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="bounded_bias",
        paper=PAPER,
        place=ABSTRACT,
        text="pruning the tail costs a bounded bias",
        evaluate=evidence.bias_of_pruning_is_bounded,
        recorded=Verdict.HOLDS,
    ),
)
