"""What a trace says in our own terms: estimates, limits, and how far to trust the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.concentration import BoundedMean, empirical_bernstein
from trbounds.errors import InputError
from trbounds.traces.error_estimates import ErrorEstimates, estimate_error
from trbounds.traces.summary import TraceSummary

__all__ = ["TraceStatistics", "trace_statistics"]

_QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
_ALWAYS = ("abs_log_ratio", "k2", "k3")
_TOKEN_VALUES = (*_ALWAYS, "kl", "tv", "chi2", "entropy")


@dataclass(frozen=True, repr=False)
class TraceStatistics:
    """Statistics of a trace.

    Parameters
    ----------
    estimates : ErrorEstimates
        Each with a standard error by sequence and by prompt; with the effective sample size and
        the tail index of the sequence weights.
    limits : mapping of str to BoundedMean
        Limits without any assumption of normality, prompts taken as independent, where logged:
        ``reward``, ``tv`` (mean over sequences of the mean token TV) and ``finished``.
    quantiles : mapping of str to mapping of float to float
        Of the observed values of tokens, as :meth:`TraceSummary.quantile` takes them: ``|log
        rho|``, k2, k3 and the divergences that are logged, at 0.5, 0.9, 0.99, 0.999 and 1.
    """

    estimates: ErrorEstimates
    limits: Mapping[str, BoundedMean]
    quantiles: Mapping[str, Mapping[float, float]]

    @property
    def trust(self) -> str:
        """Whether the importance weights can be trusted, in plain words."""
        weights = self.estimates.weights
        shape = weights.pareto_shape
        tail = "too few for a tail index" if math.isnan(shape) else f"tail index {shape:.2f}"
        if weights.heavy:
            return str(weights.warning)
        trusted = (
            "the importance weights can be trusted: the effective sample is "
            f"{weights.effective_share:.0%} of the sequences ({tail}, largest weight "
            f"{weights.largest_weight:.3g})"
        )
        return f"{trusted}; but {weights.warning}" if weights.warning else trusted

    def __repr__(self) -> str:
        names = ("surrogate", "gain", "error", "sup_error", "tv_seq", "l2")
        found = {name: getattr(self.estimates, name) for name in names}
        shown = [
            f"{name}: {estimate.value:.3g} +- {estimate.jackknife_error:.1g}"
            for name, estimate in found.items()
            if estimate is not None
        ]
        return f"TraceStatistics({', '.join(shown)}; {self.trust})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "estimates": self.estimates.to_dict(),
            "limits": {name: mean.to_dict() for name, mean in self.limits.items()},
            "quantiles": {
                name: {str(q): value for q, value in found.items()}
                for name, found in self.quantiles.items()
            },
            "trust": self.trust,
        }


def trace_statistics(summary: TraceSummary, *, confidence: float = 0.95) -> TraceStatistics:
    """Compute the statistics of a trace.

    Parameters
    ----------
    summary : TraceSummary
        Of at least one sequence.
    confidence : float
        Of each limit.

    Returns
    -------
    TraceStatistics

    Raises
    ------
    InputError
        If there is no sequence, or for a bad confidence.
    """
    if not summary.n_sequences:
        raise InputError("found no sequence, expected at least one", field="paths")
    table, groups = summary.sequences, summary.groups()
    columns: dict[str, tuple[NDArray[Any], float, float]] = {}
    if summary.has("reward"):
        columns["reward"] = (table["reward"], *summary.reward_range)
    if summary.has("tv"):
        # A mean of numbers up to 1 can exceed it by rounding.
        mean = np.minimum(table["tv_sum"] / np.maximum(table["length"], 1), 1.0)
        columns["tv"] = (mean, 0.0, 1.0)
    if summary.has("finished"):
        columns["finished"] = (table["finished"], 0.0, 1.0)
    limits = {
        name: empirical_bernstein(values, low=low, high=high, confidence=confidence, groups=groups)
        for name, (values, low, high) in columns.items()
    }
    quantiles = {
        name: {q: summary.quantile(name, q) for q in _QUANTILES}
        for name in _TOKEN_VALUES
        if summary.n_tokens and (name in _ALWAYS or summary.has(name))
    }
    return TraceStatistics(estimate_error(summary), limits, quantiles)
