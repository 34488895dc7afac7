"""What a cap on a per-sequence sum of divergences proves about the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trbounds.bounds import get_bound
from trbounds.profile import DivergenceProfile
from trbounds.traces.error_estimates import RewardVariance
from trbounds.traces.jackknife import Blocks
from trbounds.traces.summary import TraceSummary

__all__ = ["Guarantee", "guarantee_of"]

_CAPS = {
    "path_sum_chi2": ("chi2_path_max", "path_sum_chi2"),
    "path_sum_kl": ("kl_path_max", "path_sum_kl"),
}


@dataclass(frozen=True)
class Guarantee:
    """A bound on |Error| that follows from a cap on a path sum.

    Parameters
    ----------
    value : float
        The bound for any reward in the range, from the cap alone.
    value_for_reward : float or None
        The same with the estimated within-prompt variance of the logged reward (plug-in).
    bound : str
        Key of the bound.
    covers : str
        Of which policy it bounds the error, and of which it does not.
    """

    value: float
    value_for_reward: float | None
    bound: str
    covers: str


def guarantee_of(
    summary: TraceSummary, thresholds: Mapping[str, float], all_accepted: bool
) -> Guarantee | None:
    """Return the strongest guarantee of the path-sum rules among some thresholds.

    Parameters
    ----------
    summary : TraceSummary
        The trace: its horizon, reward range and reward variance.
    thresholds : mapping of str to float
        Rules and thresholds.
    all_accepted : bool
        Whether every sequence of the trace keeps within them.

    Returns
    -------
    Guarantee or None
        None where no rule caps a path sum.
    """
    variance = None
    if summary.has("reward"):
        variance = RewardVariance.of(summary, Blocks(summary.groups())).value
    found = []
    for rule, (field, key) in _CAPS.items():
        if rule in thresholds:
            profile = DivergenceProfile(
                T=max(summary.T, 1), reward_range=summary.reward_range
            ).with_values(**{field: thresholds[rule]})
            bound = get_bound(key)
            value = float(bound.evaluate(profile))
            known = profile.with_values(reward_var=variance)
            found.append(
                Guarantee(
                    value,
                    None if variance is None else float(bound.evaluate(known)),
                    key,
                    _WHOLE if all_accepted else _STOPPED,
                )
            )
    return min(found, key=lambda guarantee: guarantee.value, default=None)


_WHOLE = (
    "the training policy itself, if no other rollout exceeds the cap: every sequence of this "
    "trace keeps within it"
)
_STOPPED = (
    "the policy that follows the training policy up to the first token at which the running sum "
    "would exceed the cap, and the rollout policy from that token on; its surrogate sums rho - 1 "
    "over the tokens before. Dropping whole sequences, as this mask does, is not covered: the "
    "mask looks at the end of a sequence to weigh its beginning"
)
