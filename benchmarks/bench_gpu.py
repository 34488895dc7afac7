"""Bandwidth and accuracy of the row divergences on a CUDA device; prints a table to keep.

    python benchmarks/bench_gpu.py [--rows 4096] [--repeat 20] > benchmarks/results/gpu.md

Needs CuPy and a CUDA device with 16 GB; where torch can be imported and sees the device, also the
time of its log_softmax and kl_div (the KL alone) on the same logits. The copy bandwidth is that of
a device-to-device copy of one of the arrays, read and written, timed in the same run; the share is
the bytes of the logits, each counted once, over the time of the whole call, over that bandwidth.
Times are medians by CUDA events, after a warm-up. Errors are the largest relative ones of kl, tv
and chi2 on rows from nearly equal policies to distant ones, against float64 on the host.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from trbounds.divergences import divergences
from trbounds.logits import row_divergences
from trbounds.logits.cuda import is_available

VOCABULARY = 151_936
# What is stored, and the noise between the two policies: ordinary ones, and ones so close that most
# rows are summed a second time at a corrected shift.
CASES = (("float32", 0.03), ("bfloat16", 0.03), ("float16", 0.03), ("float32", 1e-6))
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def milliseconds(cupy: Any, task: Callable[[], object], repeat: int) -> float:
    for _ in range(3):
        task()
    times = []
    for _ in range(repeat):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        task()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end))
    return statistics.median(times)


def stored(cupy: Any, logits: Any, dtype: str) -> Any:
    """Float32 logits as they are stored; bfloat16 as its bits."""
    if dtype == "bfloat16":
        return (logits.view(cupy.uint32) >> 16).astype(cupy.uint16)
    return logits.astype(dtype)


def make_logits(cupy: Any, rows: int, dtype: str, noise: float) -> tuple[Any, Any]:
    rng = cupy.random.default_rng(0)
    logits = 3.0 * rng.standard_normal((rows, VOCABULARY), dtype=cupy.float32)
    x = stored(cupy, logits, dtype)
    logits += noise * rng.standard_normal(logits.shape, dtype=cupy.float32)
    return x, stored(cupy, logits, dtype)


def largest_error(cupy: Any, dtype: str, precision: str) -> float:
    """Of kl, tv and chi2, over noise from 1e-6 to 10 on the logits."""
    rng = np.random.default_rng(1)
    base = (3.0 * rng.standard_normal((8, VOCABULARY))).astype(np.float32)
    scale = np.logspace(-6, 1, 8)[:, None]
    other = (base + scale * rng.standard_normal(base.shape)).astype(np.float32)
    pair = [stored(cupy, cupy.asarray(a), dtype) for a in (base, other)]
    ours = row_divergences(*pair, precision=precision)
    host = []
    for logits in pair:
        values = logits.get()
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        host.append(values.astype(np.float64))
    expected = divergences(*host)
    errors = []
    for name in ("kl", "tv", "chi2"):
        found, exact = getattr(ours, name).get(), getattr(expected, name)
        some = expected.tv > 1e-10  # 16-bit logits may be equal
        errors.append(np.max(np.abs(found[some] / exact[some] - 1.0), initial=0.0))
    return float(max(errors))


def torch_task(x: Any, y: Any, dtype: str) -> Callable[[], object] | None:
    if not find_spec("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    a, b = (torch.from_dlpack(v.view("int16") if dtype == "bfloat16" else v) for v in (x, y))
    if dtype == "bfloat16":
        a, b = a.view(torch.bfloat16), b.view(torch.bfloat16)

    def run() -> None:
        with torch.no_grad():
            for k in range(0, a.shape[0], 512):  # its temporaries are several times its arguments
                log_mu = torch.log_softmax(a[k : k + 512].float(), -1)
                log_pi = torch.log_softmax(b[k : k + 512].float(), -1)
                torch.nn.functional.kl_div(log_pi, log_mu, reduction="none", log_target=True).sum(
                    -1
                )

    return run


def copy_bandwidth(cupy: Any, source: Any, repeat: int) -> float:
    """Bytes a millisecond that a copy on the device reads and writes."""
    target = cupy.empty_like(source)

    def copy() -> None:
        target.data.copy_from_device_async(source.data, source.nbytes)

    return 2 * source.nbytes / milliseconds(cupy, copy, repeat)


def measure(cupy: Any, rows: int, repeat: int, dtype: str, noise: float) -> tuple[list[str], bool]:
    """Return lines of the table for one kind of logits, and whether all are accurate enough."""
    x, y = make_logits(cupy, rows, dtype, noise)
    size = x.nbytes + y.nbytes
    bandwidth = copy_bandwidth(cupy, x, repeat)
    torch = torch_task(x, y, dtype)
    torch_ms = milliseconds(cupy, torch, repeat) if torch else None
    lines, accurate = [], True
    for precision, tolerance in TOLERANCE.items():

        def ours(chosen: Any = precision) -> object:
            return row_divergences(x, y, precision=chosen)

        own = milliseconds(cupy, ours, repeat)
        error = largest_error(cupy, dtype, precision)
        accurate &= error < tolerance
        ratio = "no torch" if torch_ms is None else f"{torch_ms / own:.2f}"
        lines.append(
            f"| {dtype} | {noise:g} | {precision} | {size / 1e9:.2f} | {own:.3f} | "
            f"{size / own / bandwidth:.1%} of {bandwidth / 1e9:.2f} TB/s | {ratio} | {error:.1e} |"
        )
    return lines, accurate


def measure_host(cupy: Any, rows: int) -> None:
    """Logits on the host: the whole call, against sending the same bytes from pinned memory."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((rows, VOCABULARY), dtype=np.float32)
    y = x + np.float32(0.03)
    row_divergences(x[:8], y[:8], device="cuda")
    start = time.perf_counter()
    row_divergences(x, y, device="cuda")
    own = time.perf_counter() - start
    memory = cupy.cuda.alloc_pinned_memory(x.nbytes)
    pinned = np.frombuffer(memory, x.dtype, x.size).reshape(x.shape)
    pinned[...] = x
    target = cupy.empty(x.shape, dtype=x.dtype)
    send = milliseconds(cupy, lambda: target.set(pinned), 5) / 1e3
    both = x.nbytes + y.nbytes
    print(
        f"\nFrom host memory, {rows} rows of float32: {both / own / 1e9:.1f} GB/s; sending alone, "
        f"from pinned memory: {x.nbytes / send / 1e9:.1f} GB/s."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    if not is_available():
        print(
            "CuPy finds no CUDA device: nothing to measure. Where there is one:\n"
            "  pip install 'trbounds[cuda]'\n"
            "  python -m pytest -m gpu\n"
            "  python benchmarks/bench_gpu.py > benchmarks/results/gpu.md",
            file=sys.stderr,
        )
        return 1
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    print(
        f"{name}, {cupy.cuda.Device().attributes['MultiProcessorCount']} multiprocessors; CuPy "
        f"{cupy.__version__}, CUDA {runtime}; vocabulary {VOCABULARY}, {options.rows} rows; "
        f"`python {' '.join(sys.argv)}`\n"
    )
    print(
        "| logits | noise | precision | GB | ms | share of copy bandwidth | torch / ours | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    accurate = True
    for dtype, noise in CASES:
        lines, good = measure(cupy, options.rows, options.repeat, dtype, noise)
        print(*lines, sep="\n", flush=True)
        accurate &= good
        cupy.get_default_memory_pool().free_all_blocks()
    measure_host(cupy, min(options.rows, 512))
    if not accurate:
        print("an error exceeds its tolerance: 1e-10 in float64, 1e-5 in float32", file=sys.stderr)
    return 0 if accurate else 1


if __name__ == "__main__":
    sys.exit(main())
