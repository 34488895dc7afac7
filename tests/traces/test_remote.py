"""Remote paths through fsspec, on its in-memory storage; and compressed files that unfold."""

import gzip
import json
import sys
import threading
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.registry import _registry

from trbounds.errors import InputError, MissingDependency
from trbounds.traces import TraceSummary, example_path, expand_paths, open_trace, summarize
from trbounds.traces.partition import partition
from trbounds.traces.remote import open_remote
from trbounds_cli import main

DATA = Path(__file__).parents[1] / "data"
ROW = {"rollout_logprobs": [-1.0, -2.0], "train_logprobs": [-1.0, -2.5]}
LINE = json.dumps(ROW).encode() + b"\n"


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pipe("/runs/a/moe.parquet", (DATA / "moe.parquet").read_bytes())
    files.pipe("/runs/a/example.jsonl.gz", Path(example_path()).read_bytes())
    files.pipe("/runs/b/one.jsonl", LINE * 3)
    files.pipe("/runs/b/.hidden.jsonl", b"no")
    files.pipe("/runs/.ipynb_checkpoints/one.jsonl", LINE)
    files.pipe("/runs/b/_temporary/0/one.jsonl", LINE)
    files.pipe("/runs/b/notes.txt", b"no")
    yield files
    files.store.clear()


def test_files_directories_and_patterns(bucket):
    a = ["memory:///runs/a/example.jsonl.gz", "memory:///runs/a/moe.parquet"]
    b = ["memory:///runs/b/one.jsonl"]
    strip = [path.replace("memory:///", "memory://") for path in (*a, *b)]

    def plain(paths):
        return [path.replace("memory:///", "memory://") for path in expand_paths(paths)]

    assert plain("memory://runs") == strip
    assert plain("memory://runs/**/*.parquet") == strip[1:2]
    assert plain("memory://runs/b/one.jsonl") == strip[2:]
    assert plain(["memory://runs/b/one.jsonl", "memory://runs/b/one.jsonl"]) == strip[2:]


@pytest.mark.parametrize("name", ["moe.parquet", "example.jsonl.gz"])
def test_the_same_as_near(bucket, name):
    near = {"moe.parquet": DATA / "moe.parquet", "example.jsonl.gz": example_path()}[name]
    remote = summarize(f"memory://runs/a/{name}")
    expected = summarize(near)
    assert remote.n_tokens == expected.n_tokens
    assert np.array_equal(remote.sequences["log_weight"], expected.sequences["log_weight"])
    assert remote.files == [f"memory://runs/a/{name}"]


def test_slime_files_are_read_remotely(bucket, torch_writer, tmp_path):
    tensor = torch_writer.Tensor(np.array([-1.0, -0.5], np.float32))
    sample = {"rollout_log_probs": tensor, "log_probs": tensor}
    path = torch_writer.save({"format_version": 2, "samples": [sample]}, tmp_path / "4.pt")
    bucket.pipe("/runs/4.pt", path.read_bytes())
    (batch,) = open_trace("memory://runs/4.pt")
    assert batch.rollout_logprobs.tolist() == [-1.0, -0.5]
    assert batch.step.tolist() == [4]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("memory://runs/none.jsonl", "no such file"),
        ("memory://runs/*.nothing", "none that matches"),
        ("nonsense://x", "cannot be read: ValueError: Protocol not known"),
    ],
)
def test_bad_paths(bucket, path, problem):
    with pytest.raises(InputError, match=problem) as caught:
        list(open_trace(path))
    assert caught.value.file == path


def test_errors_of_a_storage_are_input_errors(bucket, monkeypatch):
    class StorageError(Exception):
        pass

    def broken(self, *arguments):
        raise StorageError("credentials")

    file = "memory://runs/b/one.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("fsspec.implementations.memory.MemoryFile.read", broken, raising=False)
        with pytest.raises(InputError, match="StorageError: credentials"):
            list(open_trace(file))
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.isfile", broken)
    with pytest.raises(InputError, match="StorageError: credentials"):
        list(open_trace(file))


