"""Divergences of rows of logits: one entry point over the kernels for CPU and GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trbounds.arrays import array_namespace, bfloat16_dtype, to_numpy
from trbounds.checks import as_numpy
from trbounds.compiling import Kernel, usable_cores, uses_numba
from trbounds.divergences.exact import Divergences, divergences, normaliser
from trbounds.errors import InputError
from trbounds.logits.cuda import cuda_row_sums, is_available, is_device_array, share_with_cupy
from trbounds.logits.numpy_kernel import COLUMNS, NumpyKernel

Precision = Literal["float64", "float32"]
Device = Literal["auto", "cpu", "cuda"]

# Up to this vocabulary the rows are taken in blocks of this many logits.
_SMALL_VOCABULARY = 4096
_SMALL_BLOCK = 32_768

# Normalisers beyond this are rounded at 1e-10 and more.
_LARGEST_NORMALISER = 1e6

_LOGIT_DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True, eq=False)
class RowDivergences(Divergences):
    """Divergences of rows of logits, and the normalisers met on the way.

    Attributes
    ----------
    rollout_log_normaliser, train_log_normaliser : array
        log Σ exp(logit) of each row: a logit less this is a log-probability.
    """

    rollout_log_normaliser: Any
    train_log_normaliser: Any


class _Kernel(Protocol):
    def row(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]: ...


def row_divergences(
    rollout_logits: Any,
    train_logits: Any,
    *,
    precision: Precision = "float64",
    kernel: Kernel = "auto",
    device: Device = "auto",
    threads: int | None = None,
) -> RowDivergences:
    """Compute the divergences of each row of two matrices of logits, in little memory.

    Parameters
    ----------
    rollout_logits, train_logits : array, shape (n, V)
        Logits of the rollout policy μ and the training policy π; float64, float32, float16 or
        bfloat16 (ml_dtypes), memory-mapped or not; nested lists and host arrays of other libraries
        (torch's bfloat16 as well) count as numpy. -inf is probability 0. Also CuPy arrays, and
        arrays of other libraries on a CUDA device through DLPack (torch tensors without
        gradient); there bfloat16 comes as 16-bit integers, ``tensor.view(torch.int16)``.
    precision : {"float64", "float32"}
        Precision of the exponentials. Relative error of kl, tv and chi2 at most 1e-10, or 1e-5,
        for TV from 1e-10 to 1 and logits of magnitude up to 1000; the entropy and the normalisers
        are good to that share of one nat. For float64 logits comes on top what rounding the
        difference of two logits loses: 1e-16 of a constant by which the policies' logits differ,
        against the TV.
    kernel : {"auto", "numpy", "numba"}
        On the CPU; "auto" takes numba where it is installed.
    device : {"auto", "cpu", "cuda"}
        "auto" follows arrays that are on a CUDA device, and takes one for arrays of one dtype on
        the host where CuPy finds one.
    threads : int, optional
        Number of threads that share the rows. By default the number of usable cores for numba,
        and one for numpy, whose threads would wait for one another between its short calls.
        Vocabularies up to 4096 take one thread, float64 and numpy whatever is asked for.

    Returns
    -------
    RowDivergences
        Float64 arrays of shape (n,); CuPy arrays for logits on a CUDA device.

    Raises
    ------
    InputError
        If the shapes or dtypes are wrong, or a row holds NaN or +inf, is -inf throughout or has a
        largest logit beyond 1e6 either way; the record is the row.
    MissingDependency
        If kernel is "numba" and numba is not installed, or CuPy is needed and is not.

    Examples
    --------
    >>> import numpy as np
    >>> from trbounds.logits import row_divergences
    >>> found = row_divergences(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))
    >>> found.tv.round(12).tolist(), found.chi2.round(12).tolist()
    ([0.25], [0.25])
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"found {device!r}, expected 'auto', 'cpu' or 'cuda'", field="device")
    on_device = [is_device_array(logits) for logits in (rollout_logits, train_logits)]
    if on_device[0] != on_device[1]:
        raise InputError(
            "found one array on the host and one on a CUDA device, expected both in one place",
            field="rollout_logits, train_logits",
        )
    if on_device[0]:
        if device == "cpu":
            raise InputError("found arrays on a CUDA device, expected numpy", field="device")
        rollout_logits, train_logits = map(share_with_cupy, (rollout_logits, train_logits))
        device = "cuda"
    else:
        rollout_logits = as_numpy("rollout_logits", rollout_logits)
        train_logits = as_numpy("train_logits", train_logits)
    _check_pair(rollout_logits, train_logits)
    _check_settings(precision, kernel, threads)
    small = rollout_logits.shape[1] <= _SMALL_VOCABULARY
    alike = rollout_logits.dtype.name == train_logits.dtype.name
    if device == "cuda" or (device == "auto" and alike and not small and is_available()):
        sums = _cuda_rows(rollout_logits, train_logits, precision)
    elif small:
        sums = _small_rows(rollout_logits, train_logits)
    else:
        sums = _large_rows(rollout_logits, train_logits, precision, kernel, threads)
    columns = array_namespace(sums).ascontiguousarray(sums.T)
    result = RowDivergences(**dict(zip(COLUMNS, columns, strict=True)))
    _check_normaliser(result.rollout_log_normaliser, "rollout_logits")
    _check_normaliser(result.train_log_normaliser, "train_logits")
    return result


