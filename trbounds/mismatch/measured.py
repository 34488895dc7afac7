"""The mismatch in a logged trace: the logit error that explains it, and its bias by probability."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace, is_numpy
from trbounds.checks import as_number_arrays
from trbounds.clusters import ClusteredEstimate, ClusteredRatio, PooledRatio
from trbounds.errors import InputError
from trbounds.mismatch.law import MismatchCase
from trbounds.mismatch.logspace import half_log_odds_difference, log1mexp
from trbounds.traces.batch import TraceBatch
from trbounds.traces.extremes import Extreme
from trbounds.traces.histogram import Histogram
from trbounds.traces.sequence_table import NO_GROUP, group_numbers
from trbounds.traces.token_terms import k3_of

Floats = NDArray[np.float64]

_BLOCK_TOKENS = 65_536
_WORST = 20
# Bins of the log-odds log10(p/(1-p)): half decades from 1e-12 to 1e12.
_PER_DECADE = 2
_DECADES = 12
_N_BINS = 2 * _DECADES * _PER_DECADE


def smallest_logit_error(logp: Any, logq: Any) -> Any:
    """Smallest logit error that explains a token's two log-probabilities.

    The exact envelope solved for a: ``|logit(q) - logit(p)| / 2`` with
    ``logit(p) = log p - log(1-p)``. Any two logit vectors with these probabilities of the token
    differ by at least this much somewhere (as half the range of their difference).

    Parameters
    ----------
    logp, logq : array or float
        Natural log-probabilities of the same token under the two policies, at most 0, finite;
        their order does not matter.

    Returns
    -------
    float or array
        Relative error below 1e-14, subnormal arguments aside; infinity where exactly one of the two
        is 0, a certain token that the other policy holds uncertain.

    Raises
    ------
    InputError
        If a value is no real number, above 0 or not finite.

    Notes
    -----
    Source: trbounds' derivation of a claim of DVP (arXiv 2512.23087).

    Examples
    --------
    >>> import math
    >>> round(smallest_logit_error(math.log(0.5), math.log(0.75)), 12)
    0.549306144334
    """
    xp = array_namespace(logp, logq)
    arrays = as_number_arrays({"logp": logp, "logq": logq})
    for name, x in arrays.items():
        if bool(xp.any(~((x <= 0.0) & (x > -math.inf)))):
            raise InputError(
                "found a value above 0 or not finite, expected log-probabilities", field=name
            )
    value = half_log_odds_difference(xp, *xp.broadcast_arrays(*arrays.values()))
    return float(value) if value.ndim == 0 and is_numpy(xp) else value


@dataclass(frozen=True, kw_only=True)
class MismatchBin:
    """Tokens of one range of probability under the training policy.

    Parameters
    ----------
    p_low, p_high, rest_low, rest_high : float
        The range of p, and of 1 - p (each to full precision).
    tokens, sequences : int
        How many, and in how many sequences.
    abs_mismatch : ClusteredEstimate
        Mean of ``|log mu - log pi|``.
    abs_mismatch_max : float
        The largest one observed.
    logit_error_max : float
        The largest :func:`smallest_logit_error` observed.
    one_minus_p : float
        Mean of 1 - p, against which the mismatch is to be held.
    bias : ClusteredEstimate
        Mean of ``log mu - log pi`` over the sampled tokens.
        Standard errors are the larger of those by sequence and by prompt.
    predicted_low, predicted_high : float
        What the law ``selection_bias`` predicts with the noise variance of the summary. An
        interval because a trace does not tell ``sum_k p_k^2``; the two agree where it was given.
    """

    p_low: float
    p_high: float
    rest_low: float
    rest_high: float
    tokens: int
    sequences: int
    abs_mismatch: ClusteredEstimate
    abs_mismatch_max: float
    logit_error_max: float
    one_minus_p: float
    bias: ClusteredEstimate
    predicted_low: float
    predicted_high: float


class MismatchSummary:
    """The mismatch of sampled tokens, in one pass and bounded memory; summaries merge.

    In the laws' notation p is the training policy pi and q the rollout policy mu, which samples:
    the mismatch is ``log mu - log pi = -log rho``.

    Parameters
    ----------
    logit_error : float, optional
        A common logit error: tokens that need a larger one are counted.

    Attributes
    ----------
    n_tokens, n_sequences : int
        How many.
    certain_tokens : int
        Tokens with probability exactly 1 under one policy alone. No logit error explains them
        (rounding of the log-probabilities makes them), and the maxima and quantiles leave them out.
    exceeding_tokens : int
        Tokens that need more than ``logit_error``; the certain ones are not counted.
    histogram : Histogram
        Of the smallest logit error that explains each token.
    worst : list of Extreme
        The tokens that need most, up to 20, largest first.
    """

    def __init__(self, *, logit_error: float | None = None) -> None:
        if logit_error is not None:
            MismatchCase(logit_error=logit_error)
        self.logit_error = logit_error
        self.n_tokens = 0
        self.n_sequences = 0
        self.certain_tokens = 0
        self.exceeding_tokens = 0
        self.histogram = Histogram()
        self.worst: list[Extreme] = []
        self._abs, self._bias = ClusteredRatio(_N_BINS), ClusteredRatio(_N_BINS)
        self._noise = ClusteredRatio(1)
        # By prompt, for standard errors: of the two in each bin, and of the noise.
        self._prompts = PooledRatio(_N_BINS), PooledRatio(_N_BINS), PooledRatio(1)
        # Per bin: tokens, and sums of 1 - p and of the two ends of the predicted bias over s^2.
        self._tokens: NDArray[np.int64] = np.zeros(_N_BINS, dtype=np.int64)
        self._sums = np.zeros((3, _N_BINS))
        self._maxima = np.zeros((2, _N_BINS))

    def __repr__(self) -> str:
        """Return how much it holds, and the largest logit error."""
        return (
            f"MismatchSummary({self.n_sequences} sequences, {self.n_tokens} tokens, "
            f"logit error up to {self.logit_error_max:.4g})"
        )

    @classmethod
    def of(
        cls,
        batch: TraceBatch,
        *,
        logit_error: float | None = None,
        square_sums: Floats | None = None,
    ) -> MismatchSummary:
        """Summarise one validated batch.

        Parameters
        ----------
        batch : TraceBatch
            Checked by :func:`trbounds.traces.validate` (readers do).
        logit_error : float, optional
            A common logit error.
        square_sums : ndarray, shape (tokens,), optional
            ``sum_k pi_k^2`` at each token's context, where full logits tell it.

        Raises
        ------
        InputError
            If `square_sums` does not have one number in (0, 1] per token.
        """
        out = cls(logit_error=logit_error)
        squares = _checked_squares(square_sums, batch)
        counted = batch.counted().in_float64()
        start = 0
        for block in counted.slices(_BLOCK_TOKENS):
            stop = start + block.n_tokens
            out._add(block, None if squares is None else squares[start:stop])
            start = stop
        return out

    def _add(self, batch: TraceBatch, squares: Floats | None) -> None:
        logp, logq = batch.train_logprobs, batch.rollout_logprobs
        log_rest = log1mexp(np, logp)
        p, rest = np.exp(logp), -np.expm1(logp)
        needed = half_log_odds_difference(np, logp, logq)
        mismatch = logq - logp
        sequence = np.repeat(np.arange(batch.n_sequences), batch.lengths)
        bins = _bin_of(logp - log_rest)

        self.n_tokens += batch.n_tokens
        self.n_sequences += batch.n_sequences
        finite = np.isfinite(needed)
        self.certain_tokens += int(np.count_nonzero(~finite))
        if self.logit_error is not None:
            self.exceeding_tokens += int(np.count_nonzero(needed[finite] > self.logit_error))
        self.histogram.absorb(Histogram.of(needed[finite]))
        self._keep_worst(_largest(batch, np.where(finite, needed, -1.0)))

        ones = np.ones_like(mismatch)
        kl = k3_of(-mismatch, np.expm1(-mismatch)) if batch.kl is None else batch.kl
        # E kl = s^2 (1 - sum p_k^2)/2, and p of a sampled token has mean sum p_k^2.
        spread = rest if squares is None else 1.0 - squares
        prompt = _prompts(batch)[sequence]
        for by_sequence, by_prompt, where, above, below in zip(
            (self._abs, self._bias, self._noise),
            self._prompts,
            (bins, bins, np.zeros_like(bins)),
            (np.abs(mismatch), mismatch, 2.0 * kl),
            (ones, ones, spread),
            strict=True,
        ):
            by_sequence.add(sequence, where, above, below)
            by_prompt.add(prompt, where, above, below)
        low, high = _shape_of_bias(p, rest, squares)
        for row, values in enumerate((rest, low, high)):
            self._sums[row] += np.bincount(bins, weights=values, minlength=_N_BINS)
        self._tokens += np.bincount(bins, minlength=_N_BINS)
        for row, values in enumerate((np.abs(mismatch), np.where(finite, needed, 0.0))):
            np.maximum.at(self._maxima[row], bins, values)

    def _keep_worst(self, found: list[Extreme]) -> None:
        self.worst = heapq.nsmallest(
            _WORST, [*self.worst, *found], key=lambda x: (-x.value, *x[1:])
        )

    def merge(self, other: MismatchSummary) -> MismatchSummary:
        """Return the summary of both traces together; neither argument changes.

        Raises
        ------
        InputError
            If the two count against different logit errors.
        """
        if self.logit_error != other.logit_error:
            raise InputError(
                f"found {self.logit_error} and {other.logit_error}, expected one logit error in "
                "all parts",
                field="logit_error",
            )
        out = MismatchSummary(logit_error=self.logit_error)
        for part in (self, other):
            out.n_tokens += part.n_tokens
            out.n_sequences += part.n_sequences
            out.certain_tokens += part.certain_tokens
            out.exceeding_tokens += part.exceeding_tokens
            out.histogram.absorb(part.histogram)
            out._keep_worst(part.worst)
            out._abs.absorb(part._abs)
            out._bias.absorb(part._bias)
            out._noise.absorb(part._noise)
            for mine, theirs in zip(out._prompts, part._prompts, strict=True):
                mine.absorb(theirs)
            out._tokens = out._tokens + part._tokens
            out._sums = out._sums + part._sums
            out._maxima = np.maximum(out._maxima, part._maxima)
        return out

    @property
    def logit_error_max(self) -> float:
        """Smallest common logit error that explains every sampled token, certain ones apart.

        Observed: the error of tokens that were not sampled may be larger. 0 without tokens.
        """
        return self.worst[0].value if self.worst else 0.0

    def logit_error_quantile(self, q: float) -> float:
        """Quantile over tokens of the smallest logit error, to within 1/16 relative.

        Parameters
        ----------
        q : float
            Between 0 and 1.
        """
        return min(self.histogram.quantile(q), self.logit_error_max)

    @property
    def noise_variance(self) -> ClusteredEstimate:
        """Variance s^2 of independent logit errors that would make the observed KL.

        ``2 sum kl / sum (1 - sum_k p_k^2)``, with k3 for kl where it is not logged, and the
        probability of the sampled token for ``sum_k p_k^2`` where that was not given.
        """
        error = np.fmax(self._noise.standard_error, self._prompts[2].standard_error)
        return ClusteredEstimate(float(self._noise.value[0]), float(error[0]))

    def bins(self) -> list[MismatchBin]:
        """Statistics by probability under the training policy, from unlikely to likely.

        Bins are half decades of p/(1-p), so that both tails are resolved; the first and the last
        are open. Empty bins are left out.
        """
        odds = np.concatenate([[0.0], 10.0 ** (_edges()), [np.inf]])
        variance = self.noise_variance.value
        columns = self._abs.value, self._bias.value
        errors = [
            np.fmax(by_sequence.standard_error, by_prompt.standard_error)
            for by_sequence, by_prompt in zip((self._abs, self._bias), self._prompts, strict=False)
        ]
        return [
            MismatchBin(
                p_low=float(_probability(odds[i])),
                p_high=float(_probability(odds[i + 1])),
                rest_low=float(1.0 / (1.0 + odds[i + 1])),
                rest_high=float(1.0 / (1.0 + odds[i])),
                tokens=int(self._tokens[i]),
                sequences=int(self._bias.sequences[i]),
                abs_mismatch=ClusteredEstimate(float(columns[0][i]), float(errors[0][i])),
                abs_mismatch_max=float(self._maxima[0, i]),
                logit_error_max=float(self._maxima[1, i]),
                one_minus_p=float(self._sums[0, i] / self._tokens[i]),
                bias=ClusteredEstimate(float(columns[1][i]), float(errors[1][i])),
                predicted_low=float(variance * self._sums[1, i] / self._tokens[i]),
                predicted_high=float(variance * self._sums[2, i] / self._tokens[i]),
            )
            for i in np.flatnonzero(self._tokens)
        ]


def _checked_squares(squares: Floats | None, batch: TraceBatch) -> Floats | None:
    if squares is None:
        return None
    values = np.asarray(squares, dtype=np.float64)
    if values.shape != (batch.n_tokens,) or not bool(np.all((values > 0.0) & (values <= 1.0))):
        raise InputError(
            f"expected {batch.n_tokens} numbers in (0, 1], one per token", field="square_sums"
        )
    return values if batch.mask is None else values[batch.mask]


def _prompts(batch: TraceBatch) -> NDArray[np.int64]:
    """Number of each sequence's prompt; where none is logged, that of its record."""
    group = group_numbers(batch)
    return np.asarray(np.where(group == NO_GROUP, batch.record_numbers, group), dtype=np.int64)


