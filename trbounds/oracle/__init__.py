"""Exact truth on small problems: tabular policies, enumeration, instances."""

from trbounds.oracle.exact import (
    PROFILE_FIELDS,
    ExactTruth,
    exact,
    stopped_path_fields,
    variance_worst_reward,
    worst_reward,
)
from trbounds.oracle.tabular import TabularPair

__all__ = [
    "PROFILE_FIELDS",
    "ExactTruth",
    "TabularPair",
    "exact",
    "stopped_path_fields",
    "variance_worst_reward",
    "worst_reward",
]
