"""The mismatch of sampled tokens of traces, read part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trbounds.errors import InputError
from trbounds.mismatch.measured import MismatchSummary
from trbounds.traces.batch import TraceBatch
from trbounds.traces.engine import Progress
from trbounds.traces.partition import partition
from trbounds.traces.reader import detect
from trbounds.traces.reading import Paths, read_source
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

__all__ = ["summarize_traces"]


def summarize_traces(
    paths: Paths,
    format: str | None = None,
    *,
    logit_error: float | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    on_skip: Callable[[InputError], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_batch: Callable[[TraceBatch], None] | None = None,
) -> MismatchSummary:
    """Read traces in one pass and summarise the mismatch of their sampled tokens.

    Parameters
    ----------
    paths, format, reward_range, on_error, on_skip
        As for :func:`trbounds.traces.open_trace`.
    logit_error : float, optional
        A common logit error: tokens that need a larger one are counted.
    on_progress : callable, optional
        Called after each batch, and when a part of a file is done.
    on_batch : callable, optional
        Called with each batch.

    Returns
    -------
    MismatchSummary
        Without tokens if the traces hold none.

    Raises
    ------
    InputError
        For a bad path, file or record, naming the place; also for saved summaries, which hold no
        tokens.

    Examples
    --------
    >>> from trbounds.traces import example_path
    >>> summarize_traces(example_path()).n_sequences
    128
    """
    options = ReadOptions(reward_range=reward_range, on_error=on_error)
    if on_skip is not None:
        options = replace(options, on_skip=on_skip)
    if format is not None:
        detect(Source("-"), format)
    parts = partition(paths, format)
    for part in parts:
        if part.file.endswith(".tbs"):
            raise InputError("a summary holds no tokens, expected a trace", file=part.file)
    total = sum(part.size for part in parts)
    summary = MismatchSummary(logit_error=logit_error)
    sequences = tokens = finished = 0

    def report(done: int) -> None:
        if on_progress is not None:
            counts = (done, len(parts), finished, total)
            on_progress(Progress(*counts, sequences, tokens, tokens))

    for done, part in enumerate(parts):
        for batch in read_source(part.source(), format, options):
            summary = summary.merge(MismatchSummary.of(batch, logit_error=logit_error))
            sequences += batch.n_sequences
            tokens += batch.n_tokens
            if on_batch is not None:
                on_batch(batch)
            report(done)
        finished += part.size
        report(done + 1)
    return summary
