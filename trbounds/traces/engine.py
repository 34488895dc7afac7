"""Summarise traces in one pass: in this process, in a pool of processes, or on a Dask cluster.

The inputs are cut into parts (:mod:`trbounds.traces.partition`), the same function summarises
each part wherever it runs, and this process adds the results up, each part once. A worker that
dies takes nothing with it but the parts it was working on.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import Any

from trbounds.compiling import Kernel, uses_numba
from trbounds.errors import InputError, MissingDependency, TrboundsError
from trbounds.traces.batch import TraceBatch
from trbounds.traces.compiled import COMPILED_FROM
from trbounds.traces.omissions import Partial
from trbounds.traces.partition import Part, partition
from trbounds.traces.paths import Paths
from trbounds.traces.reader import get_reader
from trbounds.traces.reading import Progress, read_source
from trbounds.traces.summary import TraceSummary
from trbounds.traces.validate import ReadOptions

_BYTES_PER_TOKEN = 32
"""Bytes of a log that a token takes, roughly: 16 in Parquet, 40 and more in text."""

Summarise = Callable[[Part], TraceSummary]


def summarize(
    paths: Paths,
    format: str | None = None,
    *,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    jobs: int = 1,
    engine: str = "local",
    scheduler: str | None = None,
    resume: TraceSummary | None = None,
    save_partial: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    kernel: Kernel = "auto",
) -> TraceSummary:
    """Read traces in one pass and summarise them.

    The result is the same to 1e-12 whatever the engine and the number of jobs.

    Parameters
    ----------
    paths : path or iterable of paths
        As :func:`trbounds.traces.open_trace` takes them; or saved summaries (``.tbs``), which
        are merged.
    format : str, optional
        Name of a reader; by default the first bytes of each file decide.
    reward_range : tuple of float
        Lowest and highest admissible reward.
    on_error : {"fail", "skip"}
        Stop at the first bad record or file, or leave it out and list it in the summary.
    jobs : int
        Processes to work in; 1 is this process alone. New processes are spawned: a script needs
        the usual ``if __name__ == "__main__":``.
    engine : {"local", "dask"}
        Work here, or on Dask distributed (the extra ``dask``).
    scheduler : str, optional
        Address of a Dask scheduler, whose workers must see the same paths; by default a cluster
        of ``jobs`` processes is started here.
    resume : TraceSummary, optional
        A partial summary of the same inputs, which is continued. Changed in place.
    save_partial : path, optional
        Where to save what was done if the run is interrupted or fails. The file says that it is
        partial and what is done; nothing is written if no part was finished.
    on_progress : callable, optional
        Called in this process after each part, and with one local job after each batch.
    kernel : {"auto", "numpy", "numba"}
        As for :meth:`TraceSummary.of`; "auto" takes numba where it is installed and the inputs
        are large.

    Returns
    -------
    TraceSummary

    Raises
    ------
    InputError
        For a bad path, file or record, if no sequence is left, or if `resume` does not belong to
        these inputs.
    MissingDependency
        If a package is absent that a file or the engine needs.
    TrboundsError
        If worker processes die again and again.
    """
    options = ReadOptions(reward_range=reward_range, on_error=on_error)
    if jobs < 1:
        raise InputError(f"found {jobs}, expected at least 1", field="jobs")
    if engine not in ("local", "dask"):
        raise InputError(f"found {engine!r}, expected 'local' or 'dask'", field="engine")
    if scheduler is not None and engine != "dask":
        raise InputError("found an address, but the engine is not 'dask'", field="scheduler")
    if format is not None:
        get_reader(format)
    parts = partition(paths, format)
    run = _Run(parts, options, resume, on_progress)
    work = functools.partial(
        summarize_part,
        format=format,
        reward_range=reward_range,
        on_error=on_error,
        kernel=kernel,
        n_tokens=sum(part.size for part in parts) // _BYTES_PER_TOKEN,
    )
    with run.saving(save_partial):
        if engine == "local" and jobs == 1:
            for part in run.left():
                run.finish(part, work(part, on_batch=run.count))
        else:
            if any(part.file == "-" for part in parts):
                problem = "standard input can only be read by this process alone"
                raise InputError(problem, field="jobs" if engine == "local" else "engine")
            executor = _pool(jobs) if engine == "local" else _dask(scheduler, jobs)
            with (
                executor as (pool, width),
                closing(_collect(pool, width, work, run.left())) as results,
            ):
                for part, summary in results:
                    run.finish(part, summary)
    return run.result()


def summarize_part(
    part: Part,
    *,
    format: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    on_error: str = "fail",
    kernel: Kernel = "auto",
    n_tokens: int = 0,
    on_batch: Callable[[TraceBatch], None] | None = None,
) -> TraceSummary:
    """Summarise one part; the same function in every engine.

    Parameters
    ----------
    part : Part
        What to read.
    format, reward_range, on_error, kernel
        As for :func:`summarize`.
    n_tokens : int
        Tokens to expect in all parts, for the choice of the kernel.
    on_batch : callable, optional
        Called with each batch that was read.
    """
    if part.file.endswith(".tbs"):
        return TraceSummary.load(part.file)
    out, skips = (TraceSummary(reward_range=reward_range) for _ in range(2))
    chosen: Kernel = "numba" if uses_numba(kernel, worth=n_tokens >= COMPILED_FROM) else "numpy"
    options = ReadOptions(
        reward_range=reward_range,
        on_error=on_error,
        on_skip=skips.record_skip,
    )
    for batch in read_source(part.source(), format, options):
        out.add(batch, kernel=chosen)
        if on_batch is not None:
            on_batch(batch)
    out.absorb(skips)
    return out


class _Run:
    """What is done, what is left, and the sum of what is done."""

    def __init__(
        self,
        parts: list[Part],
        options: ReadOptions,
        resume: TraceSummary | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._parts = parts
        self._on_progress = on_progress
        self._done: set[Part] = set()
        self._bytes_done = 0
        self._summary = TraceSummary(reward_range=options.reward_range)
        if resume is not None:
            self._continue(resume)
        self._sequences = self._summary.n_sequences
        self._tokens = self._resumed = self._summary.n_tokens

    def _continue(self, summary: TraceSummary) -> None:
        if summary.partial is None:
            raise InputError("the summary is complete, nothing is left to do", field="resume")
        for part in sorted(summary.partial.done - set(self._parts)):
            raise InputError(
                f"{part} was summarised, and is not among the inputs or has changed since; "
                "summarise them again from the beginning",
                field="resume",
            )
        self._done |= summary.partial.done
        self._bytes_done = sum(part.size for part in self._done)
        summary.partial = None
        self._summary.absorb(summary)

    def left(self) -> list[Part]:
        """Return the parts that are not done."""
        return [part for part in self._parts if part not in self._done]

    def finish(self, part: Part, summary: TraceSummary) -> None:
        """Add a part; Ctrl-C waits until it is added as a whole."""
        with _uninterrupted():
            self._summary.absorb(summary)
            self._done.add(part)
            self._bytes_done += part.size
        self._sequences, self._tokens = self._summary.n_sequences, self._summary.n_tokens
        self._report()

    def count(self, batch: TraceBatch) -> None:
        """Note a batch of a part that is not finished."""
        self._sequences += batch.n_sequences
        self._tokens += batch.n_tokens
        self._report()

    def result(self) -> TraceSummary:
        """Return the summary, if it has a sequence."""
        out = self._summary
        if out.n_sequences == 0:
            problem = "found no sequence"
            if out.skipped:
                first = out.skipped[0].error()
                problem += f"; left out because of an error: {out.counts['skipped']}, as {first}"
            raise InputError(problem, field="paths")
        _ = out.sequences
        return out

    @contextmanager
    def saving(self, path: str | os.PathLike[str] | None) -> Iterator[None]:
        """Save what is done if the block does not come to its end."""
        try:
            yield
        except BaseException:
            if path is not None and self._done:
                own = Partial(frozenset(self._done), len(self._parts) - len(self._done))
                given = self._summary.partial
                self._summary.partial = own if given is None else own.merge(given)
                self._summary.save(path)
            raise

    def _report(self) -> None:
        if self._on_progress is not None:
            total = sum(part.size for part in self._parts)
            counts = (len(self._done), len(self._parts), self._bytes_done, total)
            read = self._tokens - self._resumed
            self._on_progress(Progress(*counts, self._sequences, self._tokens, read))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is None
    ):
        yield
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if received:
        signal.raise_signal(signal.SIGINT)


def _collect(
    pool: Executor, width: Callable[[], int], work: Summarise, parts: Iterable[Part]
) -> Generator[tuple[Part, TraceSummary], None, None]:
    """Yield each part's summary once, keeping two parts per worker under way."""
    left = iter(parts)
    running: dict[Future[TraceSummary], Part] = {}
    try:
        while True:
            for part in islice(left, max(2 * width() - len(running), 0)):
                running[pool.submit(work, part)] = part
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


