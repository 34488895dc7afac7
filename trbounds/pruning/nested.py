"""Rows of two policies pruned at rising thresholds: each looks at what the last one left.

Safe sets shrink as the threshold rises, so a token that is pruned once need not be read again. Its
weight is added to those outside: pruned mass stays a sum of removed probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trbounds.arrays import array_namespace, asarray_float64, is_numpy
from trbounds.divergences import Divergences, divergences
from trbounds.divergences.rows import checked_logits
from trbounds.pruning.pair import SafeSets, checked_sets, keeps_support
from trbounds.pruning.sets import Columns, Pruned


def row_by_row_divergences(x: Any, y: Any) -> Divergences:
    """Compare rows of checked float64 logits by the fastest way for where they are."""
    if is_numpy(array_namespace(x)):
        from trbounds.logits import row_divergences

        return row_divergences(x, y, device="cpu", threads=1)
    return divergences(x, y)


@dataclass(frozen=True)
class Step:
    """Two policies pruned at one threshold.

    Attributes
    ----------
    rollout, train : Pruned
        Over the tokens that were left before this threshold.
    sampled_kept : array of bool or None
        Whether each row's sampled token stays under both policies; None without token ids.
    absolutely_continuous : array of bool
        Whether the training policy keeps to the rollout policy's tokens.
    after : Divergences
        Of the pruned policies.
    """

    rollout: Pruned
    train: Pruned
    sampled_kept: Any
    absolutely_continuous: Any
    after: Divergences


class NestedPair:
    """Two policies over the same rows, to be pruned at rising thresholds.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (n, V)
        Logits of both policies; -inf is probability 0.
    token_ids : array of int, shape (n,), optional
        The sampled tokens, in the vocabulary.
    sets : {"rollout", "own"}
        Whose safe sets prune the two policies.

    Raises
    ------
    InputError
        If a row is not one of logits, or `sets` is neither.
    """

    def __init__(
        self, rollout_logits: Any, train_logits: Any, token_ids: Any, sets: SafeSets
    ) -> None:
        xp = array_namespace(rollout_logits, train_logits)
        x = checked_logits(xp, rollout_logits, None, "rollout_logits")
        y = checked_logits(xp, train_logits, x, "train_logits")
        self._xp: ModuleType = xp
        self._sets = checked_sets(sets)
        self._rollout, self._train = Columns.of(xp, x), Columns.of(xp, y)
        self._sampled = None
        if token_ids is not None:
            ids = xp.astype(asarray_float64(token_ids, xp=xp, like=x), xp.int64)[:, None]
            self._sampled = [
                xp.take_along_axis(columns.x, ids, axis=-1) - columns.peak
                for columns in (self._rollout, self._train)
            ]
        self._last: tuple[int, Step] | None = None

    def prune(self, min_p: float) -> Step:
        """Prune at a threshold that is at least the last one.

        Raises
        ------
        InputError
            If the training policy gives a safe set of the rollout policy no probability.
        """
        xp, level = self._xp, math.log(min_p)
        kept = self._rollout.x - self._rollout.peak >= level
        theirs = kept if self._sets == "rollout" else self._train.x - self._train.peak >= level
        count = sum(int(xp.count_nonzero(mask)) for mask in (kept, theirs))
        # Sets are nested: where as many tokens stay, they are the same ones.
        if self._last is None or self._last[0] != count:
            self._last = count, self._step(level, kept, theirs)
        return self._last[1]

    def _step(self, level: float, kept: Any, theirs: Any) -> Step:
        rollout = self._rollout.restrict(kept, "rollout_logits")
        train = self._train.restrict(theirs, "train_logits")
        return Step(
            rollout=rollout,
            train=train,
            sampled_kept=self._sampled_kept(level),
            absolutely_continuous=keeps_support(rollout, train),
            after=self._compare(rollout, train),
        )

    def _sampled_kept(self, level: float) -> Any:
        if self._sampled is None:
            return None
        rollout, train = (excess[:, 0] >= level for excess in self._sampled)
        return rollout if self._sets == "rollout" else rollout & train

    def _compare(self, rollout: Pruned, train: Pruned) -> Divergences:
        """Compare the pruned rows, and leave out from now on what no row keeps."""
        xp = self._xp
        staying = xp.any(rollout.kept | train.kept, axis=0)
        x, y = rollout.logits, train.logits
        if not bool(xp.all(staying)):
            self._rollout, self._train = self._rollout.take(staying), self._train.take(staying)
            (indices,) = xp.nonzero(staying)
            x, y = (xp.take(logits, indices, axis=-1) for logits in (x, y))
        return row_by_row_divergences(x, y)
