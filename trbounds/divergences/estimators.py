"""Per-token estimators of KL(μ‖π) from the log-ratio of a token sampled from μ.

Each takes ``log_ratio`` = log ρ = log π(y) - log μ(y). Under μ, and if π is absolutely continuous
with respect to μ, the means of k1 and k3 are KL(μ‖π); the mean of k2 agrees to second order only.
"""

from __future__ import annotations

from typing import Any

from trbounds.divergences.elementwise import elementwise, expm1_minus_float64


def k1(log_ratio: Any) -> Any:
    """Return -log ρ: unbiased for KL(μ‖π), of either sign.

    Parameters
    ----------
    log_ratio : float or array
        log ρ of sampled tokens, in nats.

    Returns
    -------
    float or array
        Of the kind, dtype and device of `log_ratio`.

    Raises
    ------
    InputError
        If a value is no real number, or NaN.
    """
    return elementwise(lambda xp, x: -x, {"log_ratio": log_ratio})


def k2(log_ratio: Any) -> Any:
    """Return (log ρ)²/2: non-negative, biased at third order in log ρ.

    Parameters
    ----------
    log_ratio : float or array
        log ρ of sampled tokens, in nats.

    Returns
    -------
    float or array
        Of the kind, dtype and device of `log_ratio`.

    Raises
    ------
    InputError
        If a value is no real number, or NaN.
    """
    return elementwise(lambda xp, x: 0.5 * x * x, {"log_ratio": log_ratio})


def k3(log_ratio: Any) -> Any:
    """Return ρ - 1 - log ρ: non-negative, and unbiased for KL(μ‖π).

    Parameters
    ----------
    log_ratio : float or array
        log ρ of sampled tokens, in nats.

    Returns
    -------
    float or array
        Of the kind, dtype and device of `log_ratio`; inf where ρ is 0 or overflows.

    Raises
    ------
    InputError
        If a value is no real number, or NaN.

    Notes
    -----
    -log ρ + l (ρ - 1) is unbiased for every l; l = 1 is the only choice that is never negative.
    """
    return elementwise(expm1_minus_float64, {"log_ratio": log_ratio})
