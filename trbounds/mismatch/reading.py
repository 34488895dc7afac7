"""The mismatch of sampled tokens of traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trbounds.errors import InputError
from trbounds.mismatch.measured import MismatchSummary
from trbounds.traces.batch import TraceBatch
from trbounds.traces.paths import Paths
from trbounds.traces.reading import Progress, open_trace


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
    batches = open_trace(
        paths,
        format,
        reward_range=reward_range,
        on_error=on_error,
        on_skip=on_skip,
        on_progress=on_progress,
    )
    return summarize_batches(batches, logit_error=logit_error, on_batch=on_batch)


def summarize_batches(
    batches: Iterable[TraceBatch],
    *,
    logit_error: float | None = None,
    on_batch: Callable[[TraceBatch], None] | None = None,
) -> MismatchSummary:
    """Summarise the mismatch of the sampled tokens of batches.

    Parameters
    ----------
    batches : iterable of TraceBatch
        Of :func:`trbounds.traces.open_trace`.
    logit_error, on_batch
        As for :func:`summarize_traces`.

    Returns
    -------
    MismatchSummary
        Without tokens if the batches hold none.
    """
    summary = MismatchSummary(logit_error=logit_error)
    for batch in batches:
        summary = summary.merge(MismatchSummary.of(batch, logit_error=logit_error))
        if on_batch is not None:
            on_batch(batch)
    return summary
