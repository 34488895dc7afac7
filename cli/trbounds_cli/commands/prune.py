"""Prune the vocabulary by min-p: its bias, the mismatch it removes."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trbounds.errors import InputError
from trbounds_cli.logits import Logits, UseExampleLogits, open_logits
from trbounds_cli.options import AsJson
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.pruning import SweepRow


def command(
    logits: Logits = None,
    min_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Keep tokens at least P times as likely as the likeliest."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try thresholds from 1e-6 to 0.3 as well.")
    ] = False,
    sets: Annotated[
        Literal["rollout", "own"],
        typer.Option(
            help="Prune both policies to the rollout policy's tokens, or each to its own."
        ),
    ] = "rollout",
    T: Annotated[
        int | None,
        typer.Option("--T", min=1, metavar="N", help="Horizon to carry the bias per token over."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --sweep: draw it; .png, .svg or .pdf."),
    ] = None,
    example: UseExampleLogits = False,
    json: AsJson = False,
) -> None:
    """Prune two policies by min-p and compare them before and after.

    The bias is the TV between the pruned and the full rollout policy. The mismatch removed is that
    of the mean KL, TV and chi2 between the two policies, and of the sampled tokens that stay.

    Example: `trbounds prune logits.npz --min-p 1e-4`

    Example: `trbounds prune --example --sweep --T 256 --figure pruning.png`
    """
    from trbounds.pruning import sweep_file
    from trbounds_cli.progress import counting_progress

    if min_p is None and not sweep:
        raise InputError("give --min-p, --sweep or both")
    if figure is not None:
        from trbounds_figures import check_target

        if not sweep:
            raise InputError("--figure needs --sweep")
        check_target(figure)
    file = open_logits(logits, example=example)
    with counting_progress("rows", file.n) as show:
        rows = sweep_file(file, _thresholds(min_p, sweep=sweep), T=T, sets=sets, on_progress=show)
    if figure is not None:
        from trbounds_figures import get_figure, save

        save("pruning", figure, get_figure("pruning").data(rows))
    if json:
        print_json(
            {
                "logits": file.path,
                "rows": file.n,
                "vocabulary": file.vocabulary,
                "sets": sets,
                "T": T,
                "figure": None if figure is None else str(figure),
                "thresholds": [_document(row) for row in rows],
            }
        )
        return
    _show(file.path, rows)
    if figure is not None:
        typer.echo(str(figure))


def _thresholds(min_p: float | None, *, sweep: bool) -> list[float]:
    from trbounds.pruning import SWEEP_THRESHOLDS

    chosen = {*(SWEEP_THRESHOLDS if sweep else ()), *(() if min_p is None else (min_p,))}
    return sorted(chosen)


def _document(row: SweepRow) -> dict[str, Any]:
    names = [name for name in ("kl", "tv", "chi2", "abs_mismatch") if _is_known(row, name)]
    return {**asdict(row), "removed": {name: row.removed(name) for name in names}}


def _is_known(row: SweepRow, name: str) -> bool:
    return getattr(row.before, name) is not None


def _show(path: str, rows: list[SweepRow]) -> None:
    first = rows[0]
    sampled, horizon = _is_known(first, "abs_mismatch"), first.sequence_union is not None
    columns = ["min-p", "kept>", "bias>", "s.e.>", "largest>", "limit>"]
    columns += ["T x bias>"] if horizon else []
    columns += ["KL removed>", "TV>", "chi2>"]
    columns += ["|mismatch|>", "sampled>"] if sampled else []
    print_table(
        f"{path}: {first.n_rows} rows pruned by min-p",
        columns,
        [_cells(row, sampled=sampled, horizon=horizon) for row in rows],
        _notes(rows, sampled=sampled, horizon=horizon),
    )


def _cells(row: SweepRow, *, sampled: bool, horizon: bool) -> list[str]:
    cells = [
        f"{row.min_p:g}",
        f"{row.n_kept:.1f}",
        f"{row.pruned_mass.value:.3g}",
        "-" if row.n_rows < 2 else f"{row.pruned_mass.standard_error:.1g}",
        f"{row.pruned_mass_max:.3g}",
        f"{row.pruned_mass_limit:.3g}",
    ]
    if horizon:
        cells.append(number(row.sequence_union))
    names = ("kl", "tv", "chi2", *(("abs_mismatch",) if sampled else ()))
    cells += [_share(row, name) for name in names]
    if sampled:
        cells.append(f"{row.sampled_pruned:.2%}")
    return cells


def _share(row: SweepRow, name: str) -> str:
    before, after = getattr(row.before, name), getattr(row.after, name)
    if after.value == float("inf"):
        return "infinite" if before.value == float("inf") else "now infinite"
    return "-" if math.isnan(after.value) else f"{row.removed(name):.2%}"


def _notes(rows: list[SweepRow], *, sampled: bool, horizon: bool) -> list[str]:
    notes = [
        "bias: mean TV between the pruned and the full rollout policy at one token, its s.e. with "
        "rows taken as independent; largest: observed; limit: the largest that this vocabulary and "
        "min-p allow",
        "removed: share of the mean between the two policies that pruning takes away; negative "
        "where it adds",
    ]
    if horizon:
        notes.append(
            "T x bias: at least the TV of whole sequences, if the rows are taken evenly from all "
            "positions of full rollouts"
        )
    if sampled:
        notes.append("sampled: share of the sampled tokens that are pruned")
    lost = [row for row in rows if row.not_absolutely_continuous > 0]
    if lost:
        worst = max(lost, key=lambda row: row.not_absolutely_continuous)
        notes.append(
            f"warning: absolute continuity is lost in up to {worst.not_absolutely_continuous:.1%} "
            f"of the rows (min-p {worst.min_p:g}): no bound on Error applies there; use --sets "
            "rollout"
        )
    return notes
