"""Convert traces of any format to one canonical Parquet file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, OnError, RewardRange, TokenTraces, TraceFormat
from trbounds_cli.output import check_output, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trbounds.traces import TraceBatch


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
    from trbounds.traces import expand_paths, open_trace, write_parquet
    from trbounds_cli.tracing import refuse_summaries

    if not traces:
        raise InputError("give trace files")
    check_output(output, ".parquet")
    paths = expand_paths(traces)
    refuse_summaries(paths)
    left_out: list[InputError] = []
    read = {"sequences": 0, "tokens": 0}

    def leave_out(error: InputError) -> None:
        left_out.append(error)
        sys.stderr.write(f"left out: {error}\n")

    def counted() -> Iterator[TraceBatch]:
        batches = open_trace(
            paths, form, reward_range=reward_range, on_error=on_error, on_skip=leave_out
        )
        for batch in batches:
            read["sequences"] += batch.n_sequences
            read["tokens"] += batch.n_tokens
            yield batch

    write_parquet(counted(), output)
    if json:
        print_json({"output": output, **read, "left_out": [str(error) for error in left_out]})
    else:
        typer.echo(f"{output}: {read['sequences']:,} sequences, {read['tokens']:,} tokens")
