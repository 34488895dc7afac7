"""Bias bought against mismatch removed, over thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import device, to_numpy
from trbounds.checks import as_numpy
from trbounds.clusters import ClusteredEstimate, RunningMean
from trbounds.divergences import Divergences
from trbounds.errors import InputError, no_such
from trbounds.mismatch.rows import token_mismatch
from trbounds.pruning.law import PruningCase
from trbounds.pruning.laws import get_law
from trbounds.pruning.nested import NestedPair, Step, row_by_row_divergences
from trbounds.pruning.pair import SafeSets
from trbounds.pruning.sets import checked_min_p

if TYPE_CHECKING:
    from trbounds.logits import LogitsFile

#: Values of min-p to try where none is given: three a decade.
SWEEP_THRESHOLDS = (
    *(float(f"{m}e-{k}") for k in range(6, 1, -1) for m in (1, 2, 5)),
    0.1,
    0.2,
    0.3,
)

_REMOVABLE = ("kl", "tv", "chi2", "abs_mismatch")
Floats = NDArray[np.float64]

# First row, logits of both policies, sampled tokens.
_Block = tuple[int, Any, Any, Any]

# Logits per block of rows: some twenty float64 temporaries of this size are alive at once.
_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class PruningTrade:
    """Two policies over rows of logits, at one threshold or without pruning.

    Parameters
    ----------
    kl, tv, chi2 : ClusteredEstimate
        Means over rows of KL(rollout‖train) in nats, TV and χ²(train‖rollout); infinite if one
        row's is.
    abs_mismatch : ClusteredEstimate or None
        Mean ``|log train - log rollout|`` of the sampled tokens that stay; None without token ids,
        NaN where none stays.
    abs_mismatch_max : float or None
        The largest one; NaN where none stays.
    """

    kl: ClusteredEstimate
    tv: ClusteredEstimate
    chi2: ClusteredEstimate
    abs_mismatch: ClusteredEstimate | None
    abs_mismatch_max: float | None


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """What one threshold buys and costs. The standard errors take rows as independent.

    Parameters
    ----------
    min_p : float
        The threshold.
    sets : {"rollout", "own"}
        Whose safe sets were used.
    n_rows : int
        Number of contexts.
    n_kept : float
        Mean number of tokens that the rollout policy keeps.
    pruned_mass : ClusteredEstimate
        Mean ``1 - Z`` of the rollout policy: the bias per token.
    pruned_mass_max : float
        The largest one observed.
    train_pruned_mass : ClusteredEstimate
        Mean mass that the training policy loses.
    pruned_mass_limit : float
        The largest that this vocabulary and threshold allow.
    sequence_union : float or None
        ``T`` times the mean pruned mass: at least the TV of whole sequences, if the rows are
        contexts of full rollouts taken evenly from all T positions. None without T.
    sequence_horizon : float or None
        ``1 - (1 - pruned_mass_max)^T``; None without T.
    sampled_pruned : float or None
        Share of sampled tokens that fall outside the safe set; None without token ids.
    not_absolutely_continuous : float
        Share of rows in which the pruned training policy leaves the pruned rollout policy's
        support, so that no bound on Error applies.
    before, after : PruningTrade
        The mismatch without pruning and with it.
    """

    min_p: float
    sets: SafeSets
    n_rows: int
    n_kept: float
    pruned_mass: ClusteredEstimate
    pruned_mass_max: float
    train_pruned_mass: ClusteredEstimate
    pruned_mass_limit: float
    sequence_union: float | None
    sequence_horizon: float | None
    sampled_pruned: float | None
    not_absolutely_continuous: float
    before: PruningTrade
    after: PruningTrade

    def removed(self, name: str) -> float:
        """Share of a mean that pruning removes; negative where it adds.

        NaN where the mean is infinite without and with pruning, or no sampled token stays.

        Parameters
        ----------
        name : str
            ``"kl"``, ``"tv"``, ``"chi2"`` or ``"abs_mismatch"``.

        Returns
        -------
        float
            1 less the quotient of the means with and without pruning; 0 where both are 0.

        Raises
        ------
        InputError
            If there is no such mean, or the mismatch is asked for without token ids.
        """
        if name not in _REMOVABLE:
            raise no_such("mean", name, _REMOVABLE)
        first, last = getattr(self.before, name), getattr(self.after, name)
        if first is None:
            raise InputError("the mismatch of sampled tokens needs token ids", field=name)
        return float(1.0 - last.value / first.value) if first.value else 0.0


def sweep(
    rollout_logits: Any,
    train_logits: Any,
    thresholds: Iterable[float],
    *,
    token_ids: Any = None,
    T: int | None = None,
    sets: SafeSets = "rollout",
) -> list[SweepRow]:
    """Prune two policies at several thresholds: the bias of each, and the mismatch it removes.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (n, V)
        Logits of both policies; memory-mapped arrays are read in blocks of rows.
    thresholds : iterable of float
        Values of min-p in (0, 1].
    token_ids : array of int, shape (n,), optional
        The sampled tokens.
    T : int, optional
        Horizon over which to carry the bias per token.
    sets : {"rollout", "own"}
        Whose safe sets prune the two policies.

    Returns
    -------
    list of SweepRow
        In the order of the thresholds.

    Raises
    ------
    InputError
        As :func:`~trbounds.pruning.prune_pair` and
        :func:`~trbounds.mismatch.token_mismatch`; also without thresholds or rows.
    """
    levels = _checked_levels(thresholds)
    rollout_logits = _as_array("rollout_logits", rollout_logits)
    train_logits = _as_array("train_logits", train_logits)
    if len(rollout_logits.shape) != 2 or rollout_logits.shape[0] == 0:
        raise InputError(
            f"found shape {tuple(rollout_logits.shape)}, expected (n, vocabulary), n at least 1",
            field="rollout_logits",
        )
    if tuple(train_logits.shape) != tuple(rollout_logits.shape):
        raise InputError(
            f"found shape {tuple(train_logits.shape)}, expected {tuple(rollout_logits.shape)} as "
            "in 'rollout_logits'",
            field="train_logits",
        )
    if token_ids is not None:
        token_ids = as_numpy("token_ids", token_ids)
        if token_ids.shape != (rollout_logits.shape[0],):
            raise InputError(
                f"found shape {token_ids.shape}, expected ({rollout_logits.shape[0]},)",
                field="token_ids",
            )
    blocks = (
        (
            part.start,
            rollout_logits[part, :],
            train_logits[part, :],
            None if token_ids is None else token_ids[part],
        )
        for part in _parts(*rollout_logits.shape)
    )
    return _sweep(blocks, levels, int(rollout_logits.shape[1]), T, sets)


def sweep_file(
    file: LogitsFile,
    thresholds: Iterable[float],
    *,
    T: int | None = None,
    sets: SafeSets = "rollout",
    on_progress: Callable[[int], None] | None = None,
) -> list[SweepRow]:
    """Sweep over a logits file, block by block: memory does not grow with the file.

    Parameters
    ----------
    file : LogitsFile
        Full logits; its ``token_ids``, where present, are the sampled tokens.
    thresholds, T, sets
        As for :func:`sweep`.
    on_progress : callable, optional
        Receives the number of rows done, after every block.

    Returns
    -------
    list of SweepRow
        In the order of the thresholds.

    Raises
    ------
    InputError
        As :func:`sweep`, with the file and the row; also if the file holds top-k logs.
    """
    levels = _checked_levels(thresholds)
    if file.vocabulary is None:
        raise InputError("holds top-k log-probabilities, expected full logits", file=file.path)
    if not file.n:
        raise InputError("holds no rows, expected at least one", file=file.path)

    def blocks() -> Iterator[_Block]:
        for batch in file.batches(rows=max(1, _BLOCK // (file.vocabulary or 1))):
            first, x, y = batch.first_row, batch.rollout_logits, batch.train_logits
            rows = slice(first, first + x.shape[0])
            yield (
                first,
                x.astype(np.float64),
                y.astype(np.float64),
                None if file.token_ids is None else file.token_ids[rows],
            )
            if on_progress is not None:
                on_progress(rows.stop)

    try:
        return _sweep(blocks(), levels, file.vocabulary, T, sets)
    except InputError as error:
        raise InputError(
            error.problem, file=file.path, record=error.record, field=error.field
        ) from None


def _as_array(name: str, logits: Any) -> Any:
    """Return what is no array, such as a list, as one; arrays as they are."""
    return as_numpy(name, logits) if device(logits) is None else logits


def _checked_levels(thresholds: Iterable[float]) -> list[float]:
    levels = [checked_min_p(value) for value in thresholds]
    if not levels:
        raise InputError("expected at least one threshold", field="thresholds")
    return levels


def _sweep(
    blocks: Iterable[_Block], levels: list[float], vocabulary: int, T: int | None, sets: SafeSets
) -> list[SweepRow]:
    before = _Means()
    after = [_Means() for _ in levels]
    for first, x, y, ids in blocks:
        try:
            columns, log_ratio = _before(x, y, ids)
            before.add(columns)
            pair = NestedPair(x, y, ids, sets)
            for index in np.argsort(levels):
                after[index].add(_after(pair.prune(levels[index]), log_ratio))
        except InputError as error:
            raise _in_row(error, first) from None
    return [
        _row(level, sets, vocabulary, T, before, means)
        for level, means in zip(levels, after, strict=True)
    ]


class _Means(dict[str, RunningMean]):
    """Means over rows by name, block by block: nothing grows with the number of rows."""

    def add(self, columns: dict[str, Floats]) -> None:
        """Add the rows of a block."""
        for name, values in columns.items():
            self.setdefault(name, RunningMean()).add(values)


def _in_row(error: InputError, first: int) -> InputError:
    record = None if error.record is None else first + error.record
    return InputError(error.problem, record=record, field=error.field)


def _parts(n: int, vocabulary: int) -> Iterator[slice]:
    rows = max(1, _BLOCK // vocabulary)
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _host(columns: dict[str, Any]) -> dict[str, Floats]:
    return {name: to_numpy(values).astype(np.float64) for name, values in columns.items()}


def _divergence_columns(found: Divergences) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("kl", "tv", "chi2")}


def _before(x: Any, y: Any, ids: Any) -> tuple[dict[str, Floats], Floats | None]:
    """Divergences of full rows; with token ids the log-ratio of each sampled token."""
    found = _host(_divergence_columns(row_by_row_divergences(x, y)))
    if ids is None:
        return found, None
    tokens = token_mismatch(x, y, ids)
    log_ratio = to_numpy(tokens.logp) - to_numpy(tokens.logq)
    return {**found, "abs_mismatch": np.abs(log_ratio)}, log_ratio


def _after(step: Step, log_ratio: Floats | None) -> dict[str, Floats]:
    """The same of pruned rows, and what was pruned."""
    found = _host(
        {
            "n_kept": step.rollout.n_kept,
            "pruned_mass": step.rollout.pruned_mass,
            "train_pruned_mass": step.train.pruned_mass,
            "absolutely_continuous": step.absolutely_continuous,
            **_divergence_columns(step.after),
        }
    )
    if log_ratio is None:
        return found
    kept = to_numpy(step.sampled_kept)
    shift = to_numpy(step.rollout.log_kept) - to_numpy(step.train.log_kept)
    return {
        **found,
        "sampled_kept": kept.astype(np.float64),
        "abs_mismatch": np.abs(log_ratio + shift)[kept],
    }


def _row(
    min_p: float, sets: SafeSets, vocabulary: int, T: int | None, before: _Means, after: _Means
) -> SweepRow:
    mass, largest = after["pruned_mass"].estimate, after["pruned_mass"].largest
    limit = get_law("vocabulary").evaluate(PruningCase(vocabulary=vocabulary, min_p=min_p))
    horizon = None
    if T is not None:
        horizon = get_law("horizon").evaluate(PruningCase(T=T, pruned_mass_max=largest))
    kept = after.get("sampled_kept")
    return SweepRow(
        min_p=min_p,
        sets=sets,
        n_rows=after["pruned_mass"].n,
        n_kept=after["n_kept"].estimate.value,
        pruned_mass=mass,
        pruned_mass_max=largest,
        train_pruned_mass=after["train_pruned_mass"].estimate,
        pruned_mass_limit=limit,
        sequence_union=None if T is None else T * mass.value,
        sequence_horizon=horizon,
        sampled_pruned=None if kept is None else 1.0 - kept.estimate.value,
        not_absolutely_continuous=1.0 - after["absolutely_continuous"].estimate.value,
        before=_trade(before),
        after=_trade(after),
    )


def _trade(means: _Means) -> PruningTrade:
    mismatch = means.get("abs_mismatch")
    return PruningTrade(
        kl=means["kl"].estimate,
        tv=means["tv"].estimate,
        chi2=means["chi2"].estimate,
        abs_mismatch=None if mismatch is None else mismatch.estimate,
        abs_mismatch_max=None if mismatch is None else mismatch.largest,
    )
