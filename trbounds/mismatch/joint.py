"""From a logit error to a bound on Error at any horizon, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trbounds.arrays import array_namespace, asarray_float64, to_numpy
from trbounds.bounds import all_bounds, get_bound
from trbounds.checks import as_number, as_number_arrays
from trbounds.errors import InputError
from trbounds.mismatch.law import MismatchCase
from trbounds.mismatch.laws import get_law
from trbounds.profile import DivergenceProfile, Provenance
from trbounds.solve import LONGEST_SPREAD, largest_divergence

#: Beyond this chi2 overflows; every bound has long been useless.
LARGEST_LOGIT_ERROR = 350.0

# Divergences go with the square of the logit error; below this they leave what floats resolve.
_SMALLEST = 1e-60


def profile_from_logit_error(
    logit_error: Any,
    T: Any,
    *,
    positions: bool = False,
    plug_in: bool = False,
    **known: Any,
) -> DivergenceProfile:
    """Profile of two policies whose logits differ by at most a, at every token and context.

    ``tv_max = tanh(a/2)``, ``kl_max = a^2/2``, ``chi2_max = sinh(a)^2`` and
    ``log_ratio_max = 2a``: with them every bound on Error follows at horizon T.

    Parameters
    ----------
    logit_error : float or array
        a, in nats: 0, or from 1e-60 to 350. Adding a constant to all logits of a context changes
        nothing.
    T : int or array
        Horizon.
    positions : bool
        Whether to fill in the means at every position, each at its maximum, which the adaptive
        bounds need. Then T is one number of at most 10 million.
    plug_in : bool
        Whether the logit error was measured rather than known. What follows is not certified then.
    **known : float, tuple or str
        Further fields of the profile, such as ``reward_var``, ``reward_range``, ``conversion``.

    Returns
    -------
    DivergenceProfile
        The four fields marked as derived.

    Raises
    ------
    InputError
        If the logit error is out of range, or another field is wrong.

    Notes
    -----
    Source: trbounds' derivation of claims of DVP (arXiv 2512.23087); see the laws ``tv_cap``,
    ``kl_cap``, ``chi2_cap`` and ``envelope``.

    Examples
    --------
    >>> profile = profile_from_logit_error(0.01, 8192)
    >>> round(float(profile.kl_max), 12)
    5e-05
    """
    case = MismatchCase(**as_number_arrays({"logit_error": logit_error}))
    a = case.logit_error
    if bool(case.xp.any(a > LARGEST_LOGIT_ERROR)):
        raise InputError(
            f"found {to_numpy(a).max():g}, expected at most {LARGEST_LOGIT_ERROR:g}",
            field="logit_error",
        )
    if bool(case.xp.any((a > 0.0) & (a < _SMALLEST))):
        positive = to_numpy(a)[to_numpy(a) > 0.0]
        raise InputError(
            f"found {positive.min():g}, expected 0 or at least {_SMALLEST:g}: bounds would "
            "underflow to 0",
            field="logit_error",
        )
    xp = array_namespace(a, T)
    values = {f"{name}_max": get_law(f"{name}_cap").formula(case) for name in ("tv", "kl", "chi2")}
    values["log_ratio_max"] = 2.0 * a
    relations = {
        "tv_max": "tv_max <= tanh(a/2), a = logit error",
        "kl_max": "kl_max <= a^2/2, a = logit error",
        "chi2_max": "chi2_max <= sinh(a)^2, a = logit error",
        "log_ratio_max": "|log rho| <= 2a, a = logit error",
    }
    marks = {
        name: Provenance("derived", by=text, plug_in=plug_in) for name, text in relations.items()
    }
    fields = {name: asarray_float64(v, xp=xp) for name, v in values.items()}
    make = DivergenceProfile.uniform if positions else DivergenceProfile
    return make(T=T, **{**fields, **known}, provenance=marks)


@dataclass(frozen=True)
class LogitErrorBudget:
    """The largest logit errors that a budget on |Error| allows.

    Parameters
    ----------
    T : int
        Horizon.
    budget : float
        Largest tolerated |Error|, in reward units.
    by_bound : mapping of str to float
        For each bound, the largest logit error at which it is within the budget.
    bound : str
        The bound that allows most.
    logit_error : float
        What it allows.
    """

    T: int
    budget: float
    by_bound: Mapping[str, float]
    bound: str
    logit_error: float


def largest_logit_error(
    T: int, budget: float, bound_key: str | None = None, **known: Any
) -> LogitErrorBudget:
    """Largest logit error at which a bound on |Error| stays within a budget.

    Parameters
    ----------
    T : int
        Horizon.
    budget : float
        Largest tolerated |Error|, in reward units, above 0.
    bound_key : str, optional
        One bound; by default every bound that a logit error lets evaluate.
    **known : float, tuple or str
        Further fields of the profile, such as ``reward_var``, ``reward_range``, ``conversion``.

    Returns
    -------
    LogitErrorBudget
        To 1e-10 relative; 0 where not even a = 1e-60 keeps within the budget, infinity where a
        bound keeps within it up to a = 350.

    Raises
    ------
    InputError
        If the budget is not positive, there is no such bound, or the bound needs a quantity that
        a logit error does not give.

    Examples
    --------
    >>> from trbounds.mismatch import largest_logit_error
    >>> found = largest_logit_error(8192, 0.1)
    >>> found.bound, round(found.logit_error, 6)
    ('chi2_second_order', 0.005742)
    """
    spread = as_number("T", T) <= LONGEST_SPREAD

    def profile(a: float) -> DivergenceProfile:
        return profile_from_logit_error(a, T, positions=spread, **known)

    bounds = all_bounds() if bound_key is None else {bound_key: get_bound(bound_key)}
    if bound_key is None:
        complete = profile(1e-3).complete()
        bounds = {key: b for key, b in bounds.items() if not b.missing(complete)}
    found = {
        key: largest_divergence(
            bound, profile, budget, smallest=_SMALLEST, largest=LARGEST_LOGIT_ERROR
        )
        for key, bound in bounds.items()
    }
    best = max(found, key=lambda key: found[key])
    return LogitErrorBudget(T, float(budget), found, best, found[best])
