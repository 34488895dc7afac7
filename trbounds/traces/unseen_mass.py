"""What rollouts cannot show: probability that the training policy gives to what they never draw.

With ``s(c)`` the mass that ``pi`` puts outside the support of ``mu`` at a context c (top-p, top-k
or min-p sampling, tokens that the sampler bans), ``E_mu[rho - 1 | c] = -s(c)``. So means over
sampled tokens fall short: those of ``k3 = rho - 1 - log rho`` by ``s(c)`` of the KL, those of
``|rho - 1| / 2`` by ``s(c) / 2`` of the TV. Without bias, whatever the supports, are

- ``k1 = -log rho`` for the KL. Its mean is that of k3 plus the estimated mass, and noisier.
- ``max(0, 1 - rho)`` for the TV, never negative and at most 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.weights import weight_minus_one

__all__ = ["sequence_tv", "sequence_tv_total", "unless_positive", "unseen_mass"]

Floats = NDArray[np.float64]


def unless_positive(values: Floats) -> Floats:
    """Return a column as it is, or zeros if its mean is positive, as its expectation cannot be.

    Parameters
    ----------
    values : ndarray
        One entry per sequence.

    Returns
    -------
    ndarray
        `values` if their mean is negative, zeros otherwise.
    """
    return values if math.fsum(values) < 0 else np.zeros_like(values)


def unseen_mass(table: SequenceTable) -> Floats:
    """Return a column whose mean estimates ``S = E_mu[sum_t s(c_t)]``.

    Parameters
    ----------
    table : SequenceTable
        With at least one sequence.

    Returns
    -------
    ndarray
        ``-M = sum_t (1 - rho_t)`` of every sequence; zeros if their mean is negative, as S cannot
        be. So the mean is at least S in expectation, and tends to S as the trace grows.
    """
    return np.asarray(-unless_positive(table["ratio_sum"]))


def sequence_tv(table: SequenceTable) -> Floats:
    """Return ``max(0, 1 - W)`` of every sequence: its mean is V, whatever the supports."""
    return np.maximum(-weight_minus_one(table), 0.0)


def sequence_tv_total(table: SequenceTable) -> Floats:
    """Return ``sum_t max(0, 1 - rho_t)``: its mean is ``sum_t Dbar_t``, whatever the supports."""
    # Rounding may leave a sum of zeros below 0.
    half: Floats = 0.5 * (table["abs_ratio_sum"] - table["ratio_sum"])
    return np.maximum(half, 0.0)
