"""Speed, memory and accuracy of the summary of traces, as ratios within one run.

    python benchmarks/bench_traces.py [--full] [--repeat 5]

Each round times every contender once, one after the other, so that load from elsewhere falls on
all of them; what is printed is the median over rounds of the ratio within a round. The traces are
generated: 2,000 sequences and 4 million tokens, with ``--full`` 20,000 and 40 million.

The floor is reading both log-probabilities once (numpy, one thread). The peer is what verl computes
of a batch, written from its published formulas in torch: the metrics of
``compute_offpolicy_metrics`` and one rejection rule with its mask, on batches of 256 sequences
padded to 8192 tokens or, sorted by length, to the longest. Against it stand the same metrics and
mask by our functions; what ``trbounds metrics --as verl`` computes, with the importance
weights and standard errors; the sums of every token term by sequence and by position; and the
summary, which holds more of each token (histograms, extremes, moments) than any of these. torch,
duckdb and numba are measured where they can be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from trbounds.metrics import framework_metrics, verl, verl_rejection
from trbounds.metrics.sums import sum_sequences
from trbounds.traces import TraceBatch, TraceSummary, summarize, write_parquet
from trbounds.traces.position_sums import PositionSums
from trbounds.traces.sequence_table import SequenceTable
from trbounds.traces.token_terms import TokenTerms

Task = Callable[[], object]
COLUMNS = ["rollout_logprobs", "train_logprobs"]
PADDED = 8192


def make_batch(n: int, mean_length: int, seed: int = 0) -> TraceBatch:
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.gamma(2.0, mean_length / 2, n).astype(np.int64) + 1, PADDED)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rollout = -rng.exponential(0.7, offsets[-1])
    train = np.minimum(rollout + 0.02 * rng.standard_normal(rollout.size), 0.0)
    # As logged: float32.
    return TraceBatch(
        offsets=offsets,
        rollout_logprobs=rollout.astype(np.float32).astype(np.float64),
        train_logprobs=train.astype(np.float32).astype(np.float64),
        reward=rng.random(n),
    )


def measure(
    tasks: dict[str, Task], repeat: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeat + 1):
        for name, task in tasks.items():
            start = clock()
            task()
            if round_number:  # the first round compiles and warms up
                times[name].append(clock() - start)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def print_ratios(title: str, tasks: dict[str, Task], n_tokens: int, repeat: int) -> None:
    """The first task is the reference. Processor time says what a busy machine hides."""
    times = measure(tasks, repeat)
    busy = measure(tasks, repeat, time.process_time)
    reference = next(iter(tasks))
    columns = ["ns per token", f"/ {reference}", "processor ns", f"/ {reference}"]
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|---|---|---|---|")
    for name in tasks:
        cells = []
        for found in (times, busy):
            nanoseconds = statistics.median(found[name]) / n_tokens * 1e9
            cells += [f"{nanoseconds:.1f}", f"{ratio(found, name, reference):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def kernels() -> tuple[str, ...]:
    return ("numpy", "numba") if find_spec("numba") else ("numpy",)


def sum_tokens(batch: TraceBatch) -> None:
    """Sum by sequence and by position alone, with numpy."""
    for block in batch.slices(65_536):
        terms = TokenTerms.of(block)
        SequenceTable.of(terms)
        PositionSums().add(terms)


def in_memory(batch: TraceBatch, repeat: int) -> None:
    def floor() -> None:
        batch.rollout_logprobs.sum()
        batch.train_logprobs.sum()

    tasks: dict[str, Task] = {"floor": floor}
    tasks["numpy, sums by sequence and by position alone"] = lambda: sum_tokens(batch)
    for kernel in kernels():
        tasks[f"trbounds {kernel}"] = lambda k=kernel: TraceSummary.of(batch, kernel=k)
    print_ratios("Token pass in memory (numba: all cores)", tasks, batch.n_tokens, repeat)


def short_sequences(batch: TraceBatch, repeat: int) -> None:
    short = make_batch(batch.n_tokens // 100, 100, seed=1)
    rows = []
    for kernel in kernels():
        times = measure(
            {
                "long": lambda k=kernel: TraceSummary.of(batch, kernel=k),
                "short": lambda k=kernel: TraceSummary.of(short, kernel=k),
            },
            repeat,
        )
        rows.append((kernel, ratio(times, "short", "long") * batch.n_tokens / short.n_tokens))
    print("\nSequences of 100 tokens against 2,000, per token\n\n| | ratio |\n|---|---|")
    for kernel, value in rows:
        print(f"| {kernel} | {value:.2f} |")


# ---- the peer


def verl_metrics(old, rollout, mask):  # type: ignore[no-untyped-def]
    """``compute_offpolicy_metrics``, and rejection by ``seq_max_k2`` with its metrics.

    The work is verl's: log-probabilities in float32, a mask of 64-bit integers, masked means that
    replace what is masked before they multiply by the mask, all three estimators of the rejection.
    """
    import torch

    chosen = mask.bool()

    def masked_mean(values, axis=None):  # type: ignore[no-untyped-def]
        total = (torch.where(mask.bool(), values, 0.0) * mask).sum(axis)
        return total / (mask.sum(axis) + 1e-8)

    def off_policy() -> list[float]:
        mean_old, mean_rollout = masked_mean(old, -1), masked_mean(rollout, -1)
        log_ratio = old - rollout
        difference = mean_rollout - mean_old
        rho = torch.exp(torch.clamp(log_ratio, -20.0, 20.0))
        total = (torch.where(mask.bool(), log_ratio, 0.0) * mask).sum(-1)
        found = [
            torch.exp(-mean_old).mean(),
            -mean_old.mean(),
            masked_mean(rollout - old),
            masked_mean(torch.exp(log_ratio) - log_ratio - 1),
            torch.exp(-mean_rollout).mean(),
            -mean_rollout.mean(),
            difference.mean(),
            difference.abs().mean(),
            difference.max(),
            difference.min(),
            torch.exp(difference).mean(),
            masked_mean(rho.square()) - 1.0,
            torch.exp(2.0 * torch.clamp(total, -20.0, 20.0)).mean() - 1.0,
        ]
        return [float(metric) for metric in found]

    def reject(limit: float):  # type: ignore[no-untyped-def]
        x = torch.clamp(old - rollout, -20.0, 20.0)
        _k1, k2, _k3 = -x, 0.5 * x**2, torch.exp(x) - 1.0 - x
        largest = k2.masked_fill(~chosen, -torch.inf).max(-1).values
        keep = (largest <= limit).unsqueeze(-1).expand_as(chosen)
        kept = torch.ones_like(mask, dtype=old.dtype) * keep.to(old.dtype)
        statistic = largest.unsqueeze(-1).expand_as(mask)
        limited = statistic.clamp(0.0, limit)
        variance = masked_mean(limited.square()) - masked_mean(limited).square()
        found = [
            masked_mean(statistic),
            largest.max(),
            largest.min(),
            (largest > limit).float().mean(),
            variance.clamp(min=0.0).sqrt(),
            largest.mean(),
            largest.std(),
            masked_mean(1 - keep.to(old.dtype)),
            1.0 - (~(~keep & chosen)).all(-1).float().mean(),
            masked_mean(1 - kept),
            (~((kept > 0.5) & chosen) & chosen).any(-1).float().mean(),
        ]
        return [float(metric) for metric in found], (mask * kept).to(mask.dtype)

    metrics, kept = reject(0.003)
    return off_policy() + metrics, kept


def padded(batch: TraceBatch, width: int):  # type: ignore[no-untyped-def]
    import torch

    place = np.arange(width)[None, :] < batch.lengths[:, None]
    out = []
    for name in COLUMNS:
        values = np.zeros(place.shape, dtype=np.float32)
        values[place] = getattr(batch, name)
        out.append(torch.from_numpy(values))
    return (*out[::-1], torch.from_numpy(place.astype(np.int64)))


def own_metrics(batch: TraceBatch, kernel: str) -> list[tuple[dict[str, float], np.ndarray]]:
    """What ``verl_metrics`` returns of each step, by what ``framework_metrics`` is made of."""
    weights, rules = verl.make_weights(2.0, None, "none"), verl_rejection.parse("seq_max_k2", 0.003)
    columns = (*verl.COLUMNS, *verl_rejection.columns(rules))
    sums = sum_sequences([batch], columns, weights, kernel=kernel)
    out = []
    for _, part in sums.by_step():
        found = verl.metrics(part, weights, "none") | verl_rejection.metrics(part, rules)
        kept = verl_rejection.kept_tokens(part, rules) > 0
        out.append((found, np.repeat(kept, part.length)))
    return out


def peer(batch: TraceBatch, repeat: int) -> None:
    """Steps of 256 sequences: one alone, as in a training loop, and many, as in a log."""
    if not find_spec("torch"):
        print("\nThe peer was not measured: torch cannot be imported.")
        return
    ranks = np.argsort(np.argsort(batch.lengths, kind="stable"), kind="stable")
    places = {"padded to 8192": np.arange(batch.n_sequences), "sorted by length": ranks}
    for many in (1, min(batch.n_sequences // 256, 16)):
        for name, place in places.items():
            step = (place - (batch.n_sequences // 2 - 128 * many)) // 256
            own = replace(batch, step=step).select((step >= 0) & (step < many))
            peer_of(own, f"{many} x 256 sequences, {name}", repeat)


def peer_of(own: TraceBatch, title: str, repeat: int) -> None:
    steps = [own.select(own.step == step) for step in np.unique(own.step)]
    widths = [PADDED if "padded" in title else int(step.lengths.max()) for step in steps]
    tensors = [padded(step, width) for step, width in zip(steps, widths, strict=True)]
    tasks: dict[str, Task] = {"verl's formulas": lambda: [verl_metrics(*t) for t in tensors]}
    tasks["numpy, sums by sequence and by position alone"] = lambda: sum_tokens(own)
    # numba takes float32 as it is, as the peer has it; numpy would convert it first.
    logged = replace(own, **{name: getattr(own, name).astype(np.float32) for name in COLUMNS})
    for kernel in kernels():
        given = logged if kernel == "numba" else own
        tasks[f"the same metrics, {kernel}"] = lambda k=kernel, b=given: own_metrics(b, k)
        tasks[f"trbounds metrics, {kernel}"] = lambda k=kernel, b=given: framework_metrics(
            [b], "verl", by_step=True, kernel=k
        )
        tasks[f"trbounds summary, {kernel}"] = lambda k=kernel: TraceSummary.of(own, kernel=k)
    print_ratios(title, tasks, own.n_tokens, repeat)


# ---- files


def duckdb_query(file: str) -> Task:
    """The same numbers, where SQL can say them: sums per sequence and means by position."""
    import duckdb

    tokens = f"""
        WITH tokens AS (
            SELECT seq, unnest(rollout_logprobs) AS a, unnest(train_logprobs) AS b,
                   generate_subscripts(rollout_logprobs, 1) AS t
            FROM (SELECT row_number() OVER () AS seq, * FROM '{file}')),
        terms AS (SELECT seq, t, a, b - a AS x, exp(b - a) - 1 AS e FROM tokens)
        SELECT {{key}}, sum(x), sum(e), sum(abs(e)), sum(e * e), sum(e - x), max(x * x) / 2,
               sum(a), min(e - x) FROM terms GROUP BY {{key}}"""

    def run() -> None:
        with duckdb.connect(config={"threads": 2}) as connection:
            connection.sql(tokens.format(key="seq")).fetchnumpy()
            connection.sql(tokens.format(key="t")).fetchnumpy()

    return run


def parquet(batch: TraceBatch, folder: Path, repeat: int) -> None:
    file = str(folder / "trace.parquet")
    write_parquet(batch.slices(1_000_000), file)

    def decode() -> None:
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                opened.read_row_group(group, columns=[*COLUMNS, "reward"], use_threads=False)

    tasks: dict[str, Task] = {"pyarrow row groups": decode}
    for kernel in kernels():
        tasks[f"trbounds {kernel}"] = lambda k=kernel: summarize(file, kernel=k)
    if find_spec("duckdb"):
        tasks["duckdb, 2 threads"] = duckdb_query(file)
    print_ratios("From Parquet, end to end", tasks, batch.n_tokens, repeat)
    print()
    if Path("/proc/self/status").exists():
        print_memory(file, batch)
        full = str(folder / "full.parquet")
        write_parquet(with_divergences(batch).slices(1_000_000), full)
        print("With divergences and entropy. ", end="")
        print_memory(full, batch)


def with_divergences(batch: TraceBatch) -> TraceBatch:
    rng = np.random.default_rng(3)
    kl = rng.exponential(2e-4, batch.n_tokens)
    return replace(
        batch, kl=kl, tv=0.7 * np.sqrt(kl / 2), chi2=2.1 * kl, entropy=rng.random(batch.n_tokens)
    )


def print_memory(file: str, batch: TraceBatch) -> None:
    # The peak since the process started its program; what fork left behind does not count.
    code = (
        "import sys; import pyarrow.parquet; from trbounds.traces import summarize, example_path\n"
        "def peak(): return next(int(line.split()[1]) * 1024 for line in "
        "open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "summarize(example_path(), kernel=sys.argv[2])\n"
        "before = peak(); summarize(sys.argv[1], kernel=sys.argv[2]); print(peak() - before)"
    )
    limit = (64 << 20) + 128 * batch.n_sequences
    print(f"Memory added, of {limit / 1e6:.0f} MB allowed:", end="")
    for kernel in kernels():
        words = [sys.executable, "-c", code, file, kernel]
        grown = int(subprocess.run(words, capture_output=True, check=True).stdout)
        print(f" {kernel} {grown / 1e6:.0f} MB", end="")
    print()


def text(batch: TraceBatch, folder: Path, repeat: int) -> None:
    file = folder / "trace.jsonl"
    part = next(batch.slices(500_000))
    with file.open("w") as out:
        for start, stop in zip(part.offsets[:-1], part.offsets[1:], strict=True):
            row = {name: getattr(part, name)[start:stop].tolist() for name in COLUMNS}
            out.write(json.dumps(row) + "\n")

    def parse_with(loads: Callable[[bytes], object]) -> Task:
        return lambda: [loads(line) for line in file.read_bytes().splitlines()]

    tasks: dict[str, Task] = {"json": parse_with(json.loads)}
    if find_spec("orjson"):
        import orjson

        tasks["orjson"] = parse_with(orjson.loads)
    tasks["trbounds"] = lambda: summarize(file)
    print_ratios("From JSON Lines, parsing alone and end to end", tasks, part.n_tokens, repeat)


def accuracy() -> None:
    batch = make_batch(200, 2000, seed=2)
    x = (batch.train_logprobs - batch.rollout_logprobs).astype(np.longdouble)
    e = np.expm1(x)
    edges = list(zip(batch.offsets[:-1], batch.offsets[1:], strict=True))
    position = np.arange(batch.n_tokens) - np.repeat(batch.offsets[:-1], batch.lengths)
    print("\nLargest error against long double, over the sum of absolute values:\n")
    print("| | per sequence | per position |\n|---|---|---|")
    for kernel in kernels():
        summary = TraceSummary.of(batch, kernel=kernel)
        worst = [0.0, 0.0]
        for name, values in {"ratio": e, "abs_ratio": abs(e), "square": e * e}.items():
            exact = np.array([values[a:b].sum() for a, b in edges])
            size = np.array([abs(values[a:b]).sum() for a, b in edges])
            error = abs(summary.sequences[f"{name}_sum"] - exact) / size
            worst[0] = max(worst[0], float(error.max()))
            exact, size = np.zeros((2, summary.T), dtype=np.longdouble)
            np.add.at(exact, position, values)
            np.add.at(size, position, abs(values))
            error = abs(summary.positions.mean(name) * batch.n_sequences - exact) / size
            worst[1] = max(worst[1], float(error.max()))
        print(f"| {kernel} | {worst[0]:.1e} | {worst[1]:.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="20,000 sequences, 40M tokens")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    batch = make_batch(20_000 if options.full else 2_000, 2_000)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{batch.n_sequences} sequences, {batch.n_tokens} tokens, longest {batch.lengths.max()}")
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start")
    in_memory(batch, options.repeat)
    short_sequences(batch, options.repeat)
    peer(batch, options.repeat)
    with tempfile.TemporaryDirectory() as folder:
        parquet(batch, Path(folder), options.repeat)
        text(batch, Path(folder), min(options.repeat, 3))
    accuracy()


if __name__ == "__main__":
    main()
