"""Divergences of two policies at one context, per-token estimators, and conversions.

Directions are fixed throughout: ``kl`` is KL(μ‖π), ``chi2`` is χ²(π‖μ) = Σ π²/μ − 1, ``tv`` is the
total variation, with μ the rollout policy and π the training policy. Natural logarithms.
"""

from trbounds.divergences.conversions import (
    chi2_from_kl,
    tv_from_chi2,
    tv_from_kl_pinsker,
    tv_from_kl_sharp,
)
from trbounds.divergences.elementwise import expm1_minus
from trbounds.divergences.estimators import k1, k2, k3
from trbounds.divergences.exact import (
    Divergences,
    chi2_divergence,
    divergences,
    kl_divergence,
    total_variation,
)

__all__ = [
    "Divergences",
    "chi2_divergence",
    "chi2_from_kl",
    "divergences",
    "expm1_minus",
    "k1",
    "k2",
    "k3",
    "kl_divergence",
    "total_variation",
    "tv_from_chi2",
    "tv_from_kl_pinsker",
    "tv_from_kl_sharp",
]
