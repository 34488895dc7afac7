"""Divergences of rows of a large vocabulary with numpy alone, chunk by chunk.

Each row is read twice: the difference c of the log-normalisers must be known before |pi - mu| can
be summed, and no algebra recovers the sum of absolute values afterwards. In float64 the first pass
takes the normaliser of each row. In float32 that would leave c with an error as large as a small
total variation, so there c comes from the sum of mu expm1(y - x), whose rounding shrinks with it.
The second pass takes mu, log rho and rho - 1 of each chunk into small buffers and adds up every
divergence. The sum of pi - mu, which ought to be 0, says whether c was good enough; if not, or if
the policies turn out too close for the short formulas, a third pass corrects it. See
`trbounds.divergences.exact` for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dasum, ddot, sasum, sdot

from trbounds.arrays import array_namespace
from trbounds.divergences.exact import Normaliser, ratio_at, sum_divergences
from trbounds.errors import InputError

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
# Until a row is complete, the column of a normaliser holds the sum of pi - mu.
EXCESS = 7

CHUNK_BYTES = 1 << 17
_BLOCK = 8_192
# Beyond these log-ratios products could overflow (float64) or lose what the tolerance allows
# (float32): such chunks, and those where one policy has -inf, go through the general formulas.
LOG_RATIO_LIMIT = {"float64": 300.0, "float32": 20.0}
# Stands for -inf where both policies have it, so that padded vocabularies take the fast way.
ABSENT = -(2.0**100)
# A sum of pi - mu beyond this share of the total variation calls for the correction.
EXCESS_LIMIT = {"float64": 1e-11, "float32": 1e-6}
# Where the total variation is above, exp(d) - 1 - d may be taken as it stands.
_DIRECT_ABOVE = {"float64": 1e-4, "float32": 0.05}
# The first pass adds up |rho - 1| until it holds this many times what is needed to know so.
_ENOUGH = 20.0
# Otherwise, for |d| up to the limit, exp(d) - 1 - d = d expm1(d) (1/2 - d/12 + d^3/720 - ...):
# the coefficients after 1/2.
_SERIES_LIMIT = 0.125
_SERIES = {
    "float64": (-1.0 / 12.0, 1.0 / 720.0, -1.0 / 30_240.0),
    "float32": (-1.0 / 12.0, 1.0 / 720.0),
}
# A constant added to all logits of one policy is taken off in float64, from here on.
_SMALLEST_BASE = 0.5
# float32 rounds y - x, and so log rho, to 6e-8 of c: harmless up to this many total variations.
SHIFT_LIMIT = {"float64": math.inf, "float32": 64.0}


@dataclass(frozen=True)
class _Frame:
    """What a pass takes its differences from.

    The log-normaliser of y less that of x is base + shift + correction. They are subtracted one
    after the other, since the later ones may be smaller than what rounding leaves of the first.
    """

    peak: float  # the largest rollout logit
    mass: float  # sum of exp(x - peak)
    base: float
    shift: float = 0.0
    correction: float = 0.0
    tv: float = 1.0  # the total variation, as far as it is known


class NumpyKernel:
    """Sums over the vocabulary of one row at a time, with its own small buffers.

    Parameters
    ----------
    precision : {"float64", "float32"}
        Precision of the terms. Sums over chunks are float64 in both.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._dtype = np.dtype(precision)
        self._limit = LOG_RATIO_LIMIT[precision]
        # Few, and used again as soon as they are free: together they must fit the cache.
        self._chunk = CHUNK_BYTES // self._dtype.itemsize
        self._wide = [np.empty(self._chunk) for _ in range(2)]
        self._log_ratio = np.empty(self._chunk, dtype=self._dtype)
        self._weight = np.empty(self._chunk, dtype=self._dtype)
        self._rise = np.empty(self._chunk, dtype=self._dtype)

    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums named by `COLUMNS` for one row of logits of each policy.

        Raises
        ------
        InputError
            If the row holds NaN or +inf or is -inf throughout; without a record.
        """
        # -inf - -inf is NaN, and huge ratios overflow: such chunks are looked after.
        with np.errstate(invalid="ignore", over="ignore"):
            return self._row(x, y)

    def _row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        frame = self._compare(x, y, _offset(x, y)) if self._precision == "float32" else None
        frame = frame or self._frame_of_normalisers(x, y)
        frame, sums = self._corrected_sums(x, y, frame)
        if frame.base == 0.0 and abs(frame.shift) > SHIFT_LIMIT[self._precision] * sums[2]:
            frame = replace(frame, base=frame.shift, shift=0.0, correction=0.0)
            frame, sums = self._corrected_sums(x, y, frame)
        rest = math.log(frame.mass)
        sums[2] = min(sums[2], 1.0)
        sums[4] += rest
        sums[7] = frame.peak + rest
        sums[8] = sums[7] + frame.base + (frame.shift + frame.correction)
        return sums

    def _corrected_sums(
        self, x: NDArray[Any], y: NDArray[Any], frame: _Frame
    ) -> tuple[_Frame, NDArray[np.float64]]:
        sums = self._sum_chunks(x, y, frame)
        off = abs(sums[EXCESS]) > EXCESS_LIMIT[self._precision] * sums[2]
        if off or frame.tv > _DIRECT_ABOVE[self._precision] >= sums[2]:
            frame = replace(frame, correction=math.log1p(sums[EXCESS]), tv=sums[2])
            sums = self._sum_chunks(x, y, frame)
        return frame, sums

    def _chunks(
        self, x: NDArray[Any], y: NDArray[Any], base: float
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Yield parts of both rows, of x in a type that holds differences, and y - x - base."""
        wide = np.result_type(self._dtype if base == 0.0 else np.float64, x.dtype)
        wide = np.result_type(wide, y.dtype)  # one by one: float16 and bfloat16 have no common type
        loaded, difference = (buffer.view(wide) for buffer in self._wide)
        for start in range(0, x.size, self._chunk):
            chunk = slice(start, start + self._chunk)
            a, b = _load(x[chunk], loaded), y[chunk]
            d = self._log_ratio[: a.size]
            out = d if wide == self._dtype else difference[: a.size]
            if b.dtype == wide:
                np.subtract(b, a, out=out)
            else:
                np.copyto(out, b)
                out -= a
            if base != 0.0:
                out -= base
            if out is not d:
                np.copyto(d, out, casting="same_kind")
            yield a, b, d

    def _compare(self, x: NDArray[Any], y: NDArray[Any], base: float) -> _Frame | None:
        """Return the frame of two rows, or None where this way of comparing them loses digits."""
        peak, mass, excess, absolute = -math.inf, 0.0, 0.0, 0.0
        direct_above = _DIRECT_ABOVE[self._precision]
        for a, b, d in self._chunks(x, y, base):
            top = float(a.max())
            if not top < math.inf:
                return None
            if top > peak:
                shrink = math.exp(peak - top)
                mass, excess, absolute = mass * shrink, excess * shrink, absolute * shrink
                peak = top
            elif peak == -math.inf:
                return None
            weight = self._weight[: a.size]
            np.subtract(a, peak, out=weight, casting="same_kind")
            np.exp(weight, out=weight)
            if _largest(d) < self._limit:
                np.expm1(d, out=d)
                excess += _dot(weight, d)
                if absolute <= _ENOUGH * direct_above * mass:
                    d *= weight
                    absolute += _abs_sum(d)
            else:
                np.subtract(b, peak + base, out=d, dtype=d.dtype, casting="same_kind")
                np.exp(d, out=d)
                d -= weight
                excess += float(np.add.reduce(d))
            mass += float(np.add.reduce(weight))  # pairwise: all else is relative to it
        rise = excess / mass
        if not -0.5 < rise < math.inf:
            return None
        tv = 0.5 * (absolute / mass - abs(rise)) / (1.0 + rise)
        shift = float(self._dtype.type(math.log1p(rise)))  # the correction finds what this loses
        return _Frame(peak, mass, base, shift, tv=tv)

    def _frame_of_normalisers(self, x: NDArray[Any], y: NDArray[Any]) -> _Frame:
        norms = self._normaliser(x, "rollout_logits"), self._normaliser(y, "train_logits")
        base = (norms[1].peak - norms[0].peak) + (norms[1].rest - norms[0].rest)
        return _Frame(norms[0].peak, math.exp(norms[0].rest), base)

    def _normaliser(self, row: NDArray[Any], field: str) -> Normaliser:
        peak, total = -math.inf, 0.0
        for start in range(0, row.size, self._chunk):
            chunk = row[start : start + self._chunk]
            logit = self._wide[0][: chunk.size]
            np.copyto(logit, chunk)
            top = float(logit.max())
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

    def _sum_chunks(self, x: NDArray[Any], y: NDArray[Any], frame: _Frame) -> NDArray[np.float64]:
        sums = np.zeros(len(COLUMNS))
        for a, b, d in self._chunks(x, y, frame.base):
            for shift in (frame.shift, frame.correction):
                if shift != 0.0:
                    d -= shift
            largest = _largest(d)
            if math.isnan(largest):
                absent = (a == -np.inf) & (b == -np.inf)
                a, d[absent] = np.where(absent, ABSENT, a), 0.0
                largest = _largest(d)
            if largest < self._limit:
                part = self._sum_chunk(a, d, largest, frame)
            else:
                part = _general_sums(a, b, frame)
            part[5] = max(sums[5], part[5])
            sums[5] = 0.0
            sums += part
        return sums

    def _sum_chunk(
        self, a: NDArray[Any], d: NDArray[Any], largest: float, frame: _Frame
    ) -> NDArray[np.float64]:
        weight, rise = self._weight[: a.size], self._rise[: a.size]
        t = self._wide[0].view(self._dtype)[: a.size]
        np.subtract(a, frame.peak, out=t, casting="same_kind")
        np.exp(t, out=weight)
        entropy = -_dot(weight, t)
        if math.isnan(entropy):  # 0 times -inf: float64 logits that float32 does not hold
            t[weight == 0.0] = 0.0
            entropy = -_dot(weight, t)
        np.expm1(d, out=rise)
        difference = np.multiply(weight, rise, out=t)
        tv, excess = 0.5 * _abs_sum(difference), float(np.add.reduce(difference))
        chi2, product = _dot(difference, rise), _dot(difference, d)
        if frame.tv > _DIRECT_ABOVE[self._precision]:
            rise -= d
            kl = _dot(weight, rise)
        else:
            kl = self._kl_of_close(weight, d, rise, difference, largest)
        sums = np.array([kl, product - kl, tv, chi2, entropy, 0.0, 0.0, excess, 0.0])
        sums /= frame.mass
        sums[5] = largest
        return sums

    def _kl_of_close(
        self,
        weight: NDArray[Any],
        d: NDArray[Any],
        rise: NDArray[Any],
        difference: NDArray[Any],
        largest: float,
    ) -> float:
        """Sum weight (exp(d) - 1 - d) without cancellation; all but the weight is overwritten."""
        kl = 0.0
        if largest > _SERIES_LIMIT:
            far = (d > _SERIES_LIMIT) | (d < -_SERIES_LIMIT)
            rise -= d
            rise *= far
            kl = _dot(weight, rise)
            difference *= ~far
        kl += 0.5 * _dot(difference, d)
        square = np.multiply(d, d, out=d)
        for coefficient in _SERIES[self._precision]:
            kl += coefficient * _dot(difference, square)
            difference *= square
        return kl


