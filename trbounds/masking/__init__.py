"""Masking rules on logged traces: which sequences or tokens they keep, and what that does."""

from trbounds.masking.acceptance import Acceptance, Bin
from trbounds.masking.effect import MaskEffect, compare, mask
from trbounds.masking.guarantees import Guarantee, LengthNeutralGuarantee
from trbounds.masking.language import parse_family, parse_rule
from trbounds.masking.presets import PRESETS, Preset
from trbounds.masking.rules import And, Interval, Not, Or, Rule
from trbounds.masking.statistics import (
    STATISTICS,
    TOKEN_STATISTICS,
    Statistic,
    compute_statistics,
    needs_tokens,
)
from trbounds.masking.threshold import (
    Threshold,
    threshold_for_acceptance,
    threshold_for_budget,
)
from trbounds.masking.token_masks import KeptTokens, keep_tokens

__all__ = [
    "PRESETS",
    "STATISTICS",
    "TOKEN_STATISTICS",
    "Acceptance",
    "And",
    "Bin",
    "Guarantee",
    "Interval",
    "KeptTokens",
    "LengthNeutralGuarantee",
    "MaskEffect",
    "Not",
    "Or",
    "Preset",
    "Rule",
    "Statistic",
    "Threshold",
    "compare",
    "compute_statistics",
    "keep_tokens",
    "mask",
    "needs_tokens",
    "parse_family",
    "parse_rule",
    "threshold_for_acceptance",
    "threshold_for_budget",
]
