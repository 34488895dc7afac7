"""How far the importance weights of a trace can be trusted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.token_terms import LOG_WEIGHT_CAP

Floats = NDArray[np.float64]

LOWEST_ESS_SHARE = 0.5
"""Effective share of the sample below which a trace is called heavy: there the variance of the
weights exceeds the square of their mean, so that most of what decides the mean is rare in the
sample, and its own standard error is an underestimate."""

LARGEST_SHAPE = 0.7
"""Tail index above which a trace is called heavy: sample means then converge too slowly for any
practical sample (the limit of Pareto smoothed importance sampling)."""

FEWEST_SQUARES = 20
"""Effective sequences of Q below which its estimate is not to be trusted: over simulated traces of
light weights with fewer than 12, its true value was above the L2 bound by more than two of its
standard errors in four of ten."""

_SMALLEST_TAIL = 10
_PULL = 10


@dataclass(frozen=True)
class WeightDiagnostics:
    """Diagnostics of the sequence weights ``W = prod_t rho_t``.

    Parameters
    ----------
    effective_sample_size : float
        ``(sum W)^2 / sum W^2``.
    effective_share : float
        The same over the number of sequences.
    largest_weight : float
        Largest W.
    largest_share : float
        Share of ``sum W`` that one sequence has.
    residual_top_share : float
        Share of ``sum |W - 1 - M|`` that the largest 1 % of sequences have.
    pareto_shape : float
        Estimated tail index k of W (:func:`pareto_shape`): moments of order 1/k and above do not
        exist. NaN where too few sequences are in the tail.
    square_sample_size : float
        Effective number of sequences that the estimate of Q rests on, ``(sum q)^2 / sum q^2`` of
        its terms q.
    heavy : bool
        Whether the weights are too heavy to trust: `effective_share` below
        :data:`LOWEST_ESS_SHARE`, or `pareto_shape` above :data:`LARGEST_SHAPE`.
    """

    effective_sample_size: float
    effective_share: float
    largest_weight: float
    largest_share: float
    residual_top_share: float
    pareto_shape: float
    square_sample_size: float
    heavy: bool

    @property
    def warning(self) -> str | None:
        """A sentence for people; None where the weights can be trusted."""
        if not self.heavy:
            if self.square_sample_size >= FEWEST_SQUARES:
                return None
            return (
                f"the estimate of Q, and so the L2 bound, rests on about "
                f"{self.square_sample_size:.1f} sequences: it and its standard error can be much "
                "too small"
            )
        return (
            "the importance weights are too heavy to trust: the effective sample is "
            f"{self.effective_share:.0%} of the sequences (tail index {self.pareto_shape:.2f}, "
            f"largest weight {self.largest_weight:.3g}). Error, sup and L2 estimates, and their "
            "standard errors, can be too small"
        )

    def to_dict(self) -> dict[str, float | bool]:
        """Return the numbers by name."""
        return asdict(self)


def diagnose_weights(table: SequenceTable) -> WeightDiagnostics:
    """Diagnose the weights of a trace.

    Parameters
    ----------
    table : SequenceTable
        With at least one sequence.

    Returns
    -------
    WeightDiagnostics

    Notes
    -----
    Weights are taken relative to the largest, so that none overflows. The limit on the tail
    index is that of Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance
    sampling", JMLR 25 (2024).
    """
    log_weight = table["log_weight"]
    n = log_weight.size
    relative = np.exp(log_weight - log_weight.max())
    total = float(relative.sum())
    effective = total**2 / float(relative @ relative)
    residual = np.sort(np.abs(residual_of(table)))[::-1]
    path = table["residual_path"]
    # NaN where chi2 is not logged.
    square = residual**2 if np.isnan(path).any() else path
    squares = float(square.sum()) ** 2 / float(square @ square) if square.any() else float(n)
    top = residual[: max(1, n // 100)].sum() / residual.sum() if residual.any() else 0.0
    shape = pareto_shape(relative)
    return WeightDiagnostics(
        effective_sample_size=effective,
        effective_share=effective / n,
        largest_weight=float(np.exp(min(log_weight.max(), 700.0))),
        largest_share=1 / total,
        residual_top_share=float(top),
        pareto_shape=shape,
        square_sample_size=squares,
        heavy=effective / n < LOWEST_ESS_SHARE or shape > LARGEST_SHAPE,
    )


def weight_minus_one(table: SequenceTable) -> Floats:
    """``W - 1`` of every sequence, without cancellation; W saturates at e^100."""
    excess = np.expm1(np.minimum(table["log_weight"], LOG_WEIGHT_CAP))
    return np.asarray(excess, dtype=np.float64)


def residual_of(table: SequenceTable) -> Floats:
    """``W - 1 - M`` of every sequence; W saturates at e^100."""
    return np.asarray(weight_minus_one(table) - table["ratio_sum"], dtype=np.float64)


def pareto_shape(values: Floats) -> float:
    """Estimate the tail index of a positive sample.

    Parameters
    ----------
    values : ndarray
        Non-negative, finite.

    Returns
    -------
    float
        Shape k of the generalised Pareto distribution, fitted by maximum likelihood to what the
        largest ``min(n/5, 3 sqrt(n))`` values exceed the next one by, and pulled towards 1/2 with
        the weight of ten values. NaN where fewer than ten exceed it: with fewer than 50 values,
        and where many are equal.

    Notes
    -----
    An estimate: over samples of 200 (1000) values its root mean square error is 0.2 (0.15) at
    k = 1/2 and 0.3 (0.2) at k = 1, and for k above 1/2 it is too low on average. Size of the tail
    and pull: Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR
    25 (2024); they take the estimator of Zhang and Stephens (2009) instead of maximum likelihood.
    """
    # Slow to import, and not needed before there are weights.
    from scipy.stats import genpareto

    size = int(min(values.size / 5, 3 * math.sqrt(values.size)))
    ordered = np.sort(values)[-size - 1 :]
    tail = ordered[1:] - ordered[0]
    tail = tail[tail > 0]
    found = int(tail.size)
    if found < _SMALLEST_TAIL:
        return math.nan
    # An excess below 1e-100 of the largest says nothing more than that it is small.
    tail = np.maximum(tail / tail[-1], 1e-100)
    shape = float(genpareto.fit(tail, 0.5, floc=0, scale=np.median(tail))[0])
    # Below -1/2 maximum likelihood is not regular, and below -1 the likelihood has no maximum.
    return (found * max(shape, -0.5) + _PULL * 0.5) / (found + _PULL)
