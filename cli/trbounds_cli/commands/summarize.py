"""Read traces once, and keep what the others need in a small file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import check_output, number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.traces import TraceSummary


def command(
    traces: Traces = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; .tbs by convention.")
    ] = "trace.tbs",
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes to work in.")] = 1,
    engine: Annotated[
        Literal["local", "dask"], typer.Option(help="Work here, or on Dask distributed.")
    ] = "local",
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Dask scheduler; by default --jobs processes are started here."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the partial summary in the output file.")
    ] = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Summarise logged traces in one pass.

    The summary is a small file that verify, mask and the others take instead of the traces.
    Summaries of shards merge: give them as traces. Ctrl-C, or an error, leaves what was done in
    the output file, which says that it is partial; --resume continues it.

    Example: `trbounds summarize runs/ -o run.tbs --jobs 8`

    Example: `trbounds summarize runs/ -o run.tbs --engine dask --scheduler tcp://host:8786`
    """
    from trbounds.traces import TraceSummary, summarize
    from trbounds_cli.progress import reading_progress
    from trbounds_cli.tracing import left_out, say_what_is_missing, say_what_is_wrong

    if not traces:
        raise InputError("give trace files")
    check_output(output)
    started = TraceSummary.load(output) if resume and os.path.exists(output) else None
    try:
        with reading_progress() as show:
            summary = summarize(
                traces,
                form,
                reward_range=reward_range,
                on_error=on_error,
                jobs=jobs,
                engine=engine,
                scheduler=scheduler,
                resume=started,
                save_partial=output,
                on_progress=show,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; --resume continues from {output}, if a part was done", err=True)
        raise typer.Exit(2) from None
    summary.save(output)
    say_what_is_missing(summary)
    say_what_is_wrong(summary)
    facts = _facts(summary)
    if json:
        print_json({"summary": output, **facts, "left_out": left_out(summary)})
    else:
        rows = [
            [name.replace("_", " ") + " (nats)" * (name in _NATS), _shown(value)]
            for name, value in facts.items()
        ]
        print_table(output, ["", "value>"], rows)


_NATS = ("abs_log_ratio_max", "kl_max", "entropy_max")


def _facts(summary: TraceSummary) -> dict[str, Any]:
    largest = {
        name: extreme.value for name, extreme in summary.extremes.items() if name.endswith("_max")
    }
    return {
        "files": len(summary.files),
        "sequences": summary.n_sequences,
        "tokens": summary.n_tokens,
        "longest": summary.T,
        "left_out": summary.counts["skipped"],
        "partial": summary.partial is not None,
        "fields": sorted(summary.present or ()),
        **largest,
    }


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return f"{value:,}" if isinstance(value, int) else number(value)