def test_saved_summaries_are_read_remotely(bucket, tmp_path, capsys):
    summary = summarize(DATA / "moe.parquet")
    summary.save(tmp_path / "run.tbs")
    data = (tmp_path / "run.tbs").read_bytes()
    for name in ("runs/a.tbs", "runs/b.tbs"):
        bucket.pipe(f"/{name}", data)
    loaded = TraceSummary.load("memory://runs/a.tbs")
    loaded.save(tmp_path / "again.tbs")
    assert (tmp_path / "again.tbs").read_bytes() == data
    for path in ("memory://runs/a.tbs", "memory://runs/a*.tbs"):
        assert summarize(path).n_tokens == summary.n_tokens
    with pytest.raises(InputError, match="found twice"):
        summarize("memory://runs/*.tbs")
    with pytest.raises(SystemExit) as stop:
        main(["verify", "memory://runs/a.tbs", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["trace"]["tokens"] == summary.n_tokens


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_damaged_remote_summaries(bucket, tmp_path, size):
    summarize(example_path()).save(tmp_path / "run.tbs")
    bucket.pipe("/runs/a.tbs", (tmp_path / "run.tbs").read_bytes()[:size])
    for load in (TraceSummary.load, summarize):
        with pytest.raises(InputError, match="not a readable trbounds summary") as caught:
            load("memory://runs/a.tbs")
        assert caught.value.file == "memory://runs/a.tbs"


def test_storage_errors_on_summaries(bucket, tmp_path, monkeypatch):
    class StorageError(Exception):
        pass

    def broken(self, *arguments):
        raise StorageError("credentials")

    with pytest.raises(InputError, match=r"memory://runs/none\.tbs: no such file"):
        TraceSummary.load("memory://runs/none.tbs")
    summarize(example_path()).save(tmp_path / "run.tbs")
    bucket.pipe("/runs/a.tbs", (tmp_path / "run.tbs").read_bytes())
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", broken, raising=False)
    with pytest.raises(InputError, match="StorageError: credentials"):
        TraceSummary.load("memory://runs/a.tbs")


def test_a_remote_file_is_one_part(bucket, monkeypatch):
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", 1)
    (part,) = partition("memory://runs/b/one.jsonl")
    assert (part.first, part.stop, part.first_record) == (0, 0, -1)


def test_summaries_are_not_written_to_remote_paths(bucket, tmp_path, capsys):
    for output, problem in (
        ("memory://runs/new.tbs", "found a remote path, expected a local one"),
        (str(tmp_path / "none" / "a.tbs"), "no such folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["summarize", example_path(), "-o", output])
        assert stop.value.code == 2
        assert problem in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")]
)
def test_a_missing_package_is_named(monkeypatch, protocol, package):
    monkeypatch.setitem(sys.modules, package, None)
    # What was imported before, by another test, is kept here.
    monkeypatch.delitem(_registry, protocol, raising=False)
    for read in (TraceSummary.load, summarize):
        with pytest.raises(MissingDependency, match=r"trbounds\[remote\]") as caught:
            read(f"{protocol}://bucket/run.tbs")
        assert caught.value.package == package


def test_what_the_extra_does_not_install_is_named_by_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(InputError, match="Install adlfs") as caught:
        summarize("abfs://bucket/a.jsonl")
    assert caught.value.file == "abfs://bucket/a.jsonl"


def test_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependency, match=r"trbounds\[remote\]"):
        list(open_trace("s3://bucket/a.parquet"))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("content", [b"\n", b" ", b"0"])
def test_compressed_bombs(tmp_path, monkeypatch, kind, content):
    monkeypatch.setattr("trbounds.traces.source._MUCH", 1 << 23)
    monkeypatch.setattr("trbounds.traces.json_lines.MAX_LINE_BYTES", 1 << 30)
    path = tmp_path / "a.jsonl"
    if kind == "gzip":
        path.write_bytes(gzip.compress(LINE + content * (1 << 25)))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(LINE + content * (1 << 25))
    with pytest.raises(InputError, match="unfolds to more than 500 times"):
        list(open_trace(path))


def test_the_size_of_a_remote_file_is_known(bucket, monkeypatch):
    (part,) = partition("memory://runs/b/one.jsonl")
    assert part.size == part.file_size == 3 * len(LINE)
    seen = []
    summarize("memory://runs/b/one.jsonl", on_progress=seen.append)
    assert seen[-1].bytes_done == seen[-1].bytes == 3 * len(LINE)


def test_several_threads_read_one_remote_file(bucket):
    data = np.random.default_rng(0).bytes(1 << 20)
    bucket.pipe("/runs/data.bin", data)
    first = open_remote("memory://runs/data.bin")
    assert first.size == len(data)
    wrong = []

    def work(seed):
        file, random = first.again(), np.random.default_rng(seed)
        for start, size in random.integers(0, [len(data), 5000], (3000, 2)).tolist():
            file.seek(start)
            if file.read(size) != data[start : start + size]:
                wrong.append((start, size))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they get into each other's way
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert not wrong


def test_archives_and_chains(tmp_path):
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        for name in ("a/0.jsonl", "a/1.jsonl", "b.jsonl"):
            archive.writestr(name, LINE * 3)
    (tmp_path / "0.jsonl").write_bytes(LINE)
    for path, sequences in (
        (f"zip://b.jsonl::{tmp_path}/runs.zip", 3),
        (f"zip://a/*.jsonl::{tmp_path}/runs.zip", 6),
        (f"zip://a::file://{tmp_path}/runs.zip", 6),
        (f"simplecache::file://{tmp_path}/*.jsonl", 1),
        (f"file://{tmp_path}", 1),
    ):
        assert summarize(path).n_sequences == sequences
        for file, given in zip(expand_paths(path)[0].split("::"), path.split("::"), strict=True):
            assert file.partition("://")[0] == given.partition("://")[0]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("ftp://user:hush@127.0.0.1:1/a.jsonl", "ftp://***@127.0.0.1:1/a.jsonl"),
        ("nonsense://user:hu@sh@host/a.jsonl", "nonsense://***@host/a.jsonl"),
        (
            "nonsense://host/a.jsonl?X-Amz-Signature=hush&v=1&X-Amz-Security-Token=hush",
            "nonsense://host/a.jsonl?X-Amz-Signature=***&v=1&X-Amz-Security-Token=***",
        ),
        ("nonsense://host/a.tbs?sv=2&sig=hush%3D", "nonsense://host/a.tbs?sv=2&sig=***"),
    ],
)
def test_no_error_shows_credentials(path, shown, capsys):
    with pytest.raises(InputError) as caught:
        summarize(path)
    assert str(caught.value).startswith(shown + ": cannot be read: ")
    assert caught.value.file == path
    with pytest.raises(SystemExit) as stop:
        main(["verify", path])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert shown in error
    assert "hush" not in error


def test_a_message_of_a_library_shows_no_credentials(bucket, monkeypatch):
    def broken(self, *arguments):
        raise OSError("403, url='https://user:hush@host/a?x=1&Signature=hush', or so")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", broken, raising=False)
    with pytest.raises(InputError) as caught:
        list(open_trace("memory://runs/b/one.jsonl"))
    assert "url='https://***@host/a?x=1&Signature=***', or so" in str(caught.value)
    assert "hush" not in caught.value.problem


def test_a_file_that_ends_before_its_size(bucket, monkeypatch):
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.size", 1000, raising=False)
    with pytest.raises(InputError, match="found 201 bytes, expected 1000"):
        summarize("memory://runs/b/one.jsonl")
