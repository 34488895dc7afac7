"""The exact divergence profile of a tabular pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from trbounds.oracle.exact import ExactTruth
from trbounds.profile import Conversion, DivergenceProfile


def profile_of(
    truth: ExactTruth, *, any_reward: bool = False, conversion: Conversion = "pinsker"
) -> DivergenceProfile:
    """Return what is known about a pair, as floats.

    Parameters
    ----------
    truth : ExactTruth
        The enumerated pair.
    any_reward : bool
        Leave the reward's variance out: the profile then holds for every reward in the range.
    conversion : {"pinsker", "sharp"}
        How a KL becomes a TV.

    Returns
    -------
    DivergenceProfile
        Every finite field; an infinite divergence says nothing and is left out.
    """
    fields: dict[str, Any] = {}
    for name, value in truth.profile_fields().items():
        if name == "reward_range" or (any_reward and name == "reward_var"):
            continue
        array = np.asarray(value, dtype=object).astype(np.float64)
        if np.isfinite(array).all():
            fields[name] = int(value) if name == "T" else array
    low, high = (float(r) for r in truth.reward_range)
    if "reward_var" in fields:
        # Rounding of an extreme variance must not leave the range.
        fields["reward_var"] = min(float(fields["reward_var"]), (high - low) ** 2 / 4)
    for name in ("tv_max", "tv_seq", "tv_mean"):
        fields[name] = np.minimum(fields[name], 1.0)
    return DivergenceProfile(**fields, reward_range=(low, high), conversion=conversion)
