"""Vocabulary pruning by min-p: safe sets, the bias they cause, the mismatch they remove.

A safe set keeps the tokens at least min-p times as likely as the likeliest. What is removed at one
context, over whole sequences and at worst are laws with proofs; the trade between bias and
mismatch is measured on logits. The laws are trbounds' derivations of what DVP (arXiv 2512.23087)
claims in its abstract.
"""

from trbounds.pruning.law import PruningCase, PruningLaw
from trbounds.pruning.laws import all_laws, get_law
from trbounds.pruning.pair import PrunedPair, SafeSets, prune_pair
from trbounds.pruning.sequences import SequenceBias, sequence_bias
from trbounds.pruning.sets import Pruned, prune, restrict, safe_set
from trbounds.pruning.trade import SWEEP_THRESHOLDS, PruningTrade, SweepRow, sweep, sweep_file

__all__ = [
    "SWEEP_THRESHOLDS",
    "Pruned",
    "PrunedPair",
    "PruningCase",
    "PruningLaw",
    "PruningTrade",
    "SafeSets",
    "SequenceBias",
    "SweepRow",
    "all_laws",
    "get_law",
    "prune",
    "prune_pair",
    "restrict",
    "safe_set",
    "sequence_bias",
    "sweep",
    "sweep_file",
]
