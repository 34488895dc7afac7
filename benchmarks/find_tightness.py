"""Search for the tightest instance of every bound; keep the better of new and known.

    python benchmarks/find_tightness.py --evaluations 20000 --seed 0 trbounds/data/tightness.json

A bound that is beaten is wrong: the script says so and exits 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trbounds.bounds import all_bounds
from trbounds.oracle.search import search
from trbounds.oracle.tightness import Tightness, load_tightness, save_tightness


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bound", action="append", choices=list(all_bounds()))
    options = parser.parse_args()
    best: dict[str, Tightness] = {}
    if options.file.exists():
        best = {result.key: result for result in load_tightness(options.file)}
    violated = False
    for key in options.bound or all_bounds():
        found = search(all_bounds()[key], evaluations=options.evaluations, seed=options.seed)
        print(found, flush=True)
        violated |= found.violates
        if key not in best or found.centred_ratio > best[key].centred_ratio:
            best[key] = found
        save_tightness([best[k] for k in all_bounds() if k in best], options.file)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
