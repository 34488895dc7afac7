"""``s3://``, ``gs://`` and ``hf://``, through what fsspec uses for each, from servers on this
machine: the numbers of the same files near, what is fetched for them, and what fails.
"""

import gc
import importlib
import importlib.util
import io
import json
import logging
import random
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.traces.storage_servers import S3, Gcs, Hub, Storage
from trbounds.errors import InputError
from trbounds.traces import (
    TraceSummary,
    example_path,
    expand_paths,
    open_trace,
    remote,
    source,
    summarize,
)
from trbounds.traces.source import Source
from trbounds_cli import main

DATA = Path(__file__).parents[1] / "data"
ROW = {"rollout_logprobs": [-1.0, -2.0], "train_logprobs": [-1.0, -2.5]}
LINE = json.dumps(ROW).encode() + b"\n"
KINDS = {
    "s3": ("s3fs", S3, "s3://bucket/"),
    "gs": ("gcsfs", Gcs, "gs://bucket/"),
    "hf": ("huggingface_hub", Hub, "hf://datasets/team/runs/"),
}


def serve(kind, monkeypatch, tmp_path):
    """Start a storage that holds runs/, and tell it to fsspec, here and in child processes."""
    package, handler, root = KINDS[kind]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (the extra 'remote')")
    storage = Storage(handler)
    storage.root, url = root, storage.url
    set_to = {
        "s3": {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "AWS_MAX_ATTEMPTS": "1",
        },
        "gs": {"STORAGE_EMULATOR_HOST": url, "FSSPEC_GS_TOKEN": "anon"},
        "hf": {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub")},
    }[kind]
    if kind == "hf":
        # Read once, at import.
        constants = importlib.import_module("huggingface_hub.constants")
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Once a day it asks which programs it may run in, and keeps the answer at home.
        kept = str(tmp_path / "harnesses")
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", kept, raising=False)
        # Its handler writes to what standard error was when it was imported.
        monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    # Else it asks Google, over gRPC, what kind of bucket it is. It is read once, at import.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if kind == "gs":
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    return storage


def forget(storage):
    """Stop a storage, and close what fsspec keeps of it."""
    storage.stop()
    protocol = storage.root.partition("://")[0]
    fsspec.get_filesystem_class(protocol).clear_instance_cache()
    gc.collect()


@pytest.fixture(params=KINDS)
def storage(request, monkeypatch, tmp_path):
    storage = serve(request.param, monkeypatch, tmp_path)
    yield storage
    forget(storage)


@pytest.fixture
def without_waiting(monkeypatch):
    """Have every library try again at once, as often as it does."""

    async def at_once(seconds):
        pass

    for module in ("gcsfs.retry", "s3fs.core"):
        if importlib.util.find_spec(module.partition(".")[0]):
            module = importlib.import_module(module)
            fake = SimpleNamespace(**vars(module.asyncio) | {"sleep": at_once})
            monkeypatch.setattr(module, "asyncio", fake)
    if importlib.util.find_spec("huggingface_hub"):
        http = importlib.import_module("huggingface_hub.utils._http")
        fake = SimpleNamespace(**vars(http.time) | {"sleep": lambda seconds: None})
        monkeypatch.setattr(http, "time", fake)


@pytest.fixture
def near(tmp_path, torch_writer):
    """A directory of traces as people have them."""
    folder = tmp_path / "runs"
    (folder / "step=3" / "_temporary").mkdir(parents=True)
    shutil.copy(DATA / "moe.parquet", folder / "step=3" / "moe.parquet")
    shutil.copy(DATA / "moe.parquet", folder / "step=3" / "_temporary" / "moe.parquet")
    shutil.copy(example_path(), folder / "a b+c.jsonl.gz")
    values = torch_writer.Tensor(np.array([-1.0, -0.5], np.float32))
    samples = [
        {"rollout_log_probs": values, "log_probs": values, "reward": reward, "group_index": 0}
        for reward in (0.0, 1.0)
    ]
    torch_writer.save({"format_version": 2, "samples": samples}, folder / "4.pt")
    summarize(DATA / "moe.parquet").save(folder / "step=3" / "run.tbs")
    (folder / "notes.txt").write_text("no trace")
    return folder


def put(storage, folder):
    for file in folder.rglob("*"):
        if file.is_file():
            storage.objects[f"runs/{file.relative_to(folder).as_posix()}"] = file.read_bytes()


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_every_number_is_that_of_the_same_files_near(storage, near, capsys):
    put(storage, near)
    for words in (
        ("verify", ""),
        ("verify", "/**/*.parquet"),
        ("verify", "/a b+c.jsonl.gz"),
        ("summarize", "/step=3/run.tbs", "--output", str(near.parent / "again.tbs")),
        ("metrics", "/*.pt"),
    ):
        command, path, *options = words
        far = run(capsys, command, storage.root + "runs" + path, *options, "--json")
        here = run(capsys, command, str(near) + path, *options, "--json")
        assert far[0] == here[0] == 0, far[2]
        assert far[1].replace(storage.root + "runs", str(near)) == here[1]
        assert json.loads(far[1])


def test_written_files_are_those_of_the_same_files_near(storage, near, capsys):
    put(storage, near)
    masks, trace = near.parent / "masks.parquet", near.parent / "trace.parquet"
    path = "/step=3/moe.parquet"
    for words, out in (
        (("mask", "--rule", "token k2 <= 0.05", "-o", str(masks)), masks),
        (("convert", "-o", str(trace)), trace),
    ):
        tables = []
        for root in (storage.root + "runs", str(near)):
            assert run(capsys, words[0], root + path, *words[1:])[0] == 0
            tables.append(pq.read_table(out))
        far, here = (table.drop_columns("file") if out == masks else table for table in tables)
        assert far.num_rows > 0
        assert far.equals(here)


def test_child_processes_find_the_storages(near, monkeypatch, tmp_path):
    storages = []
    try:
        for kind in KINDS:
            storages.append(serve(kind, monkeypatch, tmp_path))
            put(storages[-1], near)
        file = "runs/step=3/moe.parquet"
        together = summarize([storage.root + file for storage in storages], jobs=2)
    finally:
        for storage in storages:
            forget(storage)
    alone = summarize(near / "step=3" / "moe.parquet")
    assert together.n_tokens == 3 * alone.n_tokens
    assert together.files == sorted(storage.root + file for storage in storages)
    for number in range(3):
        rows = together.sequences["file"] == number
        values = together.sequences["log_weight"][rows]
        assert np.array_equal(values, alone.sequences["log_weight"])


def test_listings_in_pages(storage):
    storage.page = 2
    names = [f"runs/{folder}/{i}.jsonl" for folder in ("a", "a/b", "step=1") for i in range(5)]
    storage.objects |= dict.fromkeys(names, b"{}\n")
    assert expand_paths(storage.root + "runs") == [storage.root + name for name in names]
    assert expand_paths(storage.root + "runs/*/3.jsonl") == [
        storage.root + f"runs/{folder}/3.jsonl" for folder in ("a", "step=1")
    ]
    # A listing that ends early would be a trace that lacks a part.
    storage.failing_page = 1
    for path in ("runs", "runs/**/3.jsonl"):
        with pytest.raises(InputError, match="cannot be read"):
            expand_paths(storage.root + path)


def test_what_was_written_since_is_found(storage):
    storage.objects |= {"runs/a/0.jsonl": b"{}\n", "runs/b.jsonl": b"{}\n"}
    assert len(expand_paths(storage.root + "runs")) == 2
    storage.objects |= {"runs/a/1.jsonl": b"{}\n", "runs/c.jsonl": b"{}\n"}
    for path, found in (("runs", 4), ("runs/a", 2), ("runs/*", 2), ("runs/**/*.jsonl", 4)):
        assert len(expand_paths(storage.root + path)) == found


def test_files_that_changed_since_they_were_listed(storage, tmp_path):
    """A process that reads no directory, such as a worker, keeps the listings of the last run."""
    paths = {}
    for n in (3, 7000):
        trace = tmp_path / f"{n}.jsonl"
        trace.write_bytes(LINE * n)
        paths[n] = tmp_path / f"{n}.tbs"
        summarize(trace).save(paths[n])
    small, large = (paths[n].read_bytes() for n in (3, 7000))
    storage.objects |= {"runs/a.jsonl": LINE * 9, "runs/a.tbs": small}
    expand_paths(storage.root + "runs")
    file = storage.root + "runs/a.jsonl"
    assert sum(block.count(b"\n") for block in Source(file).blocks_of_lines(1 << 20)) == 9
    storage.objects |= dict.fromkeys(("runs/a.tbs", "runs/b.tbs"), large)
    storage.objects["runs/a.jsonl"] = LINE * 30
    assert sum(block.count(b"\n") for block in Source(file).blocks_of_lines(1 << 20)) == 30
    for name in ("runs/a.tbs", "runs/b.tbs"):
        assert TraceSummary.load(storage.root + name).n_sequences == 7000


@pytest.mark.parametrize("late", [LINE.replace(b"2", b"3") * 5000, LINE * 4990, LINE * 9000, None])
def test_a_file_that_changes_while_it_is_read(storage, monkeypatch, without_waiting, late):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(source, "_BLOCK_BYTES", 1 << 12)
    storage.objects["a.jsonl"] = LINE * 5000
    blocks = Source(storage.root + "a.jsonl").blocks_of_lines(1 << 20)
    next(blocks)
    if late is None:
        del storage.objects["a.jsonl"]
    else:
        storage.objects["a.jsonl"] = late
    with pytest.raises(InputError) as caught:
        list(blocks)
    assert caught.value.file == storage.root + "a.jsonl"


def test_a_hub_that_names_no_commit(monkeypatch, tmp_path):
    storage = serve("hf", monkeypatch, tmp_path)
    try:
        storage.objects["a.jsonl"] = LINE
        monkeypatch.setattr(Hub, "about_objects", lambda self: {"X-Repo-Commit": ""})
        with pytest.raises(InputError, match=r"does not name the commit \(X-Repo-Commit\)"):
            remote.open_remote(storage.root + "a.jsonl")
    finally:
        forget(storage)


def test_what_is_not_there(storage, near, capsys):
    put(storage, near)
    elsewhere = storage.root.replace("bucket", "other").replace("team", "other")
    for path in (
        storage.root + "runs/none.parquet",
        storage.root + "runs/*.nothing",
        storage.root + "none/",
        elsewhere + "runs/4.pt",
    ):
        code, out, error = run(capsys, "verify", path)
        assert (code, out) == (2, "")
        assert f"error: {path}: no such file" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("status", [403, 503])
def test_a_storage_that_refuses(storage, near, capsys, without_waiting, status):
    put(storage, near)
    storage.status = status
    for path in ("runs/4.pt", "runs", "runs/*"):
        code, out, error = run(capsys, "verify", storage.root + path)
        assert (code, out) == (2, "")
        assert error.startswith(f"trbounds: error: {storage.root}{path}: cannot be read: ")
        assert error.count("\n") == 1


def test_a_storage_that_is_not_there(storage, capsys, without_waiting):
    storage.stop()
    code, out, error = run(capsys, "verify", storage.root + "runs")
    assert (code, out) == (2, "")
    assert error.startswith(f"trbounds: error: {storage.root}runs: cannot be read: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["step=3/moe.parquet", "a b+c.jsonl.gz", "4.pt", "step=3/run.tbs"])
def test_a_connection_that_ends_in_the_middle(storage, near, capsys, without_waiting, name):
    put(storage, near)
    path = storage.root + "runs/" + name
    storage.cut = len(storage.objects["runs/" + name]) // 2
    code, out, error = run(capsys, "summarize", path)
    assert (code, out) == (2, "")
    assert f"error: {path}: cannot be read: " in error
    assert "Traceback" not in error


def test_a_fault_of_the_storage_is_no_damage_of_the_file(storage, monkeypatch, without_waiting):
    table = pa.table({name: [[-1.0]] * 6000 for name in ("rollout_logprobs", "train_logprobs")})
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=500, compression="none", use_dictionary=False)
    storage.objects["a.parquet"] = out.getvalue()
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(remote, "_BLOCKS", 4)
    faults = []
    batches = open_trace(storage.root + "a.parquet", on_error="skip", on_skip=faults.append)
    read = next(batches).n_sequences
    storage.status = 503
    read += sum(batch.n_sequences for batch in batches)
    assert 500 <= read < 6000
    (fault,) = faults
    assert fault.record is None
    assert fault.problem.startswith("cannot be read: ")


def test_every_byte_is_fetched_about_once(storage, monkeypatch):
    rng = np.random.default_rng(1)
    names = ("kl", "tv", "entropy", "advantages", "rollout_logprobs", "train_logprobs", "unused")
    values = {name: rng.random(100_000) * (-1) ** ("log" in name) for name in names}
    rows = {
        name: pa.FixedSizeListArray.from_arrays(column, 100).cast(pa.list_(pa.float64()))
        for name, column in values.items()
    }
    out = io.BytesIO()
    pq.write_table(pa.table(rows), out, use_dictionary=False, data_page_size=1 << 14)
    storage.objects["a.parquet"] = data = out.getvalue()
    block = 1 << 17
    monkeypatch.setattr(remote, "_BLOCK_BYTES", block)
    assert len(data) > (remote._BLOCKS + 10) * block  # more blocks than are kept
    read = [batch.kl for batch in open_trace(storage.root + "a.parquet")]
    assert np.array_equal(np.concatenate(read), values["kl"])
    # Page headers are looked at before anything is decoded, hence twice what is not kept.
    assert storage.sent < 2.2 * len(data)
    assert len(storage.requests) < 2.2 * len(data) / block + 20


def test_memory_is_free_when_a_file_is_read(storage, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 16)
    data = random.Random(1).randbytes(1 << 20)
    storage.objects |= {f"{number}": data for number in range(8)}
    Source(storage.root + "0").open_raw().read()  # imports
    gc.collect()
    gc.disable()  # nothing may wait for it
    tracemalloc.start()
    try:
        for number in range(8):
            with Source(storage.root + f"{number}").open_raw() as stream:
                assert stream.read() == data
        assert tracemalloc.get_traced_memory()[0] < 2 << 20
    finally:
        tracemalloc.stop()
        gc.enable()


def test_memory_is_bounded(storage, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 16)
    storage.objects["large"] = data = random.Random(1).randbytes(1 << 22)
    stream = remote.open_remote(storage.root + "large")
    assert stream.read(1 << 16) == data[: 1 << 16]
    tracemalloc.start()
    try:
        for at in range(1 << 16, 1 << 22, 1 << 16):
            assert stream.read(1 << 16) == data[at : at + (1 << 16)]
        assert tracemalloc.get_traced_memory()[1] < 40 << 16
    finally:
        tracemalloc.stop()
    assert stream.read(1) == b""


def test_a_remote_file_is_a_file(storage, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 1 << 12)
    storage.objects["some"] = data = random.Random(2).randbytes(50_000)
    far, same, near = remote.open_remote(storage.root + "some"), None, io.BytesIO(data)
    draw = random.Random(3)
    with far:
        for _ in range(100):
            target = bytearray(draw.randrange(9000))
            into = target[:]
            assert far.readinto(target) == near.readinto(into)
            assert target == into
            whence = draw.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            to = draw.randrange(60_000) - {0: 0, 1: near.tell(), 2: 50_000}[whence]
            assert far.seek(to, whence) == near.seek(to, whence) == far.tell()
            size = draw.choice([0, 1, 5000, 20_000])
            assert far.read(size) == near.read(size)
        for offset, whence in ((-1, io.SEEK_SET), (-50_001, io.SEEK_END), (-9, io.SEEK_CUR)):
            far.seek(3)
            with pytest.raises(OSError, match="Invalid argument"):  # as of any file
                far.seek(offset, whence)
            assert far.tell() == 3
        far.seek(40_000)
        same = far.again()
        assert far.read() == data[40_000:]
    assert same.read(10) == data[:10]
    for use in (far.read, far.tell, lambda: far.seek(0)):
        with pytest.raises(ValueError, match="closed file"):
            use()