def _offset(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return about how much larger all logits of y are, if that is worth taking off."""
    most_likely = int(np.argmax(x[:_BLOCK]))
    offset = float(y[most_likely]) - float(x[most_likely])
    return offset if _SMALLEST_BASE < abs(offset) < math.inf else 0.0


def _largest(d: NDArray[Any]) -> float:
    """Return the largest absolute value, or NaN if there is one."""
    return max(-float(d.min()), float(d.max()))


def _load(chunk: NDArray[Any], buffer: NDArray[Any]) -> NDArray[Any]:
    if chunk.dtype == buffer.dtype:
        return chunk
    copy = buffer[: chunk.size]
    np.copyto(copy, chunk)
    return copy


# In blocks: float32 sums then go on in float64 now and then, and BLAS does not start threads of its
# own, which it does for longer vectors.


def _abs_sum(a: NDArray[Any]) -> float:
    asum = dasum if a.dtype == np.float64 else sasum
    return math.fsum(asum(a[start : start + _BLOCK]) for start in range(0, a.size, _BLOCK))


def _dot(a: NDArray[Any], b: NDArray[Any]) -> float:
    dot = ddot if a.dtype == np.float64 else sdot
    blocks = [slice(start, start + _BLOCK) for start in range(0, a.size, _BLOCK)]
    return math.fsum(dot(a[block], b[block]) for block in blocks)


def _general_sums(a: NDArray[Any], b: NDArray[Any], frame: _Frame) -> NDArray[np.float64]:
    """Sum one chunk that holds -inf or huge ratios, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    rest = math.log(frame.mass)
    shifts = frame.base, frame.shift, frame.correction
    norms = Normaliser(frame.peak, rest), Normaliser(frame.peak, rest + math.fsum(shifts))
    ratio = ratio_at(array_namespace(x), x, y, *norms, shifts)
    result = sum_divergences(ratio)
    sums = np.array([float(getattr(result, name)) for name in COLUMNS[:7]] + [0.0, 0.0])
    # The row adds the rest of the normaliser to the entropy at the end.
    sums[4] -= float(ratio.mu.sum()) * rest
    sums[EXCESS] = float(ratio.difference.sum())
    return sums
