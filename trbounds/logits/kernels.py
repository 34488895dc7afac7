"""Divergences of rows of logits: one entry point over the kernels for CPU and GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trbounds.divergences.exact import Divergences
from trbounds.errors import InputError, MissingDependency
from trbounds.logits.numpy_kernel import COLUMNS, NumpyKernel

__all__ = ["Engine", "Precision", "row_divergences"]

Precision = Literal["float64", "float32"]
Engine = Literal["auto", "numpy", "numba"]

_LOGIT_DTYPES = ("float64", "float32", "float16", "bfloat16")


class _Kernel(Protocol):
    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]: ...


def row_divergences(
    rollout_logits: NDArray[Any],
    train_logits: NDArray[Any],
    *,
    precision: Precision = "float64",
    engine: Engine = "auto",
    threads: int | None = None,
) -> Divergences:
    """Compute the divergences of each row of two matrices of logits, in little memory.

    Parameters
    ----------
    rollout_logits, train_logits : ndarray, shape (n, V)
        Logits of the rollout policy μ and the training policy π; float64, float32, float16 or
        bfloat16 (ml_dtypes), memory-mapped or not. -inf is probability 0.
    precision : {"float64", "float32"}
        Precision of the exponentials. Relative error of kl, tv and chi2 at most 1e-10, or 1e-5,
        for TV from 1e-10 to 1.
    engine : {"auto", "numpy", "numba"}
        "auto" takes numba where it is installed.
    threads : int, optional
        Number of threads that share the rows; the number of usable cores by default.

    Returns
    -------
    Divergences
        Float64 arrays of shape (n,).

    Raises
    ------
    InputError
        If the shapes or dtypes are wrong, or a row holds NaN or +inf or is -inf throughout; the
        record is the row.
    MissingDependency
        If engine is "numba" and numba is not installed.
    """
    _check_pair(rollout_logits, train_logits)
    if precision not in ("float64", "float32"):
        raise InputError(f"found {precision!r}, expected 'float64' or 'float32'", field="precision")
    n = rollout_logits.shape[0]
    workers = max(1, min(threads or len(os.sched_getaffinity(0)), n))
    sums = np.empty((n, len(COLUMNS)))

    def work(rows: Iterator[int]) -> None:
        kernel = _make_kernel(engine, precision)
        for i in rows:
            try:
                sums[i] = kernel.row(rollout_logits[i], train_logits[i])
            except InputError as error:
                raise InputError(error.problem, record=i, field=error.field) from None

    if workers == 1:
        work(iter(range(n)))
    else:
        with ThreadPoolExecutor(workers) as pool:
            # Interleaved, so that both threads move through a memory-mapped file together.
            list(pool.map(work, [iter(range(k, n, workers)) for k in range(workers)]))
    return Divergences(**{name: sums[:, k].copy() for k, name in enumerate(COLUMNS[:-1])})


def _make_kernel(engine: str, precision: Precision) -> _Kernel:
    if engine == "numpy" or (engine == "auto" and find_spec("numba") is None):
        return NumpyKernel(precision)
    if engine not in ("auto", "numba"):
        raise InputError(f"found {engine!r}, expected 'auto', 'numpy' or 'numba'", field="engine")
    if find_spec("numba") is None:
        raise MissingDependency("numba", extra="fast", purpose="engine='numba'")
    from trbounds.logits.numba_kernel import NumbaKernel

    return NumbaKernel(precision)


def _check_pair(x: NDArray[Any], y: NDArray[Any]) -> None:
    for logits, field in ((x, "rollout_logits"), (y, "train_logits")):
        if logits.ndim != 2 or logits.shape[1] == 0:
            raise InputError(f"found shape {logits.shape}, expected (n, vocabulary)", field=field)
        if logits.dtype.name not in _LOGIT_DTYPES:
            raise InputError(
                f"found dtype {logits.dtype.name}, expected one of {', '.join(_LOGIT_DTYPES)}",
                field=field,
            )
    if x.shape != y.shape:
        raise InputError(
            f"found shape {y.shape}, expected {x.shape} as in 'rollout_logits'",
            field="train_logits",
        )
