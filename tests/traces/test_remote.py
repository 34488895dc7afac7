"""Remote paths through fsspec, on its in-memory storage; and compressed files that unfold."""

import gzip
import json
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from trbounds.errors import InputError, MissingDependency
from trbounds.traces import example_path, expand_paths, open_trace, summarize

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


def test_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependency, match=r"trbounds\[remote\]"):
        list(open_trace("s3://bucket/a.parquet"))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("content", [b"\n", b" ", b"0"])
def test_compressed_bombs(tmp_path, monkeypatch, kind, content):
    monkeypatch.setattr("trbounds.traces.source._MUCH", 1 << 23)
    monkeypatch.setattr("trbounds.traces.source.MAX_LINE_BYTES", 1 << 30)
    path = tmp_path / "a.jsonl"
    if kind == "gzip":
        path.write_bytes(gzip.compress(LINE + content * (1 << 25)))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(LINE + content * (1 << 25))
    with pytest.raises(InputError, match="unfolds to more than 500 times"):
        list(open_trace(path))