def _check_normaliser(values: Any, field: str) -> None:
    bad = abs(values) > _LARGEST_NORMALISER
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"found logits up to {float(values[row]):g}, expected at most "
            f"{_LARGEST_NORMALISER:g} either way: log-probabilities would lose their digits",
            record=row,
            field=field,
        )


def _cuda_rows(x: Any, y: Any, precision: Precision) -> Any:
    sums = cuda_row_sums(x, y, precision=precision)
    bad = to_numpy(sums != sums).any(axis=1)
    for i in np.flatnonzero(bad):
        # NaN stands for rows that are not logits, or that the kernel cannot sum; the kernel for
        # the CPU says what is wrong, or sums them.
        a, b = (to_numpy(logits[i : i + 1]) for logits in (x, y))
        if a.dtype.kind in "iu":
            a, b = a.view(bfloat16_dtype()), b.view(bfloat16_dtype())
        try:
            row = _large_rows(a, b, precision, "numpy", 1)[0]
        except InputError as error:
            raise _in_row(error, int(i)) from None
        sums[i, :] = array_namespace(sums).asarray(row)
    return sums


def _small_rows(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Take many short rows at once: one by one, the calls would cost more than the sums."""
    sums = np.empty((x.shape[0], len(COLUMNS)))
    step = max(1, _SMALL_BLOCK // x.shape[1])
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        try:
            a, b = x[rows].astype(np.float64), y[rows].astype(np.float64)
            part = divergences(a, b)
        except InputError as error:
            raise _in_row(error, start + (error.record or 0)) from None
        for k, name in enumerate(COLUMNS[:7]):
            sums[rows, k] = getattr(part, name)
        xp = array_namespace(a)
        sums[rows, 7], sums[rows, 8] = (normaliser(xp, z).log[:, 0] for z in (a, b))
    return sums


def _large_rows(
    x: NDArray[Any], y: NDArray[Any], precision: Precision, kernel: Kernel, threads: int | None
) -> NDArray[np.float64]:
    n = x.shape[0]
    sums = np.empty((n, len(COLUMNS)))
    if threads is None:
        threads = usable_cores() if uses_numba(kernel) else 1
    workers = min(threads, max(n, 1))

    def work(first: int) -> None:
        made = _make_kernel(kernel, precision)
        for i in range(first, n, workers):
            try:
                sums[i] = made.row(x[i], y[i])
            except InputError as error:
                raise _in_row(error, i) from None

    if workers == 1:
        work(0)
        return sums
    with ThreadPoolExecutor(workers) as pool:
        # Interleaved, so that all threads move through a memory-mapped file together.
        list(pool.map(work, range(workers)))
    return sums


def _in_row(error: InputError, row: int) -> InputError:
    return InputError(error.problem, record=row, field=error.field)


def _make_kernel(kernel: str, precision: Precision) -> _Kernel:
    if not uses_numba(kernel):
        return NumpyKernel(precision)
    from trbounds.logits.numba_kernel import NumbaKernel

    return NumbaKernel(precision)


def _check_settings(precision: str, kernel: str, threads: int | None) -> None:
    if precision not in ("float64", "float32"):
        raise InputError(f"found {precision!r}, expected 'float64' or 'float32'", field="precision")
    uses_numba(kernel)
    if threads is not None and not (isinstance(threads, Integral) and threads >= 1):
        raise InputError(
            f"found {threads!r}, expected a whole number of at least 1", field="threads"
        )


def _check_pair(x: Any, y: Any) -> None:
    names = _LOGIT_DTYPES if isinstance(x, np.ndarray) else (*_LOGIT_DTYPES, "int16", "uint16")
    for logits, field in ((x, "rollout_logits"), (y, "train_logits")):
        if logits.ndim != 2 or logits.shape[1] == 0:
            raise InputError(f"found shape {logits.shape}, expected (n, vocabulary)", field=field)
        if logits.dtype.name not in names:
            raise InputError(
                f"found dtype {logits.dtype.name}, expected one of {', '.join(names)}",
                field=field,
            )
    if x.shape != y.shape:
        raise InputError(
            f"found shape {y.shape}, expected {x.shape} as in 'rollout_logits'",
            field="train_logits",
        )
