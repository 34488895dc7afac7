"""What a rule proves about the error, and what it only suggests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.bounds import best_bound
from trbounds.masking.statistics import weights_of
from trbounds.profile import DivergenceProfile
from trbounds.traces.error_estimates import RewardVariance
from trbounds.traces.jackknife import Blocks, Estimate
from trbounds.traces.summary import TraceSummary

#: Statistic, the field of a profile that a cap on it limits, whether times the horizon, and
#: whether it is a divergence itself or only sampled.
CAPPED: Mapping[str, tuple[str, bool, bool]] = {
    "max kl": ("kl_max", False, True),
    "max tv": ("tv_max", False, True),
    "max chi2": ("chi2_max", False, True),
    "sum kl": ("kl_path_max", False, True),
    "sum chi2": ("chi2_path_max", False, True),
    "mean kl": ("kl_path_max", True, True),
    "mean chi2": ("chi2_path_max", True, True),
    "sum k3": ("kl_path_max", False, False),
    "sum (rho-1)^2": ("chi2_path_max", False, False),
    "sum clamped_k3": ("kl_path_max", False, False),
    "mean k3": ("kl_path_max", True, False),
    "mean clamped_k3": ("kl_path_max", True, False),
    "mean (rho-1)^2": ("chi2_path_max", True, False),
}


@dataclass(frozen=True)
class Guarantee:
    """The smallest bound on |Error| that follows from the caps of a rule.

    Parameters
    ----------
    value : float
        The bound for any reward in the range, from the caps and the horizon alone.
    value_for_reward : float or None
        The same with the estimated within-prompt variance of the logged reward (plug-in).
    bound : str
        Key of the bound that is smallest, for any reward.
    fields : mapping of str to float
        The divergences that the caps limit.
    plug_in : bool
        Whether the caps are on sampled quantities, put in for the divergences they estimate: then
        nothing is proved.
    covers : str
        Of which policy it bounds the error, and of which it does not.
    """

    value: float
    value_for_reward: float | None
    bound: str
    fields: Mapping[str, float]
    plug_in: bool
    covers: str


@dataclass(frozen=True)
class LengthNeutralGuarantee:
    """What LN-TRM says of the error: ``|Error| <= E_mu[sum_t |rho_t - 1| w_t]``.

    Parameters
    ----------
    value : Estimate
        That mean over all sequences, in reward units.
    accepted : Estimate
        The part of it that accepted sequences have, divided by the batch size.
    from_cap : float
        The threshold times the mean of ``sum_t w_t``: no more than this can be accepted.

    Notes
    -----
    The paper's constant is 2; centring the reward halves it. It holds if the largest token
    divergences that the weights were made with are the largest there are.
    """

    value: Estimate
    accepted: Estimate
    from_cap: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "value": self.value.to_dict(),
            "accepted": self.accepted.to_dict(),
            "from_cap": self.from_cap,
        }


def guarantee_of(
    summary: TraceSummary, caps: Mapping[str, float], *, all_accepted: bool
) -> Guarantee | None:
    """Return the smallest bound that the caps of a rule imply.

    Parameters
    ----------
    summary : TraceSummary
        The trace: its horizon, reward range and reward variance.
    caps : mapping of str to float
        Statistics and the upper limits that every accepted sequence keeps.
    all_accepted : bool
        Whether every sequence of the trace keeps within them.

    Returns
    -------
    Guarantee or None
        From caps on divergences alone if there are any, else from caps on sampled quantities;
        None where the rule caps neither.
    """
    profile = capped_profile(summary, caps)
    if not profile.known:
        return None
    best = best_bound(profile)
    for_reward = None
    if summary.has("reward"):
        variance = RewardVariance.of(summary, Blocks(summary.groups())).value
        for_reward = float(best_bound(profile.with_values(reward_var=variance)).value)
    covers = _WHOLE if all_accepted else _STOPPED
    fields = {name: float(getattr(profile, name)) for name in profile.known}
    value = float(best.value)
    return Guarantee(value, for_reward, best.bound.key, fields, _sampled_only(caps), covers)


def capped_profile(summary: TraceSummary, caps: Mapping[str, float]) -> DivergenceProfile:
    """Return what caps say of the stopped policy.

    From caps on divergences if there are any, else on sampled quantities; nothing is known where
    there is neither. The horizon is the longest sequence of the trace.
    """
    T = max(summary.T, 1)
    fields = _fields(caps, T, exact=not _sampled_only(caps))
    return DivergenceProfile(T=T, reward_range=summary.reward_range).with_values(**fields)


def _sampled_only(caps: Mapping[str, float]) -> bool:
    return not any(CAPPED[name][2] for name in caps if name in CAPPED)


def length_neutral_of(
    summary: TraceSummary,
    caps: Mapping[str, float],
    columns: Mapping[str, NDArray[Any]],
    accept: NDArray[np.bool_],
) -> LengthNeutralGuarantee | None:
    """Return what LN-TRM says of the error; None where the rule does not cap it."""
    for name in ("ln_trm_tv", "ln_trm"):
        if name in caps:
            low, high = summary.reward_range
            weights = columns[weights_of(name)]
            blocks = Blocks(summary.groups())
            terms = (high - low) * columns[name] * weights
            return LengthNeutralGuarantee(
                blocks.mean(terms),
                blocks.mean(np.where(accept, terms, 0.0)),
                caps[name] * (high - low) * math.fsum(weights) / weights.size,
            )
    return None


def _fields(caps: Mapping[str, float], T: int, *, exact: bool) -> dict[str, float]:
    out: dict[str, float] = {}
    for statistic, cap in caps.items():
        if statistic not in CAPPED:
            continue
        field, per_token, divergence = CAPPED[statistic]
        if divergence == exact:
            # A cap below 0 accepts nothing that a cap of 0 does not.
            limit = max(cap, 0.0) * (T if per_token else 1)
            limit = min(limit, 1.0) if field == "tv_max" else limit
            out[field] = min(limit, out.get(field, math.inf))
    return out


_WHOLE = (
    "the training policy itself, if no other rollout exceeds the caps: every sequence of this "
    "trace keeps within them"
)
_STOPPED = (
    "the policy that follows the training policy up to the first token at which a cap would be "
    "exceeded, and the rollout policy from that token on; its surrogate sums rho - 1 over the "
    "tokens before. Dropping whole sequences, as this mask does, is not covered: the mask looks "
    "at the end of a sequence to weigh its beginning"
)
