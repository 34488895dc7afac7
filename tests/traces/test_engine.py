"""One result from every engine, whatever is interrupted, killed, damaged or left out."""

import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError, MissingDependency, TrboundsError
from trbounds.traces import TraceSummary, engine, example_path, open_trace, summarize
from trbounds.traces.partition import Part, partition
from trbounds.traces.summary_file import _arrays, _document

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", 60_000)


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C raises, also where the suite was started in the background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two files of many row groups each, and one that is read as a whole."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("moe", "stale_k16"):
        table = pq.read_table(DATA / f"{name}.parquet")
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=10)
    return [folder, example_path()]


@pytest.fixture(scope="module")
def expected(inputs):
    """The same sequences without an engine and without parts."""
    out = TraceSummary()
    for batch in open_trace(inputs):
        out.absorb(TraceSummary.of(batch))
    return out


def assert_same(one, two):
    assert _document(one) == _document(two)
    first, second = _arrays(one), _arrays(two)
    assert first.keys() == second.keys()
    for name, values in first.items():
        other = second[name]
        if values.ndim == 2:
            values, other = values.sum(axis=0), other.sum(axis=0)
        np.testing.assert_allclose(values, other, rtol=1e-12, atol=1e-15, err_msg=name)


class Interrupt:
    """Ctrl-C once a number of parts is done."""

    def __init__(self, after):
        self.after = after

    def __call__(self, progress):
        if progress.parts_done >= self.after:
            signal.raise_signal(signal.SIGINT)


# ---- parts


def test_parts_cover_every_group_once(inputs):
    parts = partition(inputs)
    assert len(parts) > 8
    for name in ("moe", "stale_k16"):
        file = str(inputs[0] / f"{name}.parquet")
        own = [part for part in parts if part.file == file]
        groups = [group for part in own for group in range(part.first, part.stop)]
        assert groups == list(range(pq.ParquetFile(file).num_row_groups))
        assert {part.file_size for part in own} == {os.path.getsize(file)}
    assert parts[-1] == Part(
        example_path(), 0, 0, os.path.getsize(example_path()), os.path.getsize(example_path())
    )


def test_small_files_and_summaries_are_one_part(tmp_path, expected):
    expected.save(tmp_path / "a.tbs")
    (part,) = partition(tmp_path / "a.tbs")
    assert (part.first, part.stop) == (0, 0)
    assert_same(summarize(tmp_path / "a.tbs"), expected)


# ---- engines


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes(inputs, expected, jobs):
    seen = []
    summary = summarize(inputs, jobs=jobs, on_progress=seen.append)
    assert_same(summary, expected)
    last = seen[-1]
    assert last.parts_done == last.parts == len(partition(inputs))
    assert last.bytes_done == last.bytes > 0
    assert (last.sequences, last.tokens) == (expected.n_sequences, expected.n_tokens)
    assert last.tokens_read == last.tokens
    assert [p.tokens for p in seen] == sorted(p.tokens for p in seen)


def test_dask_with_a_worker_killed(inputs, expected):
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=3, **options) as cluster:
        client = distributed.Client(cluster)
        killed = []

        def kill(progress):
            busy = [address for address, keys in client.processing().items() if keys]
            if not killed and busy and progress.parts_done >= 2:
                pids = client.run(os.getpid)
                os.kill(pids[busy[0]], signal.SIGKILL)
                killed.append((busy[0], progress.parts_done))

        with client:
            summary = summarize(
                inputs, engine="dask", scheduler=cluster.scheduler_address, on_progress=kill
            )
    ((_, done),) = killed
    assert done < len(partition(inputs))
    assert_same(summary, expected)


