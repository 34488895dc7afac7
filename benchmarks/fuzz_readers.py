"""Feed damaged files to every reader, for as long as asked; report what is not a clear error.

    python benchmarks/fuzz_readers.py --seconds 600
    python benchmarks/fuzz_readers.py --seconds 600 --engine atheris

Good files of every format are mutated: bits, bytes and slices, numbers of special value, JSON
tokens, slices of other formats. Each file is read, twice (stopping and skipping), summarised and
searched for findings. Fine is a result or an InputError. A process that dies, another exception,
code that is run or a name that is looked up, 20 seconds without an answer or 3 GiB of address
space beyond the start are failures; the file is kept in --keep.

With ``--engine atheris`` (``pip install atheris``) the mutations follow the branches that they
reach in trbounds, one reader after the other; see ``fuzz_coverage.py``.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from trbounds.errors import InputError
from trbounds.traces import TraceSummary, example_path, open_trace, write_parquet
from trbounds.traces.findings import findings

ROOT = Path(__file__).parents[1]
PER_PROCESS = 300
TIMEOUT = 20
MEMORY = 3 << 30

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
TOKENS = [
    b"null", b"NaN", b"-Infinity", b"1e999", b"-0.5", b"9" * 400, b"[", b"]", b"{", b"}", b"[[",
    b'""', b"true", b",", b":", b"\n", b"\r\n", b"\xff", b'"\\ud800"', b"[" * 3000, b"0.0", b"1",
]  # fmt: skip


EXECUTION = {
    "compile", "ctypes.dlopen", "exec", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
    "pickle.find_class", "socket.connect", "subprocess.Popen",
}  # fmt: skip
executed: list[str] = []


def watch_execution() -> None:
    """Note from here on, in ``executed``, whatever runs code that is not installed here."""
    installed = (str(ROOT), sysconfig.get_paths()["stdlib"], *sys.path[1:], "<frozen ")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # A module that is imported for the first time is no concern of the file's.
        place = str(getattr(arguments[0], "co_filename", arguments[-1])) if arguments else ""
        if event in EXECUTION and not place.startswith(installed):
            executed.append(f"{event} {arguments}"[:500])

    sys.addaudithook(watch)


def seeds(folder: Path, rows: int = 6, tokens: int = 40) -> dict[str, tuple[str, bytes]]:
    """Return good files: name to suffix and bytes."""
    path = ROOT / "tests" / "traces" / "conftest.py"
    spec = importlib.util.spec_from_file_location("torch_writer", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    batch = next(iter(open_trace(example_path())))
    starts = batch.offsets[:rows].tolist()
    out: dict[str, tuple[str, bytes]] = {}
    canonical, nemo, prime, samples = [], [], [], []
    for i, start in enumerate(starts):
        row = slice(start, min(start + tokens, int(batch.offsets[i + 1])))
        x, y = batch.rollout_logprobs[row].tolist(), batch.train_logprobs[row].tolist()
        n = len(x)
        canonical.append(
            {
                "rollout_logprobs": x,
                "train_logprobs": y,
                "reward": 0.5,
                "prompt_id": "p",
                "mask": [1] * n,
                "weight_version": [i] * n,
                "step": i,
                "finished": True,
            }
        )
        nemo.append(
            {
                "content": ["text"],
                "rewards": [0.5],
                "input_lengths": [n + 2],
                "token_ids": [[5, 6, *range(n), 0]],
                "token_loss_mask": [[0, 0, *[1] * n, 0]],
                "sample_loss_mask": [1.0],
                "advantages": [[0.5] * (n + 3)],
                "generation_logprobs": [[0, 0, *x, 0]],
                "prev_logprobs": [[0, -1, *y, 0]],
                "idx": i,
            }
        )
        prime.append(
            {
                "schema_version": 1,
                "step": 3,
                "rank": 0,
                "export_sequence_idx": i,
                "token_ids": [1, 2, *range(n)],
                "loss_mask": [False, False, *[True] * n],
                "advantages": [0.5] * (n + 2),
                "inference_logprobs": [0.0, 0.0, *x],
                "trainer_logprobs": [None, -1.0, *y],
            }
        )
        samples.append({"tokens": writer.Tensor(np.arange(n + 2)), "total_lengths": n + 2,
                        "response_lengths": n, "loss_masks": writer.Tensor(np.ones(n, np.int32)),
                        "rollout_log_probs": writer.Tensor(np.array(x, np.float32)),
                        "log_probs": y, "advantages": writer.Tensor(np.ones(1, np.float32),
                        shape=(n,), stride=(0,)), "rewards": 0.5})  # fmt: skip
    for name, records in (("canonical", canonical), ("nemo", nemo), ("prime", prime)):
        text = "".join(json.dumps(record) + "\n" for record in records).encode()
        out[name] = (".jsonl", text)
    out["gzip"] = (".jsonl.gz", gzip.compress(out["canonical"][1]))
    path = writer.save({"format_version": 2, "samples": samples, "rollout_id": 3}, folder / "3.pt")
    out["slime"] = (".pt", path.read_bytes())
    (folder / "small.jsonl").write_bytes(out["canonical"][1])
    write_parquet(open_trace(folder / "small.jsonl"), folder / "a.parquet")
    out["parquet"] = (".parquet", (folder / "a.parquet").read_bytes())
    summary = TraceSummary()
    for part in open_trace(folder / "small.jsonl"):
        summary = summary.merge(TraceSummary.of(part))
    summary.save(folder / "a.tbs")
    out["summary"] = (".tbs", (folder / "a.tbs").read_bytes())
    return out


def mutate(data: bytes, others: list[bytes], source: random.Random) -> bytes:
    """Damage a file in one to six places."""
    out = bytearray(data)
    # The headers and the directories of binary formats are at the ends.
    near_end = source.random() < 0.3
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        if not out:
            break
        at = source.randrange(len(out))
        if near_end:
            at = max(len(out) - 1 - source.randrange(min(len(out), 900)), 0)
        size = min(source.choice((1, 2, 4, 8, 100, 5000)), len(out) - at)
        kind = source.randrange(9)
        if kind == 0:
            out[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            out[at : at + size] = source.randbytes(size)
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = out[at : at + size] * source.choice((1, 2, 50))
        elif kind == 4:
            number = source.choice(NUMBERS)
            layout = source.choice(("<I", "<Q", ">I", "<H", "<B"))
            limit = 256 ** struct.calcsize(layout)
            out[at : at + struct.calcsize(layout)] = struct.pack(layout, number % limit)
        elif kind == 5:
            out[at : at + source.choice((0, 1, size))] = source.choice(TOKENS)
        elif kind == 6:
            other = source.choice(others)
            start = source.randrange(len(other))
            out[at : at + size] = other[start : start + size]
        elif kind == 7:
            del out[at:]
        else:
            other_at = source.randrange(len(out))
            out[at : at + size], out[other_at : other_at + size] = (
                out[other_at : other_at + size],
                out[at : at + size],
            )
    return bytes(out)


def mutate_member(data: bytes, others: list[bytes], source: random.Random) -> bytes:
    """Damage one member of a zip archive, under the right checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as good, zipfile.ZipFile(out, "w") as bad:
        members = good.namelist()
        chosen = source.choice((members[0], source.choice(members), members[-1]))
        for member in members:
            content = good.read(member)
            bad.writestr(member, mutate(content, others, source) if member == chosen else content)
    return out.getvalue()


