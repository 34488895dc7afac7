"""Masking rules on logged traces: which sequences they accept, and what that does."""

from trbounds.masking.effect import LengthBin, MaskEffect, mask, sweep
from trbounds.masking.guarantees import Guarantee
from trbounds.masking.length_neutral import length_neutral_scores
from trbounds.masking.rules import RULES, Rule, get_rule

__all__ = [
    "RULES",
    "Guarantee",
    "LengthBin",
    "MaskEffect",
    "Rule",
    "get_rule",
    "length_neutral_scores",
    "mask",
    "sweep",
]
