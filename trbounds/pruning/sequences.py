"""The bias that pruning causes over whole sequences, estimated from samples of either policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trbounds.checks import as_number_arrays, as_numpy
from trbounds.clusters import ClusteredEstimate
from trbounds.errors import InputError
from trbounds.pruning.law import PruningCase
from trbounds.pruning.laws import get_law
from trbounds.traces.batch import reduce_segments

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SequenceBias:
    """How far pruned sequences are from full ones, in total variation.

    The objective's bias is at most the TV times the width of the reward range.

    Parameters
    ----------
    sampled_from : {"full", "pruned"}
        The policy that the sequences come from.
    n_sequences, T : int
        How many sequences, and the longest.
    tv : ClusteredEstimate
        TV(P_pruned, P_full), unbiased: ``1 - E_pruned[prod Z]`` from pruned samples, and from full
        ones the probability that some token is pruned, with each token's chance in place of its
        outcome.
    union : ClusteredEstimate or None
        ``E_full[sum_t (1 - Z)]``, at least the TV; from full samples only.
    pruned_mass_max : float
        Largest ``1 - Z`` observed. Contexts that were not visited may have a larger one.
    horizon : float
        ``1 - (1 - pruned_mass_max)^T``: bounds the TV if no context has a larger pruned mass.
    """

    sampled_from: Literal["full", "pruned"]
    n_sequences: int
    T: int
    tv: ClusteredEstimate
    union: ClusteredEstimate | None
    pruned_mass_max: float
    horizon: float


def sequence_bias(
    pruned_mass: ArrayLike,
    offsets: ArrayLike,
    *,
    token_pruned: ArrayLike | None = None,
) -> SequenceBias:
    """Estimate the TV between pruned and full sequences.

    Parameters
    ----------
    pruned_mass : array, shape (tokens,)
        ``1 - Z(c_t)`` at each token's context, in [0, 1).
    offsets : array of int, shape (n + 1,)
        Sequence i owns the tokens ``offsets[i]:offsets[i + 1]``.
    token_pruned : array of bool, shape (tokens,), optional
        Whether the sampled token lies outside the safe set of its context. Give it for samples of
        the full policy; without it the sequences count as samples of the pruned one.

    Returns
    -------
    SequenceBias
        Estimates with their standard errors.

    Raises
    ------
    InputError
        If the lengths do not fit or a value is out of range.

    Notes
    -----
    Source: trbounds. With ``alive_t`` the event that no token before t was pruned,
    ``P_full(some token pruned) = E_full[sum_t alive_t (1 - Z(c_t))]``.

    Examples
    --------
    >>> from trbounds.pruning import sequence_bias
    >>> round(sequence_bias([0.1, 0.2, 0.3], [0, 1, 3]).tv.value, 12)
    0.27
    """
    mass = as_numpy("pruned_mass", as_number_arrays({"pruned_mass": pruned_mass})["pruned_mass"])
    cuts = _checked_offsets(offsets)
    _check_mass(mass, cuts)
    lengths = np.diff(cuts)
    T = max(int(lengths.max(initial=0)), 1)
    largest = float(mass.max(initial=0.0))
    horizon = get_law("horizon").evaluate(PruningCase(T=T, pruned_mass_max=largest))
    union = None
    if token_pruned is None:
        tv = ClusteredEstimate.mean(-np.expm1(reduce_segments(np.add, np.log1p(-mass), cuts)))
    else:
        outcome = as_numpy("token_pruned", token_pruned)
        if outcome.shape != mass.shape or outcome.dtype != np.bool_:
            raise InputError(
                f"found shape {outcome.shape} of {outcome.dtype}, expected {mass.shape} of bool",
                field="token_pruned",
            )
        alive = _pruned_before(outcome, cuts) == 0
        tv = ClusteredEstimate.mean(reduce_segments(np.add, np.where(alive, mass, 0.0), cuts))
        union = ClusteredEstimate.mean(reduce_segments(np.add, mass, cuts))
    return SequenceBias(
        sampled_from="pruned" if token_pruned is None else "full",
        n_sequences=lengths.size,
        T=T,
        tv=tv,
        union=union,
        pruned_mass_max=largest,
        horizon=horizon,
    )


def _checked_offsets(offsets: ArrayLike) -> NDArray[np.int64]:
    cuts = as_numpy("offsets", offsets)
    if cuts.ndim != 1 or cuts.size < 2 or cuts.dtype.kind not in "iu":
        raise InputError("expected at least two whole numbers", field="offsets")
    cuts = cuts.astype(np.int64)  # differences of unsigned numbers wrap
    if cuts[0] != 0 or bool((np.diff(cuts) < 0).any()):
        raise InputError("expected numbers that start at 0 and do not fall", field="offsets")
    return cuts


def _check_mass(mass: Floats, cuts: NDArray[np.int64]) -> None:
    if mass.shape != (cuts[-1],):
        raise InputError(
            f"found shape {mass.shape}, expected ({cuts[-1]},) as the offsets say",
            field="pruned_mass",
        )
    bad = ~((mass >= 0.0) & (mass < 1.0))
    if bad.any():
        token = int(bad.argmax())
        raise InputError(
            f"found {mass[token]:g} at token {token}, expected a number in [0, 1)",
            field="pruned_mass",
        )


def _pruned_before(outcome: NDArray[np.bool_], cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of pruned tokens of the same sequence before each token."""
    running = np.concatenate([[0], np.cumsum(outcome)])
    starts = np.repeat(running[cuts[:-1]], np.diff(cuts))
    return np.asarray(running[:-1] - starts)
