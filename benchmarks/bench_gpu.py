"""Bandwidth and accuracy of the row divergences on a CUDA device; prints a table to keep.

    python benchmarks/bench_gpu.py [--rows 4096] [--repeat 20] > benchmarks/results/gpu.md

Needs CuPy and a CUDA device; where torch can be imported, also the time of its log_softmax and
kl_div on the same logits. The copy bandwidth is that of a device-to-device copy of the same bytes,
read and written, timed in the same run; the share is the bytes of the logits, each counted once,
over the time, over that bandwidth. Times are medians by CUDA events, after a warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from trbounds.divergences import divergences
from trbounds.logits import row_divergences
from trbounds.logits.cuda import is_available

VOCABULARY = 151_936
DTYPES = ("float32", "bfloat16", "float16")


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


def make_logits(cupy: Any, rows: int, dtype: str) -> tuple[Any, Any]:
    """Two arrays of logits on the device; bfloat16 as its bits."""
    rng = cupy.random.default_rng(0)
    pair = []
    base = 3.0 * rng.standard_normal((rows, VOCABULARY), dtype=cupy.float32)
    for noise in (0.0, 0.03):
        logits = base + noise * rng.standard_normal(base.shape, dtype=cupy.float32)
        if dtype == "bfloat16":
            pair.append((logits.view(cupy.uint32) >> 16).astype(cupy.uint16))
        else:
            pair.append(logits.astype(dtype))
    return pair[0], pair[1]


def largest_error(cupy: Any, x: Any, y: Any, precision: str) -> float:
    """Of kl, tv and chi2 on the first rows, against the exact divergences on the host."""
    host = []
    for logits in (x[:4], y[:4]):
        values = logits.get()
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        host.append(values.astype(np.float64))
    expected = divergences(*host)
    ours = row_divergences(x[:4], y[:4], precision=precision)
    return max(
        float(np.max(np.abs(getattr(ours, name).get() / getattr(expected, name) - 1.0)))
        for name in ("kl", "tv", "chi2")
    )


def torch_task(x: Any, y: Any, dtype: str) -> Callable[[], object] | None:
    if not find_spec("torch"):
        return None
    import torch

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    if not is_available():
        print("CuPy finds no CUDA device: nothing to measure", file=sys.stderr)
        return 1
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}; CuPy {cupy.__version__}; `python {' '.join(sys.argv)}`\n")
    print(
        "| dtype | precision | GB | ms | share of copy bandwidth | torch / ours | largest error |"
    )
    print("|---|---|---|---|---|---|---|")
    for dtype in DTYPES:
        x, y = make_logits(cupy, options.rows, dtype)
        size = x.nbytes + y.nbytes
        target = cupy.empty_like(x)
        copy = milliseconds(cupy, lambda a=x, b=target: cupy.copyto(b, a), options.repeat)
        bandwidth = 2 * x.nbytes / copy
        torch = torch_task(x, y, dtype)
        torch_ms = milliseconds(cupy, torch, options.repeat) if torch else float("nan")
        for precision in ("float64", "float32"):
            own = milliseconds(
                cupy,
                lambda a=x, b=y, p=precision: row_divergences(a, b, precision=p),
                options.repeat,
            )
            error = largest_error(cupy, x, y, precision)
            print(
                f"| {dtype} | {precision} | {size / 1e9:.2f} | {own:.2f} | "
                f"{size / own / bandwidth:.1%} | {torch_ms / own:.2f} | {error:.1e} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
