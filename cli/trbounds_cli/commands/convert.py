"""Convert traces of any format to one canonical Parquet file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, OnError, RewardRange, TokenTraces, TraceFormat
from trbounds_cli.output import check_output, print_json


def command(
    traces: TokenTraces = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; .parquet.")
    ] = "trace.parquet",
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Convert traces to the canonical Parquet form, which reads many times faster than text.

    One row per sequence, token values in lists of float64, Zstandard. All traces must have the
    same optional fields.

    Example: `trbounds convert train_data_step*.jsonl -o run.parquet`
    """
    from trbounds.traces import TraceSummary, write_parquet
    from trbounds_cli.tracing import left_out, read_batches

    if not traces:
        raise InputError("give trace files")
    check_output(output, ".parquet")
    summary = TraceSummary(reward_range=reward_range)
    reading: dict[str, Any] = {"form": form, "reward_range": reward_range, "on_error": on_error}
    write_parquet(read_batches(traces, summary=summary, **reading), output)
    sequences, tokens = summary.n_sequences, summary.n_tokens + summary.counts["masked_tokens"]
    if json:
        counts = {"sequences": sequences, "tokens": tokens}
        print_json({"output": output, **counts, "left_out": left_out(summary)})
    else:
        typer.echo(f"{output}: {sequences:,} sequences, {tokens:,} tokens")
