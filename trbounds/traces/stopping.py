"""The stopped path sum of chi2, on a grid of budgets.

For a budget x, tau is the first step at which the running sum of chi2 in a sequence exceeds x.
The stopped form of the path-sum bound needs P_pi(tau <= T) = E_mu[W_{tau-1} 1{tau <= T}] and
E_mu sum_{t >= tau} chi2(c_t).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trbounds.traces.compensated import CompensatedSum
from trbounds.traces.token_terms import TokenTerms, prefix_sum, shift_prefix_sum

Floats = NDArray[np.float64]

BUDGETS: Floats = np.logspace(-6, 2, 40)
"""The budgets x of the grid."""

_NAMES = ("weight", "weight_square", "tail", "tail_square")


class StoppedSums:
    """Sums over sequences, for each budget of :data:`BUDGETS`.

    ``crossed`` counts the sequences that exceed the budget. Means are over all sequences;
    standard errors take sequences as independent.
    """

    budgets = BUDGETS

    def __init__(self) -> None:
        self.n_sequences = 0
        self.crossed = np.zeros(BUDGETS.size, dtype=np.int64)
        self._sums = {name: CompensatedSum.zeros(BUDGETS.size) for name in _NAMES}

    @property
    def stop_prob(self) -> Floats:
        """Estimate of P_pi(tau <= T) at each budget: the mean of W_{tau-1} 1{tau <= T}."""
        return self._mean("weight")

    @property
    def stop_prob_standard_error(self) -> Floats:
        """Standard error of :attr:`stop_prob`."""
        return self._standard_error("weight")

    @property
    def stop_tail(self) -> Floats:
        """Estimate of E_mu sum_{t >= tau} chi2(c_t) at each budget."""
        return self._mean("tail")

    @property
    def stop_tail_standard_error(self) -> Floats:
        """Standard error of :attr:`stop_tail`."""
        return self._standard_error("tail")

    @property
    def sums(self) -> tuple[tuple[Floats, Floats], ...]:
        """The sums of weight, its square, tail and its square, to add to in place."""
        return tuple(total.pair() for total in self._sums.values())

    def add(self, terms: TokenTerms) -> None:
        """Add a block in place; nothing where chi2 is not logged."""
        chi2, offsets = terms.batch.chi2, terms.batch.offsets
        log_weight = terms.log_weight_before
        if chi2 is None or log_weight is None:
            return
        self.n_sequences += terms.batch.n_sequences
        spent = prefix_sum(chi2, offsets)
        before = shift_prefix_sum(spent, offsets)
        exceeded = np.searchsorted(BUDGETS, spent, side="left")
        rise = np.diff(exceeded, prepend=0)
        starts = offsets[:-1][offsets[1:] > offsets[:-1]]
        rise[starts] = exceeded[starts]
        # At each of these tokens one budget or several are exceeded for the first time.
        tokens = np.flatnonzero(rise > 0)
        repeats = rise[tokens]
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        budget = np.arange(int(repeats.sum())) - first
        budget += np.repeat(exceeded[tokens] - repeats, repeats)
        weight = np.repeat(np.exp(log_weight[tokens]), repeats)
        owners = np.searchsorted(offsets, tokens, side="right") - 1
        totals = terms.sum_by_sequence(chi2)
        tail = np.repeat(np.maximum(totals[owners] - before[tokens], 0.0), repeats)
        self.crossed = self.crossed + np.bincount(budget, minlength=BUDGETS.size)
        for name, values in (
            ("weight", weight),
            ("weight_square", weight * weight),
            ("tail", tail),
            ("tail_square", tail * tail),
        ):
            total = np.bincount(budget, weights=values, minlength=BUDGETS.size)
            self._sums[name].add(np.asarray(total, dtype=np.float64))

    def absorb(self, other: StoppedSums) -> None:
        """Add another in place."""
        self.n_sequences += other.n_sequences
        self.crossed = self.crossed + other.crossed
        for name, total in self._sums.items():
            total.absorb(other._sums[name])

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        out: dict[str, NDArray[np.generic]] = {
            "n_sequences": np.array([self.n_sequences]),
            "crossed": self.crossed,
        }
        for name, total in self._sums.items():
            out[name] = np.stack([total.high, total.low])
        return out

    @classmethod
    def from_state(cls, state: dict[str, NDArray[np.generic]]) -> StoppedSums:
        """Rebuild from :meth:`state`."""
        out = cls()
        out.n_sequences = int(state["n_sequences"][0])
        out.crossed = state["crossed"].astype(np.int64)
        for name in _NAMES:
            high, low = np.array(state[name], dtype=np.float64)
            out._sums[name] = CompensatedSum(high, low)
        return out

    def _mean(self, name: str) -> Floats:
        return self._sums[name].value / max(self.n_sequences, 1)

    def _standard_error(self, name: str) -> Floats:
        n = self.n_sequences
        if n < 2:
            return np.full(BUDGETS.size, np.nan)
        variance = self._mean(f"{name}_square") - self._mean(name) ** 2
        return np.sqrt(np.maximum(variance, 0.0) / (n - 1))