def test_ctrl_c_at_a_terminal_with_dask(inputs, tmp_path):
    # It reaches the whole process group, and so the workers of a cluster started here.
    script = f"""
import importlib, os, signal
from trbounds.traces import summarize
importlib.import_module("trbounds.traces.partition")._PART_BYTES = 60_000
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(progress):
    if progress.parts_done == 2:
        os.killpg(0, signal.SIGINT)
try:
    summarize({os.fspath(inputs[0])!r}, engine="dask", jobs=2,
              save_partial={os.fspath(tmp_path / "a.tbs")!r}, on_progress=interrupt)
except KeyboardInterrupt:
    print("interrupted")
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout) == (0, "interrupted\n")
    assert "KeyboardInterrupt" not in run.stderr
    assert TraceSummary.load(tmp_path / "a.tbs").partial.left > 0


def test_errors_come_back_from_processes(tmp_path):
    record = {"rollout_logprobs": [-1.0], "train_logprobs": [0.5]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"a\.jsonl, record 0, field 'train_logprobs'") as caught:
        summarize(tmp_path, jobs=2)
    assert (caught.value.record, caught.value.field) == (0, "train_logprobs")
    missing = MissingDependency("pyarrow", extra="traces", purpose="Reading")
    copy = pickle.loads(pickle.dumps(missing))
    assert (str(copy), copy.package, copy.extra) == (str(missing), "pyarrow", "traces")


def test_a_pool_that_breaks_is_an_error(inputs, monkeypatch):
    class Broken(engine.ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            raise BrokenProcessPool("a process was terminated abruptly")

    monkeypatch.setattr(engine, "ProcessPoolExecutor", Broken)
    with pytest.raises(TrboundsError, match="ended abruptly"):
        summarize(inputs, jobs=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"jobs": 0}, "at least 1"),
        ({"engine": "spark"}, "'local' or 'dask'"),
        ({"scheduler": "tcp://localhost:1"}, "engine is not 'dask'"),
        ({"engine": "dask", "scheduler": "nowhere"}, "scheduler"),
        ({"format": "nonsense"}, "expected one of"),
    ],
)
def test_bad_options(inputs, options, problem):
    with pytest.raises(InputError, match=problem):
        summarize(inputs, **options)


def test_dask_is_an_extra(inputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependency, match=r"needs distributed.*\[dask\]"):
        summarize(inputs, engine="dask")


def test_workers_that_always_die_are_an_error(inputs, monkeypatch):
    class Dying:
        def submit(self, work, part):
            future = Future()
            future.set_exception(
                distributed.KilledWorker("part", SimpleNamespace(address="here"), 3)
            )
            return future

        def shutdown(self, wait):
            assert not wait

    monkeypatch.setattr(distributed.Client, "get_executor", lambda self, pure: Dying())
    with pytest.raises(TrboundsError, match="workers died again and again"):
        summarize(inputs, engine="dask")


def test_the_compiled_pass_is_the_same_on_files(inputs, expected):
    summary = summarize(inputs, kernel="numba")
    assert summary.counts == expected.counts
    for name in ("chi2_sum", "k3_sum", "residual_path", "abs_ratio_sum"):
        np.testing.assert_allclose(
            summary.sequences[name], expected.sequences[name], rtol=1e-12, atol=1e-18
        )
    for name in ("kl", "k3", "square"):
        one, two = (part.positions.mean(name) for part in (summary, expected))
        np.testing.assert_allclose(one, two, rtol=1e-13)


def test_standard_input_stays_in_this_process():
    with pytest.raises(InputError, match="standard input"):
        summarize("-", jobs=2)


# ---- interruption


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_is_continued(inputs, expected, tmp_path, jobs):
    file = tmp_path / "run.tbs"
    with pytest.raises(KeyboardInterrupt):
        summarize(inputs, jobs=jobs, save_partial=file, on_progress=Interrupt(3))
    partial = TraceSummary.load(file)
    parts = set(partition(inputs))
    assert len(partial.partial.done) == 3
    assert partial.partial.done < parts
    assert partial.partial.left == len(parts) - 3
    assert str(partial.partial) == f"partial: 3 of {len(parts)} parts of the inputs"
    assert 0 < partial.n_sequences < expected.n_sequences
    # A second interruption, then the end.
    with pytest.raises(KeyboardInterrupt):
        summarize(inputs, resume=partial, save_partial=file, on_progress=Interrupt(5))
    seen = []
    final = summarize(inputs, resume=TraceSummary.load(file), on_progress=seen.append)
    assert seen[-1].tokens - seen[-1].tokens_read == TraceSummary.load(file).n_tokens
    assert final.partial is None
    assert_same(final, expected)


def test_an_interruption_waits_until_a_part_is_added(inputs, expected, tmp_path, monkeypatch):
    absorb = TraceSummary.absorb

    def interrupted(self, other):
        if other.n_sequences and self.n_sequences >= 64:
            signal.raise_signal(signal.SIGINT)
        absorb(self, other)

    monkeypatch.setattr(TraceSummary, "absorb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        summarize(inputs, save_partial=tmp_path / "run.tbs")
    monkeypatch.setattr(TraceSummary, "absorb", absorb)
    partial = TraceSummary.load(tmp_path / "run.tbs")
    assert len(partial.sequences) == partial.n_sequences > 64
    assert_same(summarize(inputs, resume=partial), expected)


def test_a_partial_summary_stays_marked(inputs, expected, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        summarize(inputs, save_partial=tmp_path / "a.tbs", on_progress=Interrupt(2))
    partial = TraceSummary.load(tmp_path / "a.tbs")
    merged = TraceSummary().merge(partial)
    assert merged.partial == partial.partial
    other = TraceSummary()
    other.partial = partial.partial.__class__(frozenset({Part("x")}), 4)
    both = merged.merge(other).partial
    assert (len(both.done), both.left) == (3, partial.partial.left + 4)
    assert summarize(tmp_path / "a.tbs").partial == partial.partial


def test_resuming_needs_the_same_inputs(inputs, expected, tmp_path):
    with pytest.raises(InputError, match="complete"):
        summarize(inputs, resume=expected)
    with pytest.raises(KeyboardInterrupt):
        summarize(inputs, save_partial=tmp_path / "a.tbs", on_progress=Interrupt(2))
    with pytest.raises(InputError, match="not among the inputs or has changed"):
        summarize(example_path(), resume=TraceSummary.load(tmp_path / "a.tbs"))
    partial = TraceSummary.load(tmp_path / "a.tbs")
    with pytest.raises(InputError, match="one range"):
        summarize(inputs, resume=partial, reward_range=(0, 2))


def test_a_failure_keeps_what_was_done(inputs, tmp_path):
    bad = tmp_path / "b.jsonl"
    bad.write_text("{]")
    with pytest.raises(InputError, match=r"b\.jsonl"):
        summarize([example_path(), bad], save_partial=tmp_path / "run.tbs")
    partial = TraceSummary.load(tmp_path / "run.tbs")
    assert [part.file for part in partial.partial.done] == [example_path()]
    resumed = summarize([example_path(), bad], on_error="skip", resume=partial)
    assert (resumed.n_sequences, resumed.counts["skipped"]) == (128, 1)
    with pytest.raises(InputError):
        summarize(bad, save_partial=tmp_path / "none.tbs")
    assert not (tmp_path / "none.tbs").exists()


# ---- what is left out


def damaged(path, group):
    """Overwrite the second half of a page of one row group."""
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(group).column(9)
    half = column.total_compressed_size // 2
    start = column.data_page_offset + half
    data[start : start + half] = b"\xff" * half
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("size", [1, 60_000, 10**9])
def test_a_damaged_row_group_costs_its_rows_alone(tmp_path, monkeypatch, size):
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", size)
    file = tmp_path / "a.parquet"
    table = pq.read_table(DATA / "moe.parquet")
    pq.write_table(table, file, row_group_size=10, compression="zstd", use_dictionary=False)
    damaged(file, 3)
    with pytest.raises(InputError, match=r"record 30: row group 3 cannot be read"):
        summarize(file)
    summary = summarize(file, on_error="skip")
    assert summary.counts["skipped"] == 1
    (skipped,) = summary.skipped
    assert (skipped.file, skipped.record) == (str(file), 30)
    records = summary.sequences["record"]
    assert records.tolist() == [r for r in range(table.num_rows) if not 30 <= r < 40]


def test_a_fault_of_the_schema_counts_once(tmp_path):
    table = pq.read_table(DATA / "moe.parquet").drop_columns("train_logprobs")
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    with pytest.raises(InputError, match="train_logprobs"):
        summarize(tmp_path)
    summary = summarize([tmp_path, example_path()], on_error="skip")
    assert summary.counts["skipped"] == 1
