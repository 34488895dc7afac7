"""Speed, memory and accuracy of the row divergences on CPU, as ratios within one run.

    python benchmarks/bench_divergences.py [--rows 64] [--repeat 9] [--vocabulary 151936]

Each round times every contender once, one after the other, so that load from elsewhere falls on
all of them; what is printed is the median over rounds of the ratio within a round. The floor is
reading each logit once (numpy's maximum of both arrays), on one thread, which the numpy kernel
uses, and on all, which numba and torch use. torch is measured where it can be imported. scipy and
torch take log_softmax and rel_entr or kl_div, or the three sums; the kernels always compute all of
`RowDivergences`.

The last table says what storing logits in half precision does to the divergences.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import ml_dtypes
import numpy as np
from scipy.special import log_softmax, rel_entr

from trbounds.logits import row_divergences

Task = Callable[[], object]


def make_logits(rows: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = 3.0 * rng.standard_normal((rows, vocabulary), dtype=np.float32)
    return x, x + np.float32(0.01) * rng.standard_normal(x.shape, dtype=np.float32)


def with_scipy(x: np.ndarray, y: np.ndarray, dtype: type) -> Task:
    """The KL alone, on the whole batch."""

    def run() -> None:
        log_mu = log_softmax(x.astype(dtype, copy=False), axis=1)
        log_pi = log_softmax(y.astype(dtype, copy=False), axis=1)
        rel_entr(np.exp(log_mu), np.exp(log_pi)).sum(axis=1)

    return run


def with_torch(x: np.ndarray, y: np.ndarray, dtype: str) -> Task:
    """The same three sums, a few rows at a time: faster than the whole batch at once."""
    import torch

    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def run() -> None:
        with torch.no_grad():
            for i in range(0, a.shape[0], 8):
                log_mu = torch.log_softmax(a[i : i + 8].to(getattr(torch, dtype)), -1)
                d = torch.log_softmax(b[i : i + 8].to(getattr(torch, dtype)), -1) - log_mu
                mu, e = log_mu.exp(), torch.expm1(d)
                (mu * (e - d)).sum(-1)
                (mu * e.abs()).sum(-1)
                (mu * e * e).sum(-1)

    return run


def with_torch_kl(x: np.ndarray, y: np.ndarray) -> Task:
    """The KL alone in float32 on the whole batch: the usual way, and the least accurate."""
    import torch

    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def run() -> None:
        with torch.no_grad():
            log_mu, log_pi = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
            torch.nn.functional.kl_div(log_pi, log_mu, reduction="none", log_target=True).sum(-1)

    return run


def floors(x: np.ndarray, y: np.ndarray) -> dict[str, Task]:
    pool = ThreadPoolExecutor(threads())
    flat = [a.view(np.int16) if a.itemsize == 2 else a for a in (x, y)]
    parts = [part for a in flat for part in np.array_split(a, threads())]
    return {
        "floor, 1 thread": lambda: [a.max() for a in flat],
        f"floor, {threads()} threads": lambda: list(pool.map(np.max, parts)),
    }


def threads() -> int:
    return len(os.sched_getaffinity(0))


def contenders(x: np.ndarray, y: np.ndarray) -> dict[str, Task]:
    tasks = floors(x, y)
    kernels = ("numpy", "numba") if find_spec("numba") else ("numpy",)
    for kernel in kernels:
        for precision in ("float64", "float32"):
            tasks[f"trbounds {kernel} {precision}"] = lambda k=kernel, p=precision: row_divergences(
                x, y, kernel=k, precision=p
            )
    if x.dtype == np.float32:
        tasks["scipy float64, KL only"] = with_scipy(x, y, np.float64)
        tasks["scipy float32, KL only"] = with_scipy(x, y, np.float32)
        if find_spec("torch"):
            tasks["torch float64, kl tv chi2"] = with_torch(x, y, "float64")
            tasks["torch float32, kl tv chi2"] = with_torch(x, y, "float32")
            tasks["torch float32, KL only"] = with_torch_kl(x, y)
    return tasks


def measure(tasks: dict[str, Task], repeat: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeat + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if round_number:  # the first round compiles and warms up
                times[name].append(time.perf_counter() - start)
    return times


def print_speed(x: np.ndarray, y: np.ndarray, repeat: int) -> None:
    times = measure(contenders(x, y), repeat)
    references = [name for name in times if name.startswith(("floor", "scipy", "torch"))]
    print(f"\n{x.dtype.name}, {x.shape[0]} rows of {x.shape[1]}, {threads()} threads usable")
    print("Time, and its ratio to each of the references:\n")
    print("| | ns per logit pair | " + " | ".join(f"/ {r}" for r in references) + " |")
    print("|---|---|" + "---|" * len(references))
    for name, own in times.items():
        ratios = (
            statistics.median(a / b for a, b in zip(own, times[r], strict=True)) for r in references
        )
        cells = " | ".join(f"{ratio:.3g}" for ratio in ratios)
        print(f"| {name} | {statistics.median(own) / x.size * 1e9:.2f} | {cells} |")


def print_stored_precision(vocabulary: int) -> None:
    """The factor by which rounding both policies' logits multiplies the measured divergence."""
    print("\n| noise on the logits | true KL | KL, bfloat16 / true | KL, float16 / true |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(1)
    x = 3.0 * rng.standard_normal((4, vocabulary)).astype(np.float32)
    for noise in (0.1, 0.03, 0.01, 0.003, 0.001):
        y = (x + noise * rng.standard_normal(x.shape)).astype(np.float32)
        true = row_divergences(x, y).kl.mean()
        stored = [
            row_divergences(x.astype(t), y.astype(t)).kl.mean() / true
            for t in (ml_dtypes.bfloat16, np.float16)
        ]
        print(f"| {noise} | {true:.3g} | {stored[0]:.3g} | {stored[1]:.3g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    options = parser.parse_args()
    x, y = make_logits(options.rows, options.vocabulary)
    row_divergences(x[:2], y[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row_divergences(x, y)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (after - before) / 1e3
    print(f"growth of peak memory over {x.nbytes * 2 / 1e6:.0f} MB of logits: {grown:.1f} MB")
    print_speed(x, y, options.repeat)
    print_speed(x.astype(ml_dtypes.bfloat16), y.astype(ml_dtypes.bfloat16), options.repeat)
    print_stored_precision(options.vocabulary)


if __name__ == "__main__":
    main()