def read(path: Path, outcomes: Counter[str], name: str, format: str | None = None) -> None:
    """Read one file in every way."""
    for on_error in ("fail", "skip"):
        summary = TraceSummary()
        try:
            if path.suffix == ".tbs":
                summary = TraceSummary.load(path)
                _ = summary.sequences
            else:
                for batch in open_trace(
                    path, format, on_error=on_error, on_skip=summary.record_skip
                ):
                    summary = summary.merge(TraceSummary.of(batch))
            findings(summary)
            outcomes[f"{name} read"] += 1
        except InputError:
            outcomes[f"{name} refused"] += 1
    if executed:
        raise AssertionError(f"the file made this process do: {executed}")


def work(seed: int, good: dict[str, tuple[str, bytes]], folder: Path) -> None:
    """Read PER_PROCESS damaged files; leave the one under way on disk."""
    watch_execution()
    source = random.Random(seed)
    outcomes: Counter[str] = Counter()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    others = [data for _, data in good.values()]
    for _ in range(PER_PROCESS):
        name = source.choice(sorted(good))
        suffix, data = good[name]
        path = folder / f"input{suffix}"
        inside = data.startswith(b"PK") and source.random() < 0.7
        path.write_bytes((mutate_member if inside else mutate)(data, others, source))
        (folder / "current").write_text(path.name)
        signal.alarm(TIMEOUT)
        try:
            read(path, outcomes, name)
        except BaseException:
            (folder / "failure").write_text(traceback.format_exc())
            os._exit(3)
        signal.alarm(0)
        path.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (folder / "outcomes").write_text(json.dumps({"outcomes": outcomes, "peak": peak}))
    os._exit(0)


