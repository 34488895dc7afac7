"""Divergences of rows of a large vocabulary with numpy alone, chunk by chunk.

Each row is read twice: the log-normalisers must be known before |pi - mu| can be summed, and no
algebra recovers the sum of absolute values afterwards. The first pass is an online softmax of both
rows; the second takes mu, log rho and rho - 1 of each chunk into small buffers and adds up every
divergence. Where the policies are so close that rounding of the normalisers (about 1e-15) shows in
the total variation, a third pass corrects it; see `trbounds.divergences.exact` for the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace
from trbounds.divergences.exact import ratio_at, sum_divergences
from trbounds.errors import InputError

__all__ = ["COLUMNS", "CORRECT_BELOW", "NumpyKernel"]

# The sums kept per row. `excess` is the sum of pi - mu: 0 up to the error of the normalisers.
COLUMNS = (
    "kl",
    "kl_reverse",
    "tv",
    "chi2",
    "entropy",
    "max_abs_log_ratio",
    "unsupported_mass",
    "excess",
)

CHUNK = 32_768
# A normaliser is good to a few units of the working precision; the total variation needs its
# correction below these values to keep 1e-10 and 1e-5 relative.
CORRECT_BELOW = {"float64": 1e-4, "float32": 5e-2}
# Above this log-ratio exp(log rho)^2 could overflow the working precision: such chunks, and those
# with -inf, go through the general formulas in float64.
_LOG_RATIO_LIMIT = {"float64": 300.0, "float32": 40.0}
# exp(d) - 1 - d = d^2 (1/2! + d/3! + ...), used for |d| <= 1/2.
_SERIES_LIMIT = 0.5
_SERIES = {
    "float64": tuple(1.0 / math.factorial(n) for n in range(2, 17)),
    "float32": tuple(1.0 / math.factorial(n) for n in range(2, 10)),
}


@dataclass(frozen=True)
class Normaliser:
    """The sum of exp(logit) of one row: exp(peak) * total, with peak its largest logit."""

    peak: float
    total: float

    @property
    def log(self) -> float:
        """The log-normaliser."""
        return self.peak + math.log(self.total)


class NumpyKernel:
    """Sums over the vocabulary of one row at a time, with its own small buffers.

    Parameters
    ----------
    precision : {"float64", "float32"}
        Precision of exponentials and products; sums are float64 from chunk to chunk.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._dtype = np.dtype(precision)
        self._delta = np.empty(CHUNK)
        self._buffers = [np.empty(CHUNK, dtype=self._dtype) for _ in range(5)]
        self._wide = [np.empty(CHUNK, dtype=np.float32) for _ in range(2)]

    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums named by `COLUMNS` for one row of logits of each policy.

        Raises
        ------
        InputError
            If the row holds NaN or +inf or is -inf throughout; without a record.
        """
        norm_x = self._normaliser(x, "rollout_logits", 0)
        norm_y = self._normaliser(y, "train_logits", 1)
        shift = norm_y.log - norm_x.log
        sums = self._sum_chunks(x, y, norm_x, shift, 0.0)
        if sums[2] < CORRECT_BELOW[self._precision]:
            sums = self._sum_chunks(x, y, norm_x, shift, math.log1p(sums[7]))
        sums[2] = min(sums[2], 1.0)
        return sums

    def _widen(self, chunk: NDArray[Any], slot: int) -> NDArray[Any]:
        """Return a chunk as float32 or float64; half precision goes through a small buffer."""
        if chunk.dtype in (np.float32, np.float64):
            return chunk
        wide = self._wide[slot][: chunk.size]
        np.copyto(wide, chunk)
        return wide

    def _normaliser(self, row: NDArray[Any], field: str, slot: int) -> Normaliser:
        peak, total = -math.inf, 0.0
        for start in range(0, row.size, CHUNK):
            chunk = self._widen(row[start : start + CHUNK], slot)
            top = float(chunk.max())
            if not top < math.inf:
                found = "NaN" if math.isnan(top) else "+inf"
                raise InputError(f"found {found}, expected logits below +inf", field=field)
            if top == -math.inf:
                continue
            if top > peak:
                total *= math.exp(peak - top)
                peak = top
            buffer = self._buffers[0][: chunk.size]
            np.subtract(chunk, self._dtype.type(peak), out=buffer, dtype=self._dtype)
            np.exp(buffer, out=buffer)
            total += float(buffer.sum())
        if peak == -math.inf:
            raise InputError("all logits are -inf, expected at least one token", field=field)
        return Normaliser(peak, total)

    def _sum_chunks(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        norm_x: Normaliser,
        shift: float,
        correction: float,
    ) -> NDArray[np.float64]:
        sums = np.zeros(len(COLUMNS))
        for start in range(0, x.size, CHUNK):
            a = self._widen(x[start : start + CHUNK], 0)
            b = self._widen(y[start : start + CHUNK], 1)
            part = self._sum_chunk(a, b, norm_x, shift, correction)
            largest = max(sums[5], part[5])
            sums += part
            sums[5] = largest
        return sums

    def _sum_chunk(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        norm_x: Normaliser,
        shift: float,
        correction: float,
    ) -> NDArray[np.float64]:
        delta = self._delta[: a.size]
        with np.errstate(invalid="ignore"):  # -inf - -inf: caught by the limits below
            np.subtract(b, a, out=delta, dtype=np.float64)
            delta -= shift
            delta -= correction
            low, high = float(delta.min()), float(delta.max())
        if not (low > -math.inf and high < _LOG_RATIO_LIMIT[self._precision]):
            return _general_sums(a, b, norm_x.log, shift, correction)
        d, logit, weight, rise = (buffer[: a.size] for buffer in self._buffers[:4])
        np.copyto(d, delta, casting="same_kind")
        np.subtract(a, self._dtype.type(norm_x.peak), out=logit, dtype=self._dtype)
        np.exp(logit, out=weight)
        mass, log_mass = self._sum(weight), self._dot(weight, logit)
        np.expm1(d, out=rise)
        kl_terms = logit  # the buffer is free again
        if correction != 0.0 or self._precision == "float32":
            self._expm1_minus(d, rise, kl_terms)
        else:
            np.subtract(rise, d, out=kl_terms)
        kl = self._dot(weight, kl_terms)
        np.multiply(weight, rise, out=weight)
        excess, chi2, product = self._sum(weight), self._dot(weight, rise), self._dot(weight, d)
        np.abs(weight, out=weight)
        tv = 0.5 * self._sum(weight)
        entropy = mass * math.log(norm_x.total) - log_mass
        sums = np.array([kl, product - kl, tv, chi2, entropy, 0.0, 0.0, excess]) / norm_x.total
        sums[5] = max(-low, high)
        return sums

    def _sum(self, a: NDArray[Any]) -> float:
        return float(np.add.reduce(a))

    def _dot(self, a: NDArray[Any], b: NDArray[Any]) -> float:
        if self._precision == "float64":
            return float(np.einsum("i,i->", a, b))
        # Pairwise summation keeps float32 to a few units; einsum adds in sequence.
        product = self._buffers[4][: a.size]
        np.multiply(a, b, out=product)
        return float(np.add.reduce(product))

    def _expm1_minus(self, d: NDArray[Any], rise: NDArray[Any], out: NDArray[Any]) -> None:
        """Write exp(d) - 1 - d, given rise = expm1(d), without cancellation."""
        t = self._buffers[4][: d.size]
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


def _general_sums(
    a: NDArray[Any], b: NDArray[Any], log_normaliser: float, shift: float, correction: float
) -> NDArray[np.float64]:
    """Sum one chunk that holds -inf or huge ratios, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    ratio = ratio_at(array_namespace(x), x, y, log_normaliser, shift, correction)
    result = sum_divergences(ratio)
    excess = float(ratio.difference.sum())
    return np.array([float(getattr(result, name)) for name in COLUMNS[:-1]] + [excess])
