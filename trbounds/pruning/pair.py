"""What pruning does to two policies: their divergences, absolute continuity, kept tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trbounds.arrays import array_namespace
from trbounds.divergences import Divergences, divergences
from trbounds.errors import InputError
from trbounds.pruning.sets import Pruned, restrict, safe_set

#: Whose safe sets prune the two policies: both by the rollout policy's, or each by its own.
SafeSets = Literal["rollout", "own"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedPair:
    """Two policies, pruned. One entry per row.

    Attributes
    ----------
    sets : {"rollout", "own"}
        Whose safe sets were used.
    rollout, train : Pruned
        The two pruned policies.
    before, after : Divergences
        Of the full and of the pruned policies: ``kl`` is KL(rollout‖train), ``chi2`` is
        χ²(train‖rollout). After pruning, a divergence may be larger than before.
    absolutely_continuous : array of bool
        Whether the pruned training policy keeps to tokens that the pruned rollout policy can
        produce. No bound on Error applies where it does not. True for ``sets="rollout"``.
    """

    sets: SafeSets
    rollout: Pruned
    train: Pruned
    before: Divergences
    after: Divergences
    absolutely_continuous: Any


def prune_pair(
    rollout_logits: Any, train_logits: Any, min_p: float, *, sets: SafeSets = "rollout"
) -> PrunedPair:
    """Prune two policies and compare them before and after.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (n, V)
        Logits of both policies; -inf is probability 0.
    min_p : float
        Threshold in (0, 1].
    sets : {"rollout", "own"}
        Prune both policies to the rollout policy's safe sets, or each to its own. Their own sets
        may differ, and then absolute continuity is lost.

    Returns
    -------
    PrunedPair
        Float64 arrays, on the namespace and device of the logits.

    Raises
    ------
    InputError
        If the shapes differ, a row is not one of logits, `min_p` is outside (0, 1], or the
        training policy gives a safe set of the rollout policy no probability.

    Examples
    --------
    >>> import numpy as np
    >>> from trbounds.pruning import prune_pair
    >>> pair = prune_pair(np.log([[0.5, 0.49, 0.01]]), np.log([[0.5, 0.4, 0.1]]), 0.1)
    >>> pair.before.kl.round(6).tolist(), pair.after.kl.round(6).tolist()
    ([0.076415], [0.005135])
    """
    before = divergences(rollout_logits, train_logits)
    rollout, train = _prune_both(rollout_logits, train_logits, min_p, sets)
    return PrunedPair(
        sets=sets,
        rollout=rollout,
        train=train,
        before=before,
        after=divergences(rollout.logits, train.logits),
        absolutely_continuous=keeps_support(rollout, train),
    )


def checked_sets(sets: SafeSets) -> SafeSets:
    """Return whose safe sets to use, or raise `InputError` if it is neither policy's."""
    if sets not in ("rollout", "own"):
        raise InputError(f"found {sets!r}, expected 'rollout' or 'own'", field="sets")
    return sets


def _prune_both(
    rollout_logits: Any, train_logits: Any, min_p: float, sets: SafeSets
) -> tuple[Pruned, Pruned]:
    """Prune two policies to the rollout policy's safe sets, or each to its own."""
    checked_sets(sets)
    kept = safe_set(rollout_logits, min_p)
    theirs = kept if sets == "rollout" else safe_set(train_logits, min_p)
    rollout = restrict(rollout_logits, kept, field="rollout_logits")
    return rollout, restrict(train_logits, theirs, field="train_logits")


def keeps_support(rollout: Pruned, train: Pruned) -> Any:
    """Tell for each row whether the training policy keeps to the rollout policy's tokens."""
    xp = array_namespace(rollout.logits)
    return ~xp.any(train.kept & ~rollout.kept, axis=-1)
