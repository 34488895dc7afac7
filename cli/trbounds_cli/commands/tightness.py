"""Search for the instance whose error comes closest to a bound."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError
from trbounds_cli.options import AsJson
from trbounds_cli.output import check_output, print_json, print_table

if TYPE_CHECKING:
    from trbounds.bound import Bound
    from trbounds.oracle.tightness import Tightness

# Recomputed on another machine a stored ratio may differ in its last digits.
_SAME = 1e-9


def command(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="One bound; all by default.", show_default=False),
    ] = None,
    T_max: Annotated[
        int, typer.Option("--T-max", min=2, max=12, metavar="N", help="Longest horizon to search.")
    ] = 8,
    evaluations: Annotated[
        int, typer.Option(min=100, metavar="N", help="Instances to enumerate for each bound.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the random numbers.")] = 0,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the instances found, as JSON.")
    ] = None,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Evaluate the best instances known, without a search."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Measure how tight the bounds are, by adversarial search over small problems.

    Policies are found by random sampling, evolution and descent; the reward is the worst one. All
    responses are enumerated, so an error above a bound would disprove the bound: then the exit code
    is 1. The ratio found is a lower bound on the largest there is.

    Example: `trbounds tightness entropy_dual --evaluations 20000`

    Example: `trbounds tightness --stored`
    """
    bounds = list(all_bounds().values()) if key is None else [get_bound(key)]
    if stored:
        if save is not None:
            raise InputError("--stored evaluates what ships with trbounds: nothing to save")
        found, changed = _evaluate_stored(bounds)
    else:
        if save is not None:
            check_output(str(save))
        found, changed = _search(bounds, T_max, evaluations, seed), []
    if save is not None:
        from trbounds.oracle.tightness import save_tightness

        save_tightness(found, save)
    violated = [result for result in found if result.violates]
    if json:
        print_json(
            {
                "results": [_document(result) for result in found],
                "violated": [result.key for result in violated],
                "changed": changed,
                "saved": None if save is None else str(save),
            }
        )
    else:
        _show(found, changed, save)
    for result in violated:
        sys.stderr.write(f"{result}\n")
    if violated or changed:
        raise typer.Exit(1)


def _search(bounds: Sequence[Bound], T_max: int, evaluations: int, seed: int) -> list[Tightness]:
    from trbounds.oracle.search import search
    from trbounds_cli.progress import counting_progress

    found = []
    with counting_progress("search", len(bounds) * evaluations) as show:
        for number, bound in enumerate(bounds):

            def progress(
                done: int, total: int, best: float, before: int = number, key: str = bound.key
            ) -> None:
                if show is not None:
                    show(before * total + done, f"{key}: {best:.4f}")

            found.append(
                search(
                    bound,
                    evaluations=evaluations,
                    seed=seed,
                    horizons=range(2, T_max + 1),
                    progress=progress,
                )
            )
    return found


def _evaluate_stored(bounds: Sequence[Bound]) -> tuple[list[Tightness], list[str]]:
    """Evaluate the shipped instances anew; name the bounds whose ratio is not what was stored."""
    from trbounds.oracle.tightness import best_known, error_over_bound

    known = {result.key: result for result in best_known()}
    found, changed = [], []
    for bound in bounds:
        if bound.key not in known:
            continue
        old = known[bound.key]
        ratio, centred = error_over_bound(bound, old.pair, old.stop_budget)
        found.append(replace(old, ratio=ratio, centred_ratio=centred))
        if abs(centred - old.centred_ratio) > _SAME * old.centred_ratio:
            changed.append(bound.key)
    if not found:
        raise InputError(f"no instance is stored for {', '.join(b.key for b in bounds)}")
    return found, changed


def _document(result: Tightness) -> dict[str, Any]:
    pair = result.pair
    return {
        "key": result.key,
        "ratio": result.ratio,
        "centred_ratio": result.centred_ratio,
        "violates": result.violates,
        "T": pair.T,
        "vocabulary": pair.A,
        "family": result.family,
        "evaluations": result.evaluations,
        "seed": result.seed,
        "stop_budget": result.stop_budget,
        "instance": {
            "rollout": [table.tolist() for table in pair.rollout],
            "train": [table.tolist() for table in pair.train],
            "reward": pair.reward.tolist(),
            "eos": pair.eos,
        },
    }


def _show(found: Sequence[Tightness], changed: Sequence[str], save: Path | None) -> None:
    notes = [
        "ratio: largest |Error| found over the bound; centred: over the bound with the reward "
        "centred, half of a paper's"
    ]
    notes += [f"CHANGED: {key} does not give the ratio that is stored" for key in changed]
    if save is not None:
        notes.append(f"instances: {save}")
    print_table(
        "Tightness of the bounds, tightest first",
        ["bound", "ratio>", "centred>", "T>", "vocabulary>", "instances>", "family", "verdict"],
        [
            [
                result.key,
                f"{result.ratio:.6f}",
                f"{result.centred_ratio:.6f}",
                str(result.pair.T),
                str(result.pair.A),
                f"{result.evaluations:,}",
                result.family,
                "VIOLATED" if result.violates else "holds",
            ]
            for result in sorted(found, key=lambda result: -result.centred_ratio)
        ],
        notes,
    )
