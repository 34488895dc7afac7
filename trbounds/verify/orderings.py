"""Inequalities between bounds that are proved for every profile.

Each holds because the profile of a policy pair obeys, at every token and position,
``tv_max <= TV(kl_max)``, ``tv_mean[t] <= min(tv_max, TV(kl_mean[t]))``, ``kl_mean[t] <= kl_max``
and ``kl_seq = sum_t kl_mean[t]``.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ORDERINGS", "Ordering"]


class Ordering(NamedTuple):
    """``factor * smaller <= larger``, and why."""

    smaller: str
    larger: str
    reason: str
    factor: float = 1.0


_MEAN_BELOW_MAX = "mean TVs are at most the largest TV"
_TV_BY_KL = "the largest TV is at most what the largest KL allows"
_CAP = "a cap of 1 in each term"
_LEAST = "a minimum is at most each of its parts"

ORDERINGS = (
    Ordering("linear_data", "linear", _MEAN_BELOW_MAX),
    Ordering("coupling", "classical", "the cap of 1 dropped"),
    Ordering("coupling", "linear", _CAP),
    Ordering("mixed_tv", "linear", _CAP),
    Ordering("pinsker_marginal_tv", "linear", _CAP),
    Ordering("pinsker_marginal_tv", "pinsker_marginal", _TV_BY_KL),
    Ordering("adaptive", "pinsker_marginal_tv", _MEAN_BELOW_MAX),
    Ordering("adaptive", "pinsker_marginal", _MEAN_BELOW_MAX + ", " + _TV_BY_KL),
    Ordering("adaptive", "linear_data", _CAP),
    Ordering("adaptive_tv", "coupling", _MEAN_BELOW_MAX),
    Ordering("adaptive_tv", "linear_data", _CAP),
    Ordering("adaptive_hybrid", "adaptive", _LEAST),
    Ordering("adaptive_hybrid", "adaptive_tv", _LEAST),
    *(
        Ordering("unified", part, _LEAST)
        for part in (
            "pinsker_marginal",
            "mixed",
            "pinsker_marginal_tv",
            "mixed_tv",
            "coupling",
            "adaptive",
            "adaptive_tv",
            "adaptive_hybrid",
        )
    ),
    Ordering("coupling_sharp", "coupling", "Bernoulli's inequality, and half the constant", 2.0),
    Ordering("adaptive_centred", "adaptive_hybrid", "half the constant", 2.0),
    Ordering("adaptive_centred", "cauchy_schwarz", "Pinsker and Cauchy-Schwarz over positions"),
    Ordering("prefix_profile", "coupling", "prefix sums of TV are at most (t-1) tv_max", 2.0),
    Ordering("prefix_profile", "pinsker_marginal_tv", "prefix sums of KL, half the constant", 2.0),
    Ordering("prefix_profile", "mixed", "prefix sums of KL are at most kl_seq", 2.0),
    Ordering("chi2_second_order_positions", "chi2_second_order", "no position is above chi2_max"),
)