def _ignore_interrupts() -> None:
    # Ctrl-C reaches the whole process group; the process that adds up decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _pool(jobs: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context, _ignore_interrupts) as pool:
            yield pool, lambda: jobs
    except BrokenProcessPool:
        raise TrboundsError(
            "a worker process ended abruptly (out of memory?); try fewer jobs"
        ) from None


@contextmanager
def _dask(scheduler: str | None, jobs: int) -> Iterator[tuple[Executor, Callable[[], int]]]:
    try:
        import distributed
    except ImportError:
        raise MissingDependency("distributed", extra="dask", purpose="The engine 'dask'") from None
    local: dict[str, Any] = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": ":0"}
    try:
        client = distributed.Client(scheduler, **({} if scheduler else local))
    except (OSError, ValueError) as error:
        raise InputError(f"found {scheduler!r}: {error}", field="scheduler") from None
    # Dask runs a part again if its worker dies; the result that arrives is added once.
    with client:
        if scheduler is None:
            client.run(_ignore_interrupts)
        pool = client.get_executor(pure=False)
        try:
            yield pool, lambda: max(1, sum(client.nthreads().values()))
        except distributed.KilledWorker as error:
            raise TrboundsError(f"workers died again and again: {error}") from None
        finally:
            # Waiting for what is under way, as a with block does, could wait for ever.
            pool.shutdown(wait=False)
