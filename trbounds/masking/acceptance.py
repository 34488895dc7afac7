"""How often a rule accepts: overall, and among sequences of a length, a reward or a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from trbounds.concentration import BoundedMean, empirical_bernstein
from trbounds.traces.groups import number_groups
from trbounds.traces.jackknife import Blocks, Estimate

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_LENGTH_BINS = 10
_VALUE_BINS = 5
_DISTINCT = 10


@dataclass(frozen=True)
class Acceptance:
    """The share of sequences that a rule accepts: of which it masks no token.

    Parameters
    ----------
    share : Estimate
        With standard errors by sequence and by prompt.
    limits : BoundedMean
        Limits that hold at any sample size, prompts taken as independent (95 % each).
    """

    share: Estimate
    limits: BoundedMean

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self.share.to_dict(), "limits": self.limits.to_dict()}


@dataclass(frozen=True)
class Bin:
    """Acceptance among some of the sequences.

    Standard errors take the ends of the bin as given, though they may be quantiles of the same
    sample, and are 0 where all are accepted or none: of few sequences that says little.

    Parameters
    ----------
    lowest, highest : float
        Smallest and largest value among them: tokens, reward or step.
    n_sequences : int
        How many they are.
    share : Estimate
        Share accepted: of a rule on tokens, those of which no token is masked.
    kept : Estimate
        Share of their tokens that is kept; NaN where they have none.
    expected : float or None
        By length: the share if every token were refused independently with one probability.
    """

    lowest: float
    highest: float
    n_sequences: int
    share: Estimate
    kept: Estimate
    expected: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "share": self.share.to_dict(), "kept": self.kept.to_dict()}


def accept_share(accept: Flags, groups: NDArray[np.int64]) -> Acceptance:
    """Estimate the share accepted, clustered by prompt.

    Parameters
    ----------
    accept : ndarray of bool
        One entry per sequence, at least one.
    groups : ndarray of int64
        Prompt of each.
    """
    values = accept.astype(np.float64)
    return Acceptance(Blocks(groups).mean(values), empirical_bernstein(values, groups=groups))


def kept_share(
    kept: NDArray[np.int64], lengths: NDArray[np.int32], groups: NDArray[np.int64]
) -> Estimate:
    """Estimate the share of tokens kept, clustered by prompt.

    Parameters
    ----------
    kept, lengths : ndarray of int
        Tokens kept, and tokens, of each sequence.
    groups : ndarray of int64
        Prompt of each.

    Returns
    -------
    Estimate
        A ratio of two means; its standard errors are those of its first-order expansion. NaN
        without tokens.
    """
    tokens = int(lengths.sum(dtype=np.int64))
    if not tokens:
        return Estimate(math.nan, math.nan, math.nan)
    share = int(kept.sum()) / tokens
    spread = Blocks(groups).mean((kept - share * lengths) * (lengths.size / tokens))
    return Estimate(share, spread.standard_error, spread.jackknife_error)


def token_exclusion(accept: Flags, lengths: NDArray[np.int32]) -> float:
    """Probability p that one token has its sequence refused, were tokens independent.

    Parameters
    ----------
    accept : ndarray of bool
        What a rule accepts.
    lengths : ndarray of int
        Tokens of each sequence.

    Returns
    -------
    float
        The p with ``mean (1-p)^T = share accepted``, T over all lengths; 0 where all are
        accepted, 1 where not more than those without tokens are.

    Notes
    -----
    For a rule on the largest token divergence this is what makes acceptance fall with length;
    the shares by length that it predicts show whether the rule does better or worse than that.
    """
    share = float(accept.mean())
    if share >= 1:
        return 0.0
    if share <= float((lengths == 0).mean()):
        return 1.0
    tokens = lengths.astype(np.float64)

    def excess(log_keep: float) -> float:
        return float(np.exp(tokens * log_keep).mean()) - share

    # (1-p)^T <= e^(-800 T) is 0 for every T >= 1.
    return -math.expm1(brentq(excess, -800.0, 0.0, xtol=1e-15, rtol=1e-14))


def by_length(
    accept: Flags,
    lengths: NDArray[np.int32],
    groups: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[Bin, ...]:
    """Acceptance by tenths of the lengths, against ``(1-p)^T`` (:func:`token_exclusion`).

    Parameters
    ----------
    accept, lengths, groups, kept : ndarray
        One entry per sequence; `kept` counts its tokens that are kept.

    Returns
    -------
    tuple of Bin
        From short to long; fewer than ten where lengths repeat.
    """
    p = token_exclusion(accept, lengths)
    expected = np.power(1 - p, lengths.astype(np.float64))
    which = _quantile_bins(lengths, _LENGTH_BINS)
    return _bins(lengths, which, accept, lengths, groups, kept, expected)


def by_value(
    values: NDArray[Any],
    accept: Flags,
    lengths: NDArray[np.int32],
    groups: NDArray[np.int64],
    kept: NDArray[np.int64],
    *,
    each: bool = False,
) -> tuple[Bin, ...]:
    """Acceptance by a value: each one where there are at most ten, else by fifths.

    Parameters
    ----------
    values : ndarray
        The value, one entry per sequence.
    accept, lengths, groups, kept : ndarray
        As for :func:`by_length`.
    each : bool
        Each value, however many there are.

    Returns
    -------
    tuple of Bin
        From low to high.
    """
    distinct, which = np.unique(values, return_inverse=True)
    if distinct.size > _DISTINCT and not each:
        which = _quantile_bins(values, _VALUE_BINS)
    return _bins(values, which, accept, lengths, groups, kept)


def _quantile_bins(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    edges = np.quantile(values, np.arange(1, count) / count, method="inverted_cdf")
    return np.searchsorted(np.unique(edges), values, side="left").astype(np.int64)


def _bins(
    values: NDArray[Any],
    which: NDArray[np.int64],
    accept: Flags,
    lengths: NDArray[np.int32],
    groups: NDArray[np.int64],
    kept: NDArray[np.int64],
    expected: Floats | None = None,
) -> tuple[Bin, ...]:
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order])) + 1
    out = []
    for rows in _split(order, starts):
        prompts = number_groups(groups[rows])
        out.append(
            Bin(
                float(values[rows].min()),
                float(values[rows].max()),
                int(rows.size),
                Blocks(prompts).mean(accept[rows].astype(np.float64)),
                kept_share(kept[rows], lengths[rows], prompts),
                None if expected is None else float(expected[rows].mean()),
            )
        )
    return tuple(out)


def _split(order: NDArray[np.int64], starts: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    return [rows for rows in np.split(order, starts) if rows.size]
