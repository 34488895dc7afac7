"""Speed of the bounds: a grid against a cumulative sum, and the command line against sympy.

Run with ``make bench``. Everything is a ratio, or a time per point, measured in this run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from trbounds.bounds import get_bound
from trbounds.profile import DivergenceProfile


def seconds(run: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def cumulative(T: np.ndarray, kl_max: np.ndarray) -> np.ndarray:
    """The peer: one cumulative sum over positions per divergence, read off at every horizon."""
    steps = np.arange(T.max())
    out = np.empty((T.size, kl_max.size))
    for j, kl in enumerate(kl_max):
        running = np.cumsum(np.minimum(1.0, np.sqrt(steps * kl / 2)))
        out[:, j] = 4 * min(1.0, np.sqrt(kl / 2)) * running[T - 1]
    return out


def grid() -> None:
    bound = get_bound("pinsker_marginal")
    T = np.unique(np.geomspace(1, 1e6, 1200).astype(np.int64))
    T = np.concatenate([T, np.arange(1, 1001 - T.size)]) if T.size < 1000 else T[-1000:]
    kl_max = np.geomspace(1e-10, 10, 1000)

    def ours() -> np.ndarray:
        return bound.evaluate(DivergenceProfile(T=T[:, None], kl_max=kl_max[None, :]))

    few = kl_max[:: kl_max.size // 10][:10]
    fast, slow = seconds(ours), seconds(lambda: cumulative(T, few), 3) * kl_max.size / few.size
    ours_few = bound.evaluate(DivergenceProfile(T=T[:, None], kl_max=few[None, :]))
    error = np.max(np.abs(ours_few / np.maximum(cumulative(T, few), 1e-300) - 1)[T > 1])
    points = T.size * kl_max.size
    print(f"pinsker_marginal, {T.size} T (to {T.max():,}) x {kl_max.size} kl_max")
    print(f"  ours                      {fast / points * 1e9:8.1f} ns per point   (goal <= 50)")
    print(f"  cumulative sum per kl_max {slow / points * 1e9:8.1f} ns per point, from 10 of them")
    print(f"  ratio                     {slow / fast:8.0f} x              (goal >= 100)")
    print(f"  largest relative difference {error:.1e} (rounding of the cumulative sum)")


def start_up() -> None:
    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    sympy = command("-c", "import sympy")
    help_page = command("-c", "from trbounds_cli import main; main(['--help'])")
    ratios = [seconds(help_page, 1) / seconds(sympy, 1) for _ in range(9)]
    print(f"trbounds --help / import sympy: {median(ratios):.2f} (goal <= 0.25)")


if __name__ == "__main__":
    grid()
    start_up()
