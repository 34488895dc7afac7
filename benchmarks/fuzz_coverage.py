"""Fuzz one reader by coverage, with atheris; ``fuzz_readers.py --engine atheris`` runs them all.

    python benchmarks/fuzz_coverage.py --list
    python benchmarks/fuzz_coverage.py slime CORPUS SECONDS SEED

trbounds is instrumented, so that files that reach new branches are
kept and mutated further. Archives are damaged as they are, and inside: there the bytes are one
member (the pickle of a ``.pt``; the JSON or, chosen by the first byte, an array of a ``.tbs``),
which gets the right checksum. The format is given to the reader, so that no time goes into
detecting it. Failures are as in ``fuzz_readers.py``.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import atheris

with atheris.instrument_imports(include=["trbounds"], enable_loader_override=False):
    import fuzz_readers

    from trbounds.traces.reader import find_readers

    find_readers()

ROWS, TOKENS = 2, 5


class Target(NamedTuple):
    """A reader, good inputs for it, and how an input becomes a file."""

    suffix: str
    format: str | None
    inputs: tuple[bytes, ...]
    to_file: Callable[[bytes], bytes] = bytes


def replaced(archive: bytes, member: str, content: bytes) -> bytes:
    """Return a zip archive with another content of a member."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as good, zipfile.ZipFile(out, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, content if name == member else good.read(name))
    return out.getvalue()


def targets(folder: Path) -> dict[str, Target]:
    """Return every target by name."""
    import pyarrow as pa

    good = {key: data for key, (_, data) in fuzz_readers.seeds(folder, ROWS, TOKENS).items()}
    pt, tbs = good["slime"], good["summary"]
    with zipfile.ZipFile(io.BytesIO(pt)) as archive:
        pickle = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        pickled = archive.read(pickle)
    with zipfile.ZipFile(io.BytesIO(tbs)) as archive:
        document, *arrays = archive.namelist()
        written = archive.read(document)
        parts = tuple(bytes([i]) + archive.read(name) for i, name in enumerate(arrays))

    def with_array(data: bytes) -> bytes:
        which, content = (data[0], data[1:]) if data else (0, b"")
        return replaced(tbs, arrays[which % len(arrays)], content)

    zstd = pa.compress(good["canonical"], "zstd", asbytes=True)
    return {
        "canonical": Target(".jsonl", "canonical-jsonl", (good["canonical"],)),
        "compressed": Target(".jsonl.gz", "canonical-jsonl", (good["gzip"], zstd)),
        "nemo-rl": Target(".jsonl", "nemo-rl", (good["nemo"],)),
        "prime-rl": Target(".jsonl", "prime-rl", (good["prime"],)),
        "parquet": Target(".parquet", "canonical-parquet", (good["parquet"],)),
        "slime": Target(".pt", "slime", (pt,)),
        "slime-pickle": Target(".pt", "slime", (pickled,), lambda data: replaced(pt, pickle, data)),
        "summary": Target(".tbs", None, (tbs,)),
        "summary-json": Target(
            ".tbs", None, (written,), lambda data: replaced(tbs, document, data)
        ),
        "summary-array": Target(".tbs", None, parts, with_array),
    }


def dictionary(inputs: Iterable[bytes]) -> str:
    """Return tokens for the mutator, as libFuzzer reads them: JSON's, and the names of fields."""
    tokens = {token for token in fuzz_readers.TOKENS if len(token) < 20}
    for data in inputs:
        for word in data.replace(b"'", b'"').split(b'"')[1::2]:
            if 1 < len(word) < 30:
                tokens.add(word)
    lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in sorted(tokens))
    return "".join(f'"{line}"\n' for line in lines)


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("name", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("seconds", nargs="?", type=int)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        known = targets(Path(scratch))
    if options.list:
        sys.stdout.write("\n".join(known) + "\n")
        return
    fuzz(known[options.name], options)


def fuzz(target: Target, options: argparse.Namespace) -> None:
    """Run libFuzzer, which ends this process; leave the counts in ``folder/outcomes``."""
    folder = options.folder
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for i, data in enumerate(target.inputs):
        (corpus / f"good-{i}").write_bytes(data)
    (folder / "dictionary").write_text(dictionary(target.inputs))
    path = folder / f"input{target.suffix}"
    outcomes: Counter[str] = Counter()
    for data in target.inputs:
        path.write_bytes(target.to_file(data))
        fuzz_readers.read(path, Counter(), "", target.format)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + fuzz_readers.MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    fuzz_readers.watch_execution()
    executions, saved = 0, time.monotonic()

    def one_input(data: bytes) -> None:
        nonlocal executions, saved
        executions += 1
        path.write_bytes(target.to_file(data))
        fuzz_readers.read(path, outcomes, "", target.format)
        # Now and then, as a crash leaves no time for it.
        if time.monotonic() > saved + 0.2:
            save()
            saved = time.monotonic()

    def save() -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"executions": executions, "peak": peak}
        found |= {key.strip(): count for key, count in outcomes.items()}
        (folder / "outcomes").write_text(json.dumps(found))

    save()
    longest = max(map(len, target.inputs))
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            f"-max_len={max(4 * longest, 4096)}",
            f"-timeout={fuzz_readers.TIMEOUT}",
            f"-dict={folder / 'dictionary'}",
            f"-artifact_prefix={options.keep / options.name}-",
            "-rss_limit_mb=3072",
            "-print_final_stats=1",
        ],
        one_input,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
