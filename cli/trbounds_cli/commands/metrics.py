"""Compute metrics under the names and by the formulas of a training framework."""

from __future__ import annotations

from typing import Annotated

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import number, print_json, print_table


def command(
    traces: Traces = None,
    framework: Annotated[
        str, typer.Option("--as", metavar="NAME", help="verl, nemo-rl, prime-rl or trl.")
    ] = "verl",
    by_step: Annotated[
        bool, typer.Option("--by-step", help="One result per training step, as dashboards show.")
    ] = False,
    cap: Annotated[
        float | None,
        typer.Option(metavar="X", help="verl's rollout_is_threshold, TRL's importance cap."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="verl's rollout_is (token, sequence), TRL's mode (sequence_mask, "
            "sequence_truncate).",
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Use the small real trace that ships with trbounds.")
    ] = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Compute what a framework's dashboard shows, from logged log-probabilities.

    Names, formulas and clamps are the framework's; values are computed in float64 and carry a
    standard error (jackknife over prompts) that dashboards do not have.

    Example: `trbounds metrics --example --as verl`

    Example: `trbounds metrics runs/step_*.parquet --as trl --by-step --json`
    """
    from trbounds.metrics import framework_metrics
    from trbounds_cli.tracing import read_batches

    batches = read_batches(
        traces, example=example, form=form, reward_range=reward_range, on_error=on_error
    )
    try:
        found = framework_metrics(batches, framework, by_step=by_step, cap=cap, level=level)
    except InputError as error:
        # Parameters are named after the option that sets them.
        option = {"framework": "--as", "cap": "--cap", "level": "--level"}.get(error.field or "")
        if option is None:
            raise
        raise InputError(error.problem, field=option) from None
    if json:
        print_json({"framework": framework, "results": [part.to_dict() for part in found]})
        return
    for part in found:
        where = "" if part.step is None else f", step {part.step}"
        print_table(
            f"{framework}: {part.n_sequences} sequences{where}",
            ["metric", "value>", "s.e.>"],
            [
                [name, number(value), number(part.standard_errors[name])]
                for name, value in part.values.items()
            ],
        )
