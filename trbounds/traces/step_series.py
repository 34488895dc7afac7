"""What a trace says step by step of the training: how far apart the policies were, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trbounds.clusters import ClusteredRatio
from trbounds.traces.groups import dense_groups
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.trends import Bend, LevelChange, bend, largest_change, trend

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepSeries:
    """Series by training step; means over the sequences of a step, NaN where not logged.

    Standard errors are the larger of two, with sequences and with prompts taken as independent;
    NaN where a step has one sequence.

    Parameters
    ----------
    step : ndarray of int32
        In order; -1 for sequences without a step.
    n_sequences : ndarray of int64
        Sequences of the step.
    kl_seq, kl_seq_error : ndarray
        D: mean of the sequence sum of kl, in nats.
    k3_seq, k3_seq_error : ndarray
        The same from k3: without bias if the training policy gives no probability to tokens that
        are never sampled.
    ratio_mean, ratio_error : ndarray
        Mean of rho over the tokens of the step; 1 for a step without tokens.
    reward_mean, reward_error : ndarray
        Mean reward.
    length_mean : ndarray
        Mean number of tokens.
    effective_share : ndarray
        ``(sum W)^2 / (n sum W^2)``: effective sample over the number of sequences.
    log_ratio_max : ndarray
        Largest ``|log rho|`` of a sampled token, in nats (float32).
    """

    step: NDArray[np.int32]
    n_sequences: NDArray[np.int64]
    kl_seq: Floats
    kl_seq_error: Floats
    k3_seq: Floats
    k3_seq_error: Floats
    ratio_mean: Floats
    ratio_error: Floats
    reward_mean: Floats
    reward_error: Floats
    length_mean: Floats
    effective_share: Floats
    log_ratio_max: Floats

    @property
    def has_kl(self) -> bool:
        """Whether every sequence has its kl logged."""
        return not np.isnan(self.kl_seq).any()

    @property
    def sequence_kl(self) -> tuple[Floats, Floats]:
        """D of every step and its standard error: from the logged kl if there is one, or k3."""
        if self.has_kl:
            return self.kl_seq, self.kl_seq_error
        return self.k3_seq, self.k3_seq_error

    def bends(self) -> dict[str, Bend]:
        """Where D, on a logarithmic scale, and the reward begin, cease or turn to rise or fall.

        Returns
        -------
        dict of str to Bend
            ``kl_seq`` (its value in nats, its slopes of log D) and ``reward``, each where
            :func:`bend` finds one. Sequences without a step are left out.
        """
        return dict(self._bends)

    def changes(self) -> dict[str, LevelChange]:
        """Where D, on a logarithmic scale, and the reward go from one level to another.

        Returns
        -------
        dict of str to LevelChange
            ``kl_seq`` (levels: geometric means, in nats) and ``reward``, each where
            :func:`largest_change` finds one and :meth:`bends` none. Sequences without a step are
            left out.
        """
        found = {}
        for name, (step, values) in self._judged().items():
            change = None if name in self._bends else largest_change(step, values)
            if change is not None and name == "kl_seq":
                before, after = math.exp(change.before), math.exp(change.after)
                change = replace(change, before=before, after=after)
            if change is not None:
                found[name] = change
        return found

    def trends(self) -> dict[str, float]:
        """Slopes of D, on a logarithmic scale, and of the reward along a line, in standard errors.

        Returns
        -------
        dict of str to float
            ``kl_seq`` and ``reward``, each where :func:`trend` finds one, and neither
            :meth:`bends` nor :meth:`changes` finds anything: then the series moves, at no one step.
            Sequences without a step are left out.
        """
        explained = self._bends.keys() | self.changes().keys()
        slopes = {
            name: trend(step, values)
            for name, (step, values) in self._judged().items()
            if name not in explained
        }
        return {name: z for name, z in slopes.items() if z is not None}

    @cached_property
    def _bends(self) -> dict[str, Bend]:
        found = {}
        for name, (step, values) in self._judged().items():
            at = bend(step, values)
            if at is not None:
                value = math.exp(at.value) if name == "kl_seq" else at.value
                found[name] = replace(at, value=value)
        return found

    def _judged(self) -> dict[str, tuple[NDArray[np.int32], Floats]]:
        """Return what is looked at for changes: the reward, and log D where no step has D = 0."""
        known = self.step >= 0
        step, divergence = self.step[known], self.sequence_kl[0][known]
        judged = {"reward": (step, self.reward_mean[known])}
        if (divergence > 0).all():
            judged["kl_seq"] = (step, np.log(divergence))
        return judged


def step_series(table: SequenceTable) -> StepSeries:
    """Summarise a table by training step."""
    steps, which = np.unique(table["step"], return_inverse=True)
    groups, one = dense_groups(table), np.ones(len(table))

    def total(values: Floats) -> Floats:
        return np.bincount(which, values, minlength=steps.size).astype(np.float64)

    def ratio(numerator: Floats, denominator: Floats) -> tuple[Floats, Floats]:
        below = total(denominator)
        value = np.full(steps.size, np.nan)
        np.divide(total(numerator), below, out=value, where=below > 0)
        rest = numerator - value[which] * denominator  # so that no square cancels
        errors = []
        for unit in (np.arange(which.size), groups):
            sums = ClusteredRatio(steps.size)
            sums.add(unit, which, rest, denominator)
            errors.append(sums.standard_error)
        return value, np.fmax(*errors)

    def largest(values: Floats) -> Floats:
        out = np.full(steps.size, -np.inf)
        np.maximum.at(out, which, values)
        return out

    lengths = table["length"].astype(np.float64)
    count = np.bincount(which, minlength=steps.size)
    kl, kl_error = ratio(table["kl_sum"], one)
    k3, k3_error = ratio(table["k3_sum"], one)
    reward, reward_error = ratio(table["reward"], one)
    drift, drift_error = ratio(table["ratio_sum"], lengths)
    # Relative to the largest of the step, so that no weight overflows.
    weight = np.exp(table["log_weight"] - largest(table["log_weight"])[which])
    return StepSeries(
        step=steps,
        n_sequences=count,
        kl_seq=kl,
        kl_seq_error=kl_error,
        k3_seq=k3,
        k3_seq_error=k3_error,
        ratio_mean=1.0 + np.nan_to_num(drift),
        ratio_error=drift_error,
        reward_mean=reward,
        reward_error=reward_error,
        length_mean=total(lengths) / count,
        effective_share=total(weight) ** 2 / total(weight * weight) / count,
        log_ratio_max=np.sqrt(2.0 * largest(table["k2_max"].astype(np.float64))),
    )
