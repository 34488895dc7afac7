"""What rollouts cannot show: probability that the training policy gives to what they never draw.

With ``s(c)`` the mass that ``pi`` puts outside the support of ``mu`` at a context c (top-p, top-k
or min-p sampling, tokens that the sampler bans), ``E_mu[rho - 1 | c] = -s(c)``. So means over
sampled tokens fall short: those of ``k3 = rho - 1 - log rho`` by ``s(c)`` of the KL, those of
``|rho - 1| / 2`` by ``s(c) / 2`` of the TV. Without bias, whatever the supports, are

- ``k1 = -log rho`` for the KL. Its mean is that of k3 plus the estimated mass, and noisier.
- ``max(0, 1 - rho)`` for the TV, never negative and at most 1.

Tokens that rollouts do draw, but too rarely to be in the sample, make standard errors too small.
Where chi2 is logged it shows them, since ``E_mu[(rho - 1)^2 | c] = chi2(c)``. And sequences that
are all the same show no spread at all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.jackknife import Blocks
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.weights import weight_minus_one

Floats = NDArray[np.float64]

_CHANCE = 2.0
"""Standard errors by which the sampled (rho - 1)^2 may fall short of chi2 by chance."""


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


def distinct_sequences(table: SequenceTable) -> int:
    """Count the sequences of a table that are no copies of the most frequent one, and that one.

    Sequences are told apart by the sum of their rollout log-probabilities, or by their weight if
    that counts more: rollouts that are uniform over the vocabulary, say, give all sequences of a
    length the same sum.
    """
    columns = (table[name] for name in ("rollout_logprob_sum", "log_weight"))
    most = min(int(np.unique(column, return_counts=True)[1].max()) for column in columns)
    return len(table) - most + 1


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


def ratio_sum_error(table: SequenceTable, blocks: Blocks) -> float:
    """Return the standard error of the mean over sequences of ``M = sum_t (rho_t - 1)``.

    Parameters
    ----------
    table : SequenceTable
        With at least one sequence.
    blocks : Blocks
        Its prompts.

    Returns
    -------
    float
        Of the larger of the errors by sequence and by prompt (NaN with one sequence), with two
        additions for tokens too rare to be in the sample. Where chi2 is logged, at least
        ``sqrt(E[sum chi2] / n)``: the terms of M being orthogonal, that is right under absolute
        continuity. Where the mean m of M is below 0, ``sqrt(-m/n)`` is added in squares: what is
        missing is taken for tokens that training makes twice as likely, of which so many are
        expected that their number has this deviation.
    """
    mean = blocks.mean(table["ratio_sum"])
    error = math.hypot(mean.error, math.sqrt(max(-mean.value, 0.0) / len(table)))
    # NaN where chi2 is not logged.
    known = math.sqrt(math.fsum(table["chi2_sum"])) / len(table)
    return known if known > error else error


def unsampled_error(table: SequenceTable, blocks: Blocks) -> float:
    """Return the standard error that tokens too rare to be in the sample add to means over it.

    Parameters
    ----------
    table : SequenceTable
        With at least one sequence.
    blocks : Blocks
        Its prompts.

    Returns
    -------
    float
        ``sqrt(S/n)`` with S the amount by which the mean of the sum of (rho - 1)^2 falls short of
        that of the logged chi2, less what chance explains; 0 without chi2. For sums of
        ``|rho - 1|``, ``log rho`` and k3, whose squares are at most (rho - 1)^2 for rho > 1.
    """
    sampled = blocks.mean(table["square_sum"])
    expected = math.fsum(table["chi2_sum"]) / len(table)
    missing = expected - sampled.value - _CHANCE * sampled.error
    return math.sqrt(missing / len(table)) if missing > 0 else 0.0
