"""Reading traces for commands, with progress on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trbounds.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trbounds.traces import TraceBatch, TraceSummary


def trace_paths(traces: list[str] | None, *, example: bool) -> list[str]:
    """Return what to read: the traces of a command line, or the example."""
    from trbounds.traces import example_path

    if example and traces:
        raise InputError(f"found '{traces[0]}' besides --example, expected one of the two")
    if not example and not traces:
        raise InputError("give trace files, or --example")
    return [example_path()] if example else list(traces or [])


def read_summary(
    traces: list[str] | None,
    *,
    example: bool = False,
    form: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    faults: bool = True,
) -> TraceSummary:
    """Read the traces of a command line into one summary; say on stderr what was left out.

    Says there too, unless ``faults`` is off, what is wrong with how they were logged.
    """
    from trbounds.traces import summarize
    from trbounds_cli.progress import reading_progress

    paths = trace_paths(traces, example=example)
    try:
        with reading_progress() as show:
            summary = summarize(
                paths, form, reward_range=reward_range, on_error=on_error, on_progress=show
            )
    except InputError as error:
        merged = error.file is None and any(path.endswith(".tbs") for path in paths)
        if error.field == "reward_range" and merged:
            problem = f"{error.problem}: give the range that the summary was made with"
            raise InputError(problem, field="--reward-range") from None
        raise
    say_what_is_missing(summary)
    if faults:
        say_what_is_wrong(summary)
    return summary


def read_batches(
    traces: list[str] | None,
    *,
    example: bool = False,
    form: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    summary: TraceSummary | None = None,
) -> Iterator[TraceBatch]:
    """Read the tokens of a command line's traces, and add them to a summary.

    Says on stderr after the last what was left out and what is wrong with how they were logged;
    nothing without a summary, for those who made one before.
    """
    from trbounds.traces import open_trace
    from trbounds_cli.progress import reading_progress

    with reading_progress() as show:
        batches = open_trace(
            trace_paths(traces, example=example),
            form,
            reward_range=reward_range,
            on_error=on_error,
            on_skip=None if summary is None else summary.record_skip,
            on_progress=show,
        )
        for batch in batches:
            if summary is not None:
                summary.add(batch)
            yield batch
    if summary is not None:
        say_what_is_missing(summary)
        say_what_is_wrong(summary)


def left_out(summary: TraceSummary) -> list[str]:
    """Return what was left out, a text each; a summary lists so many, the rest it counts."""
    texts = [str(skipped.error()) for skipped in summary.skipped]
    more = summary.counts["skipped"] - len(texts)
    return [*texts, f"{more} more"] if more > 0 else texts


def say_what_is_missing(summary: TraceSummary) -> None:
    """Say on stderr what was left out, and whether the summary is partial."""
    for text in left_out(summary):
        sys.stderr.write(f"left out: {text}\n")
    if summary.partial is not None:
        sys.stderr.write(f"{summary.partial}\n")


def say_what_is_wrong(summary: TraceSummary) -> None:
    """Say on stderr which errors and warnings verify would print of how the trace was logged."""
    from trbounds.traces.findings import findings

    found = findings(summary)
    for severity, text in (("error", "was logged WRONGLY:"), ("warning", "shows")):
        names = [item.name for item in found if item.severity == severity]
        if names:
            sys.stderr.write(f"warning: the trace {text} {', '.join(names)}; see trbounds verify\n")


def pooling_note(summary: TraceSummary) -> list[str]:
    """Say that several training steps were taken together, and how D differs between them."""
    series = summary.steps()
    divergence = series.sequence_kl[0]
    if series.step.size < 2:
        return []
    pooled = f"pooled over {series.step.size} training steps, as if they were one"
    low, high = divergence.argmin(), divergence.argmax()
    if low == high:
        return [pooled]
    return [
        f"{pooled}: D is {divergence[low]:.3g} nats at step {series.step[low]} and "
        f"{divergence[high]:.3g} at step {series.step[high]} (estimated); see trbounds steps"
    ]
