"""Exact truth on small problems: tabular policies, enumeration, instances."""

from trbounds.oracle.exact import PROFILE_FIELDS, ExactTruth, exact, stopped_path_fields
from trbounds.oracle.generators import KINDS, Kind, RewardKind, random_pair, random_rational_pair
from trbounds.oracle.instances import (
    baseline_offset,
    length_baseline_offset,
    missing_absolute_continuity,
    rare_context,
    rare_reward,
    rare_switch,
    two_step_tight,
    two_valued_ratio,
)
from trbounds.oracle.profiles import profile_of
from trbounds.oracle.rewards import variance_worst_reward, worst_reward
from trbounds.oracle.tabular import TabularPair

__all__ = [
    "KINDS",
    "PROFILE_FIELDS",
    "ExactTruth",
    "Kind",
    "RewardKind",
    "TabularPair",
    "baseline_offset",
    "exact",
    "length_baseline_offset",
    "missing_absolute_continuity",
    "profile_of",
    "random_pair",
    "random_rational_pair",
    "rare_context",
    "rare_reward",
    "rare_switch",
    "stopped_path_fields",
    "two_step_tight",
    "two_valued_ratio",
    "variance_worst_reward",
    "worst_reward",
]