def _edges() -> Floats:
    """Inner edges of the bins: log10 of the odds."""
    return np.arange(1 - _N_BINS // 2, _N_BINS // 2) / _PER_DECADE


def _bin_of(log_odds: Floats) -> NDArray[np.int64]:
    return np.digitize(log_odds / math.log(10.0), _edges()).astype(np.int64)


def _probability(odds: float) -> float:
    return 1.0 if odds == math.inf else odds / (1.0 + odds)


def _shape_of_bias(p: Floats, rest: Floats, squares: Floats | None) -> tuple[Floats, Floats]:
    """Ends of the predicted bias at s = 1: the squares of the others lie in [0, (1-p)^2]."""
    common = rest * (1.0 - 3.0 * p) / 2.0
    if squares is not None:
        exact = common + 1.5 * np.maximum(squares - p * p, 0.0)
        return exact, exact
    return common, common + 1.5 * rest * rest


def _largest(batch: TraceBatch, values: Floats) -> list[Extreme]:
    count = min(_WORST, values.size)
    if not count:
        return []
    # Every token at least as large as the count-th largest, so that ties go to the first place.
    threshold = np.partition(values, values.size - count)[values.size - count]
    tokens = np.flatnonzero((values >= threshold) & (values >= 0.0))
    tokens = tokens[np.argsort(-values[tokens], kind="stable")][:count]
    return [Extreme(float(values[i]), *batch.place(int(i))) for i in tokens]