def fuzz_at_random(options: argparse.Namespace) -> int:
    """Mutate blindly, in processes of PER_PROCESS files; return the number of failures."""
    total: Counter[str] = Counter()
    failures, seed, peak = 0, options.seed, 0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = seeds(folder)
        for suffix, data in good.values():
            path = folder / f"good{suffix}"
            path.write_bytes(data)
            read(path, Counter(), "")
        while time.monotonic() < end:
            seed += 1
            (folder / "outcomes").unlink(missing_ok=True)
            (folder / "failure").unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                work(seed, good, folder)
            _, status = os.waitpid(child, 0)
            if status == 0:
                found = json.loads((folder / "outcomes").read_text())
                total.update(found["outcomes"])
                peak = max(peak, found["peak"])
                continue
            failures += 1
            current = folder / (folder / "current").read_text()
            kept = options.keep / f"{seed}{''.join(current.suffixes)}"
            kept.write_bytes(current.read_bytes())
            failure = folder / "failure"
            detail = failure.read_text() if failure.exists() else f"wait status {status}"
            sys.stdout.write(f"FAILED, seed {seed}, {kept}\n{detail}\n")
    for key in sorted(total):
        sys.stdout.write(f"{key:20} {total[key]:8}\n")
    sys.stdout.write(f"{total.total()} reads, {failures} failures, peak {peak >> 10} MiB\n")
    return failures


def fuzz_by_coverage(options: argparse.Namespace) -> int:
    """Fuzz each target for its share of the time; return the number of failures."""
    if importlib.util.find_spec("atheris") is None:
        sys.exit("--engine atheris needs atheris: pip install atheris")
    worker = [sys.executable, str(Path(__file__).with_name("fuzz_coverage.py"))]
    targets = subprocess.run([*worker, "--list"], capture_output=True, text=True, check=True)
    names = targets.stdout.split()
    failures = executions = peak = 0
    columns = ("executions", "read", "refused", "coverage", "features", "corpus", "failures")
    sys.stdout.write(f"{'target':16}" + "".join(f"{name:>12}" for name in columns) + "\n")
    for name in names:
        row: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            end = time.monotonic() + options.seconds / len(names)
            while (left := int(end - time.monotonic())) > 0:
                given = [name, folder, str(left), str(options.seed + row["failures"])]
                done = subprocess.run(
                    [*worker, *given, "--keep", str(options.keep)], capture_output=True, text=True
                )
                found = json.loads((Path(folder) / "outcomes").read_text())
                peak = max(peak, found.pop("peak"))
                row.update(found)
                for counters in re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)[-1:]:
                    row |= Counter(dict(zip(columns[3:6], map(int, counters), strict=True)))
                if done.returncode:
                    row["failures"] += 1
                    detail = done.stdout[-3000:] + done.stderr[-3000:]
                    sys.stdout.write(f"FAILED, {name}\n{detail}\n")
        sys.stdout.write(f"{name:16}" + "".join(f"{row[key]:12}" for key in columns) + "\n")
        failures, executions = failures + row["failures"], executions + row["executions"]
    sys.stdout.write(f"{executions} files, {failures} failures, peak {peak >> 10} MiB\n")
    return failures


def main() -> int:
    """Run for the time asked; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_failures")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    engine = fuzz_by_coverage if options.engine == "atheris" else fuzz_at_random
    return int(engine(options) > 0)


if __name__ == "__main__":
    sys.exit(main())
