"""Divergences of rows of a large vocabulary with numpy alone, chunk by chunk.

Each row is read twice: the log-normalisers must be known before |pi - mu| can be summed, and no
algebra recovers the sum of absolute values afterwards. The first pass is an online softmax of both
rows; the second takes mu, log rho and rho - 1 of each chunk into small buffers and adds up every
divergence. Where the policies are so close that rounding of the normalisers (about 1e-15) shows in
the total variation, a third pass corrects it; see `trbounds.divergences.exact` for the formulas.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dasum, sasum

from trbounds.arrays import array_namespace
from trbounds.divergences.exact import Normaliser, ratio_at, sum_divergences
from trbounds.errors import InputError

__all__ = ["COLUMNS", "CORRECT_BELOW", "LOG_RATIO_LIMIT", "NumpyKernel"]

# What a kernel returns per row: the fields of `trbounds.logits.kernels.RowDivergences`.
COLUMNS = (
    "kl",
    "kl_reverse",
    "tv",
    "chi2",
    "entropy",
    "max_abs_log_ratio",
    "unsupported_mass",
    "rollout_log_normaliser",
    "train_log_normaliser",
)

CHUNK = 32_768
_BLOCK = 8_192
# Normalisers are good to a few 1e-15; below these values the total variation needs their correction
# to keep 1e-10 and 1e-5 relative.
CORRECT_BELOW = {"float64": 1e-4, "float32": 1e-8}
# Beyond these log-ratios products could overflow (float64) or lose what the tolerance allows
# (float32): such chunks, and those with -inf, go through the general formulas in float64.
LOG_RATIO_LIMIT = {"float64": 300.0, "float32": 20.0}
# exp(d) - 1 - d = d^2 (1/2! + d/3! + ...), used for |d| <= 1/2.
_SERIES_LIMIT = 0.5
_SERIES = {
    "float64": tuple(1.0 / math.factorial(n) for n in range(2, 17)),
    "float32": tuple(1.0 / math.factorial(n) for n in range(2, 10)),
}


class NumpyKernel:
    """Sums over the vocabulary of one row at a time, with its own small buffers.

    Parameters
    ----------
    precision : {"float64", "float32"}
        Precision of the second pass. Normalisers are float64 in both: from float32 ones, the
        close policies of practice would always need the third pass.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._dtype = np.dtype(precision)
        self._wide = [np.empty(CHUNK) for _ in range(3)]
        count = 2 if precision == "float64" else 4
        self._buffers = [np.empty(CHUNK, dtype=self._dtype) for _ in range(count)]

    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums named by `COLUMNS` for one row of logits of each policy.

        Raises
        ------
        InputError
            If the row holds NaN or +inf or is -inf throughout; without a record.
        """
        with np.errstate(invalid="ignore"):  # -inf - -inf is NaN: such chunks are looked after
            return self._row(x, y)

    def _row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        norms = self._normaliser(x, "rollout_logits"), self._normaliser(y, "train_logits")
        shift = norms[1].log - norms[0].log
        correction = 0.0
        sums = self._sum_chunks(x, y, norms, shift, correction)
        if sums[2] < CORRECT_BELOW[self._precision]:
            correction = math.log1p(self._excess(x, y, norms, shift))
            sums = self._sum_chunks(x, y, norms, shift, correction)
        sums[2] = min(sums[2], 1.0)
        sums[4] += norms[0].rest
        sums[7:] = norms[0].log, norms[0].log + shift + correction
        return sums

    def _normaliser(self, row: NDArray[Any], field: str) -> Normaliser:
        peak, total = -math.inf, 0.0
        for start in range(0, row.size, CHUNK):
            chunk = row[start : start + CHUNK]
            logit = self._wide[0][: chunk.size]
            np.copyto(logit, chunk)
            top = float((chunk if chunk.dtype.kind == "f" else logit).max())
            if not top < math.inf:
                found = "NaN" if math.isnan(top) else "+inf"
                raise InputError(f"found {found}, expected logits below +inf", field=field)
            if top == -math.inf:
                continue
            if top > peak:
                total *= math.exp(peak - top)
                peak = top
            logit -= peak
            np.exp(logit, out=logit)
            total += float(np.add.reduce(logit))
        if peak == -math.inf:
            raise InputError("all logits are -inf, expected at least one token", field=field)
        return Normaliser(peak, math.log(total))

    def _sum_chunks(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        norms: tuple[Normaliser, Normaliser],
        shift: float,
        correction: float,
    ) -> NDArray[np.float64]:
        sums = np.zeros(len(COLUMNS))
        for start in range(0, x.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            part = self._sum_chunk(x[chunk], y[chunk], norms, shift, correction)
            largest = max(sums[5], part[5])
            sums += part
            sums[5] = largest
        return sums

    def _load(
        self, a: NDArray[Any], b: NDArray[Any], shift: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return both chunks in float64, and log rho up to the correction of its shift."""
        logit, other, delta = (buffer[: a.size] for buffer in self._wide)
        np.copyto(logit, a)
        np.copyto(other, b)
        np.subtract(other, logit, out=delta)
        delta -= shift
        return logit, other, delta

    def _excess(
        self, x: NDArray[Any], y: NDArray[Any], norms: tuple[Normaliser, Normaliser], shift: float
    ) -> float:
        """Return the sum of pi - mu, which is 0 up to the error of the normalisers."""
        total = 0.0
        for start in range(0, x.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            logit, other, delta = self._load(x[chunk], y[chunk], shift)
            if self._is_ordinary(float(delta.min()), float(delta.max())):
                logit -= norms[0].peak
                np.exp(logit, out=logit)
                np.expm1(delta, out=delta)
                total += _dot(logit, delta) / math.exp(norms[0].rest)
            else:
                ratio = ratio_at(array_namespace(logit), logit, other, *norms, (shift,))
                total += float(ratio.difference.sum())
        return total

    def _is_ordinary(self, low: float, high: float) -> bool:
        limit = LOG_RATIO_LIMIT[self._precision]
        return -limit < low and high < limit  # False for NaN

    def _sum_chunk(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        norms: tuple[Normaliser, Normaliser],
        shift: float,
        correction: float,
    ) -> NDArray[np.float64]:
        logit, other, delta = self._load(a, b, shift)
        if correction != 0.0:
            delta -= correction
        low, high = float(delta.min()), float(delta.max())
        if not self._is_ordinary(low, high):
            return _general_sums(logit, other, norms, shift, correction)
        # Buffers are used again as soon as they are free: together they must fit the cache.
        logit -= norms[0].peak
        weight, scratch, *narrow = (buffer[: a.size] for buffer in self._buffers)
        d, argument = narrow or (delta, logit)
        if narrow:
            np.copyto(d, delta, casting="same_kind")
            np.copyto(argument, logit, casting="same_kind")
        np.exp(argument, out=weight)
        entropy = -_dot(weight, argument)
        rise = np.expm1(d, out=argument)
        kl_terms = other.view(self._dtype)[: a.size]
        if correction != 0.0 or self._precision == "float32":
            self._expm1_minus(d, rise, kl_terms, scratch)
        else:
            np.subtract(rise, d, out=kl_terms)
        kl = _dot(weight, kl_terms)
        np.multiply(weight, rise, out=weight)  # pi - mu, up to the factor of the normaliser
        chi2, reverse = _dot(weight, rise), _dot(weight, d) - kl
        sums = np.array([kl, reverse, 0.5 * _abs_sum(weight), chi2, entropy, *4 * (0.0,)])
        sums /= math.exp(norms[0].rest)
        sums[5] = max(-low, high)
        return sums

    def _expm1_minus(
        self, d: NDArray[Any], rise: NDArray[Any], out: NDArray[Any], t: NDArray[Any]
    ) -> None:
        """Write exp(d) - 1 - d to out, given rise = expm1(d), without cancellation."""
        np.clip(d, -_SERIES_LIMIT, _SERIES_LIMIT, out=t)
        out.fill(_SERIES[self._precision][-1])
        for coefficient in reversed(_SERIES[self._precision][:-1]):
            out *= t
            out += self._dtype.type(coefficient)
        out *= t
        out *= t
        large = t != d
        if large.any():
            np.subtract(rise, d, out=out, where=large)


def _abs_sum(a: NDArray[Any]) -> float:
    asum = dasum if a.dtype == np.float64 else sasum
    return sum(float(asum(a[start : start + _BLOCK])) for start in range(0, a.size, _BLOCK))


def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    # In blocks: float32 products are then summed in float64 now and then, and BLAS does not start
    # threads of its own, which it does for longer vectors.
    total = 0.0
    for start in range(0, a.size, _BLOCK):
        total += float(np.dot(a[start : start + _BLOCK], b[start : start + _BLOCK]))
    return total


def _general_sums(
    x: NDArray[Any],
    y: NDArray[Any],
    norms: tuple[Normaliser, Normaliser],
    shift: float,
    correction: float,
) -> NDArray[np.float64]:
    """Sum one chunk that holds -inf or huge ratios, in float64."""
    ratio = ratio_at(array_namespace(x), x, y, *norms, (shift, correction))
    result = sum_divergences(ratio)
    sums = np.array([float(getattr(result, name)) for name in COLUMNS[:7]] + [0.0, 0.0])
    # The row adds the rest of the normaliser to the entropy at the end.
    sums[4] -= float(ratio.mu.sum()) * norms[0].rest
    return sums
