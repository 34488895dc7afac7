"""Show by training step how far apart the policies were."""

from __future__ import annotations

from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, Example, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.traces import TraceSummary
    from trbounds.traces.step_series import StepSeries
    from trbounds.traces.trends import LevelChange


def command(
    traces: Traces = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE", help="Draw the series; .png, .svg or .pdf."),
    ] = None,
    example: Example = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Show by training step how far apart the policies were, and the reward.

    The sequence KL D bounds the error that the mismatch of a step's two policies makes,
    |Error| <= D times the width of the reward range, at any length. Says at which step D and the
    reward change their level most clearly, where they do; otherwise where they begin, cease or turn
    to rise or fall, or that they do so gradually.

    Example: `trbounds steps logs/ --figure steps.png`

    Example: `trbounds steps run.tbs --json`
    """
    from trbounds_cli.tracing import read_summary

    if figure is not None:
        from trbounds_figures import check_target

        check_target(figure)
    summary = read_summary(
        traces, example=example, form=form, reward_range=reward_range, on_error=on_error
    )
    series = summary.steps()
    if (series.step < 0).all():
        raise InputError("not logged: there is nothing to show by step", field="step")
    if figure is not None:
        from trbounds_figures import save
        from trbounds_figures.steps import measure

        save("steps", figure, measure(series))
    if json:
        print_json(_document(series, figure))
        return
    _show(series, summary)
    if figure is not None:
        typer.echo(str(figure))


def _document(series: StepSeries, figure: Path | None) -> dict[str, Any]:
    divergence, error = series.sequence_kl
    return {
        "kl_seq_by": "kl" if series.has_kl else "k3",
        "steps": [
            {
                "step": int(step) if step >= 0 else None,
                "sequences": int(series.n_sequences[i]),
                "length": float(series.length_mean[i]),
                "reward": _estimate(series.reward_mean[i], series.reward_error[i]),
                "kl_seq": _estimate(divergence[i], error[i]),
                "mean_ratio": _estimate(series.ratio_mean[i], series.ratio_error[i]),
                "effective_share": float(series.effective_share[i]),
                "abs_log_ratio_max": float(series.log_ratio_max[i]),
            }
            for i, step in enumerate(series.step)
        ],
        "changes": {
            name: {"step": c.step, "before": c.before, "after": c.after, "z": c.z}
            for name, c in series.changes().items()
        },
        "bends": {name: asdict(bend) for name, bend in series.bends().items()},
        "trends": series.trends(),
        "figure": None if figure is None else str(figure),
    }


def _estimate(value: float, error: float) -> dict[str, float]:
    return {"value": float(value), "standard_error": float(error)}


def _show(series: StepSeries, summary: TraceSummary) -> None:
    divergence, error = series.sequence_kl
    steps = int((series.step >= 0).sum())
    print_table(
        f"{steps} training step{'s' * (steps > 1)}, {summary.n_sequences} sequences",
        [
            *("step>", "sequences>", "length>", "reward>", "s.e.>", "D (nats)>", "s.e.>"),
            *("mean rho>", "effective>", "|log rho|>"),
        ],
        [
            [
                str(step) if step >= 0 else "-",
                str(series.n_sequences[i]),
                f"{series.length_mean[i]:.1f}",
                _short(series.reward_mean[i], 4),
                _short(series.reward_error[i], 2),
                _short(divergence[i], 4),
                _short(error[i], 2),
                f"{series.ratio_mean[i]:.4f}",
                f"{series.effective_share[i]:.1%}",
                _short(series.log_ratio_max[i], 3),
            ]
            for i, step in enumerate(series.step)
        ],
        _notes(series, summary),
    )


def _short(value: float, digits: int) -> str:
    return "-" if isnan(value) else f"{value:#.{digits}g}"


def _notes(series: StepSeries, summary: TraceSummary) -> list[str]:
    from trbounds.traces.trends import FEWEST_STEPS

    by = "the logged kl" if series.has_kl else "k3 = rho - 1 - log rho of the sampled tokens"
    notes = [
        f"D: KL(rollout || train) of whole sequences, estimated from {by}; mean rho: 1 where "
        "nothing is cut off; effective: share of the sample that its weights leave; |log rho|: "
        "the largest of a sampled token (nats)"
    ]
    known = series.step >= 0
    if known.sum() >= FEWEST_STEPS:
        notes += _levels(series)
    equal = series.step[known & (series.sequence_kl[0] == 0)]
    if equal.size:
        notes.append(
            f"D is 0 at {equal.size} steps, first at {equal[0]}: there the two policies are the "
            "same, or one list is a copy of the other"
        )
    low, high = summary.reward_range
    divergence = series.sequence_kl[0]
    vacuous = series.step[known & (divergence >= 1)]
    if vacuous.size:
        notes.append(
            f"|Error| <= D times {number(high - low)} says nothing at {vacuous.size} steps "
            f"(D >= 1 nat), first at {vacuous[0]}"
        )
    return notes


_MOVES = {1: "rises", 0: "stays level", -1: "falls"}


def _levels(series: StepSeries) -> list[str]:
    """Say how D and the reward moved over the run."""
    known = series.step >= 0
    step, changes = series.step[known], series.changes()
    bends, trends = series.bends(), series.trends()
    notes = []
    for name, title, means, values in (
        ("kl_seq", "D", "geometric means", series.sequence_kl[0][known]),
        ("reward", "reward", "means", series.reward_mean[known]),
    ):
        if name in changes:
            notes.append(f"{title}: {_change(changes[name], series)} ({means})")
        elif values.max() > values.min():  # no note on what is constant, or not logged
            moved = "no one clear change of level"
            if name in bends:
                before, after = (_MOVES[direction] for direction in bends[name].directions)
                moved = f"{before} until about step {bends[name].step} and {after} from there on"
            elif name in trends:
                rises = "rises" if trends[name] > 0 else "falls"
                moved = f"{rises} gradually, with no one step at which its level changes"
            tenth, low, high = values.size // 10, values.argmin(), values.argmax()
            notes.append(
                f"{title}: {moved}; mean of the first tenth of the steps "
                f"{values[:tenth].mean():.4g}, of the last {values[-tenth:].mean():.4g}; "
                f"smallest {values[low]:.4g} at step {step[low]}, "
                f"largest {values[high]:.4g} at step {step[high]}"
            )
    return notes


def _change(change: LevelChange, series: StepSeries) -> str:
    last = series.step[series.step < change.step][-1]
    return (
        f"clearest change at step {change.step}: {number(change.before)} up to step {last}, "
        f"{number(change.after)} from there on, {abs(change.z):.0f} standard errors apart"
    )
