"""The mismatch of sampled tokens from rows of full logits, where nothing needs estimating."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trbounds.arrays import array_namespace, asarray_float64, device, to_numpy
from trbounds.divergences import divergences
from trbounds.divergences.rows import checked_logits, log_softmax
from trbounds.errors import InputError
from trbounds.mismatch.law import MismatchCase
from trbounds.mismatch.measured import MismatchSummary
from trbounds.traces.batch import TraceBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMismatch:
    """One sampled token per row of logits. In the laws p is the training policy, q the rollout.

    Attributes
    ----------
    logp, log1mp, logq, log1mq : array, shape (n,)
        Logarithms of the token's probability, and of its complement, under the training (p) and
        the rollout policy (q).
    rest_square : array, shape (n,)
        ``sum_{k != i} p_k^2``.
    logit_error : array, shape (n,)
        Half the range of the difference of the two rows of logits: the true logit error. inf where
        one policy alone excludes a token.
    error_variance : array, shape (n,)
        Variance of the difference of the logits, weighted by p. For independent errors of variance
        s^2 its mean is ``s^2 (1 - sum_k p_k^2)``.
    spread : array, shape (n,)
        ``1 - sum_k p_k^2``.
    """

    logp: Any
    log1mp: Any
    logq: Any
    log1mq: Any
    rest_square: Any
    logit_error: Any
    error_variance: Any
    spread: Any

    @property
    def noise_variance(self) -> float:
        """Variance s^2 of independent errors with the observed weighted variances.

        NaN where every row leaves one token no alternative.
        """
        xp = array_namespace(self.spread)
        spread = float(xp.sum(self.spread))
        return float(xp.sum(self.error_variance)) / spread if spread else math.nan

    def case(self, *, noise_sd: float | None = None) -> MismatchCase:
        """Return the tokens as the laws take them, each with the logit error of its row.

        Parameters
        ----------
        noise_sd : float, optional
            Standard deviation of independent logit errors, for the law ``selection_bias``.

        Returns
        -------
        MismatchCase
            One entry per token.

        Raises
        ------
        InputError
            If a logit error is infinite: no law speaks about a token that one policy excludes.
        """
        return MismatchCase(
            logit_error=self.logit_error,
            logp=self.logp,
            log1mp=self.log1mp,
            logq=self.logq,
            log1mq=self.log1mq,
            rest_square=self.rest_square,
            noise_sd=noise_sd,
        )


def token_mismatch(rollout_logits: Any, train_logits: Any, token_ids: Any) -> TokenMismatch:
    """Compute the mismatch of the sampled token of each row.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (n, V)
        Logits of both policies; -inf is probability 0.
    token_ids : array of int, shape (n,)
        The sampled tokens.

    Returns
    -------
    TokenMismatch
        Float64 arrays, on the namespace and device of the logits.

    Raises
    ------
    InputError
        If the shapes differ, a row is not one of logits, an id is out of range, or a policy gives
        the sampled token no probability.
    """
    xp = array_namespace(rollout_logits, train_logits)
    y = checked_logits(xp, rollout_logits, None, "rollout_logits")
    x = checked_logits(xp, train_logits, y, "train_logits")
    if x.ndim != 2 or x.shape != y.shape:
        raise InputError(
            f"found shape {tuple(x.shape)}, expected two dimensions and {tuple(y.shape)} as in "
            "'rollout_logits'",
            field="train_logits",
        )
    tokens = xp.arange(x.shape[-1], device=device(x))
    chosen = tokens == _checked_ids(xp, token_ids, x)[:, None]
    log_p, log_q = log_softmax(xp, x), log_softmax(xp, y)
    p = xp.exp(log_p)
    others = xp.where(chosen, xp.zeros_like(p), p)
    both = (x > -math.inf) & (y > -math.inf)
    alone = xp.any((x > -math.inf) != (y > -math.inf), axis=-1)
    error = xp.where(both, y, 0.0) - xp.where(both, x, 0.0)
    reach = xp.max(xp.where(both, error, -math.inf), axis=-1) - xp.min(
        xp.where(both, error, math.inf), axis=-1
    )
    centred = error - xp.sum(p * error, axis=-1, keepdims=True)
    return TokenMismatch(
        logp=_pick(xp, log_p, chosen, "train_logits"),
        log1mp=_log(xp, xp.sum(others, axis=-1)),
        logq=_pick(xp, log_q, chosen, "rollout_logits"),
        log1mq=_log(xp, xp.sum(xp.where(chosen, xp.zeros_like(p), xp.exp(log_q)), axis=-1)),
        rest_square=xp.sum(others * others, axis=-1),
        logit_error=xp.where(alone, xp.full_like(reach, math.inf), reach / 2.0),
        error_variance=xp.sum(p * centred * centred, axis=-1),
        spread=-xp.sum(p * xp.expm1(log_p), axis=-1),
    )


def summarize_rows(
    rollout_logits: Any,
    train_logits: Any,
    token_ids: Any,
    *,
    sequence: ArrayLike | None = None,
    logit_error: float | None = None,
) -> MismatchSummary:
    """Summarise rows of logits as a trace is summarised, with exact KL and ``sum_k p_k^2``.

    Parameters
    ----------
    rollout_logits, train_logits, token_ids : array
        As for :func:`token_mismatch`.
    sequence : array of int, shape (n,), optional
        The sequence of each row, for the standard errors; each row its own by default.
    logit_error : float, optional
        A common logit error: tokens that need a larger one are counted.

    Returns
    -------
    MismatchSummary
        In its places the record is the number of a sequence in increasing order of `sequence`, and
        the position counts the rows of that sequence.

    Raises
    ------
    InputError
        As :func:`token_mismatch`, or if `sequence` has another length.
    """
    tokens = token_mismatch(rollout_logits, train_logits, token_ids)
    n = tokens.logp.shape[0]
    rows = np.arange(n) if sequence is None else np.asarray(sequence)
    if rows.shape != (n,):
        raise InputError(f"found shape {rows.shape}, expected ({n},)", field="sequence")
    order = np.argsort(rows, kind="stable")
    _, counts = np.unique(rows, return_counts=True)
    kl = to_numpy(divergences(rollout_logits, train_logits).kl)
    batch = TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rollout_logprobs=to_numpy(tokens.logq)[order],
        train_logprobs=to_numpy(tokens.logp)[order],
        kl=kl[order],
    )
    squares = 1.0 - to_numpy(tokens.spread)[order]
    return MismatchSummary.of(batch, logit_error=logit_error, square_sums=squares)


def _checked_ids(xp: Any, token_ids: Any, logits: Any) -> Any:
    n, vocabulary = logits.shape
    ids = np.asarray(to_numpy(token_ids))
    if ids.shape != (n,) or ids.dtype.kind not in "iu":
        raise InputError(
            f"found shape {ids.shape} of {ids.dtype}, expected {n} whole numbers",
            field="token_ids",
        )
    bad = (ids < 0) | (ids >= vocabulary)
    if bad.any():
        record = int(bad.argmax())
        raise InputError(
            f"found {ids[record]}, expected 0 to {vocabulary - 1}", record=record, field="token_ids"
        )
    like = asarray_float64(ids, xp=xp, like=logits)
    return xp.astype(like, xp.int64)


def _pick(xp: Any, log_p: Any, chosen: Any, field: str) -> Any:
    value = xp.sum(xp.where(chosen, log_p, xp.zeros_like(log_p)), axis=-1)
    excluded = value == -math.inf
    if bool(xp.any(excluded)):
        record = int(to_numpy(excluded).argmax())
        raise InputError("the sampled token has probability 0", record=record, field=field)
    return value


def _log(xp: Any, value: Any) -> Any:
    positive = value > 0.0
    safe = xp.where(positive, value, xp.ones_like(value))
    return xp.where(
        positive, xp.minimum(xp.log(safe), xp.zeros_like(safe)), xp.full_like(value, -math.inf)
    )
