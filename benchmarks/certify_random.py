"""Exact errors of many rational pairs against certified values of every bound.

    python benchmarks/certify_random.py --random 100000 --adversarial 1000 --seed 0 \
        benchmarks/results/certification.json

Random pairs are of every kind of the oracle, with random, binary or worst rewards. Adversarial
pairs lie around the tightest instances known for each bound. Error and profile are exact; the
bound is the upper end of a rigorous enclosure. One violation refutes a bound: exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trbounds.bounds import all_bounds
from trbounds.certified.check import certify_pair
from trbounds.oracle import KINDS, TabularPair, random_rational_pair
from trbounds.oracle.rewards import variance_worst_reward, worst_reward
from trbounds.oracle.tightness import best_known

SHAPES = ((1, 2), (1, 3), (2, 2), (2, 3), (3, 2))
# Instances with more responses take seconds in fractions.
MOST_RESPONSES = 64
DENOMINATOR = 10**6


def random_instance(seed: int, number: int) -> tuple[TabularPair, dict[str, Any]]:
    rng = np.random.default_rng([seed, number])
    T, A = SHAPES[rng.integers(len(SHAPES))]
    pair = random_rational_pair(
        rng,
        T,
        A,
        prompts=int(rng.choice([1, 1, 2])),
        eos=bool(rng.integers(2)),
        kind=KINDS[rng.integers(len(KINDS))],
        closeness=float(10.0 ** rng.uniform(-3, 0)),
        reward=("uniform", "binary", "worst")[rng.integers(3)],
        denominator=int(rng.choice([100, 10_000])),
    )
    return pair, options(rng)


def adversarial_instances(seed: int, count: int) -> Iterator[tuple[TabularPair, dict[str, Any]]]:
    """Take turns among the known instances, moving every probability a little."""
    rng = np.random.default_rng([seed, 1 << 40])
    known = [r for r in best_known() if r.pair.A**r.pair.T <= MOST_RESPONSES]
    for number in range(count):
        result = known[number % len(known)]
        size = 10.0 ** rng.uniform(-6, -0.5)
        rollout = tuple(_moved(table, size, rng) for table in result.pair.rollout)
        train = tuple(_moved(table, size, rng) for table in result.pair.train)
        pair = TabularPair(rollout, train, np.zeros(result.pair.reward.shape), eos=result.pair.eos)
        find = variance_worst_reward if rng.random() < 0.3 else worst_reward
        yield pair.with_reward(find(pair)), options(rng)


def _moved(table: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    counts = table * np.exp(size * rng.standard_normal(table.shape)) * DENOMINATOR
    whole = np.where(table > 0, np.maximum(np.round(counts), 1), 0)
    fractions = np.frompyfunc(Fraction, 1, 1)(whole)
    return fractions / fractions.sum(axis=-1, keepdims=True)


def options(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "any_reward": bool(rng.integers(2)),
        "conversion": ("pinsker", "sharp")[rng.integers(2)],
        "budget": Fraction(int(rng.integers(1, 1000)), 10 ** int(rng.integers(3, 6))),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--random", type=int, default=100_000)
    parser.add_argument("--adversarial", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first random instance")
    chosen = parser.parse_args()
    bounds = list(all_bounds().values())
    found = {b.key: {"compared": 0, "violations": 0, "largest_ratio": 0.0} for b in bounds}
    start = time.time()

    def compare(name: str, pair: TabularPair, how: dict[str, Any]) -> None:
        for comparison in certify_pair(pair, bounds, **how):
            entry = found[comparison.key]
            entry["compared"] += 1
            entry["largest_ratio"] = max(entry["largest_ratio"], comparison.ratio)
            if not comparison.holds:
                entry["violations"] += 1
                print(f"VIOLATION by {name}, {how}: {comparison}", flush=True)

    for number in range(chosen.first, chosen.first + chosen.random):
        compare(f"random instance {number}", *random_instance(chosen.seed, number))
        if number % 5000 == 0:
            print(f"{number} random instances, {time.time() - start:.0f} s", flush=True)
    for number, (pair, how) in enumerate(adversarial_instances(chosen.seed, chosen.adversarial)):
        compare(f"adversarial instance {number}", pair, how)
    violations = sum(entry["violations"] for entry in found.values())
    document = {
        "what": "exact |Error| of rational pairs against the upper end of certified bounds",
        "seed": chosen.seed,
        "random": chosen.random,
        "first_random": chosen.first,
        "adversarial": chosen.adversarial,
        "violations": violations,
        "python": platform.python_version(),
        "python_flint": version("python-flint"),
        "bounds": found,
    }
    temporary = chosen.file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, chosen.file)
    print(f"{violations} violations")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
