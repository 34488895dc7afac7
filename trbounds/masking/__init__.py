"""Masking rules on logged traces: which sequences they accept, and what that does."""

from trbounds.masking.acceptance import Acceptance, Bin
from trbounds.masking.effect import MaskEffect, compare, mask
from trbounds.masking.guarantees import Guarantee, LengthNeutralGuarantee
from trbounds.masking.language import parse_family, parse_rule
from trbounds.masking.presets import PRESETS, Preset
from trbounds.masking.rules import And, Interval, Not, Or, Rule
from trbounds.masking.statistics import STATISTICS, Statistic, compute_statistics, needs_tokens
from trbounds.masking.threshold import (
    Threshold,
    threshold_for_acceptance,
    threshold_for_budget,
)

__all__ = [
    "PRESETS",
    "STATISTICS",
    "Acceptance",
    "And",
    "Bin",
    "Guarantee",
    "Interval",
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
    "mask",
    "needs_tokens",
    "parse_family",
    "parse_rule",
    "threshold_for_acceptance",
    "threshold_for_budget",
]
