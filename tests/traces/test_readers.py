"""Canonical readers: the same trace in every form, and every kind of damage."""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError, MissingDependency
from trbounds.traces import example_path, expand_paths, open_trace, write_parquet
from trbounds.traces import reader as reader_module
from trbounds.traces.arrow import columns_from_arrow
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS
from trbounds.traces.columns import ALIASES
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

DATA = Path(__file__).parents[1] / "data"

ROWS = [
    {
        "rollout_logprobs": [-0.5, -1.25, -3.0],
        "train_logprobs": [-0.75, -1.0, 0.0],
        "kl": [0.1, 0.0, 0.3],
        "reward": 0.5,
        "finished": True,
        "seq_id": 4,
        "prompt_id": "p",
        "step": 2,
    },
    {
        "rollout_logprobs": [],
        "train_logprobs": [],
        "kl": [],
        "reward": 1,
        "finished": False,
        "seq_id": 5,
        "prompt_id": "q",
        "step": 2,
    },
    {
        "rollout_logprobs": [-0.125],
        "train_logprobs": [-0.25],
        "kl": [0.0],
        "reward": 0,
        "finished": True,
        "seq_id": 6,
        "prompt_id": "p",
        "step": 3,
    },
]


def changed(index=0, **changes):
    rows = [dict(row) for row in ROWS]
    rows[index].update(changes)
    return rows


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rows(path, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def collect(batches):
    """Join batches into plain Python values, one dict per field."""
    batches = list(batches)
    out = {"lengths": [n for batch in batches for n in batch.lengths.tolist()]}
    out["records"] = [n for batch in batches for n in batch.record_numbers.tolist()]
    for name in (*TOKEN_FIELDS, *SEQUENCE_FIELDS):
        parts = [getattr(batch, name) for batch in batches]
        if all(part is not None for part in parts):
            out[name] = [x for part in parts for x in part.tolist()]
    return out


EXPECTED = {
    "lengths": [3, 0, 1],
    "records": [0, 1, 2],
    "rollout_logprobs": [-0.5, -1.25, -3.0, -0.125],
    "train_logprobs": [-0.75, -1.0, 0.0, -0.25],
    "kl": [0.1, 0.0, 0.3, 0.0],
    "reward": [0.5, 1.0, 0.0],
    "finished": [True, False, True],
    "seq_id": [4, 5, 6],
    "prompt_id": ["p", "q", "p"],
    "step": [2, 2, 3],
}


def test_jsonl(tmp_path):
    assert collect(open_trace(write_jsonl(tmp_path / "a.jsonl", ROWS))) == EXPECTED


def test_jsonl_with_byte_order_mark_windows_lines_and_blank_lines(tmp_path):
    lines = [json.dumps(row) for row in ROWS]
    text = "\ufeff" + lines[0] + "\r\n\r\n" + lines[1] + "\r\n  \r\n" + lines[2]
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    assert collect(open_trace(tmp_path / "a.jsonl")) == {**EXPECTED, "records": [0, 2, 4]}


def test_compressed_jsonl(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    with pa.CompressedOutputStream(str(tmp_path / "b.jsonl.zst"), "zstd") as stream:
        stream.write(text)
    assert collect(open_trace(tmp_path / "a.jsonl.gz")) == EXPECTED
    assert collect(open_trace(tmp_path / "b.jsonl.zst")) == EXPECTED


@pytest.mark.parametrize("row_group_size", [1, 2, 10])
def test_parquet(tmp_path, row_group_size):
    file = write_rows(tmp_path / "a.parquet", ROWS, row_group_size=row_group_size)
    assert collect(open_trace(file)) == EXPECTED


def large_list(values):
    return pa.array(values, pa.large_list(pa.float64()))


def dictionary_list(values):
    offsets = pa.array(np.concatenate([[0], np.cumsum([len(v) for v in values])]), pa.int32())
    flat = pa.array([x for row in values for x in row], pa.float64()).dictionary_encode()
    return pa.ListArray.from_arrays(offsets, flat)


@pytest.mark.parametrize("build", [large_list, dictionary_list], ids=["large_list", "dictionary"])
def test_arrow_types_of_lists(tmp_path, build):
    names = ("rollout_logprobs", "train_logprobs", "kl")
    table = {name: build([row[name] for row in ROWS]) for name in names}
    table["prompt_id"] = pa.array([row["prompt_id"] for row in ROWS]).dictionary_encode()
    table["group_id"] = pa.nulls(3)
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = collect(open_trace(tmp_path / "a.parquet"))
    for name in (*names, "prompt_id"):
        assert found[name] == EXPECTED[name]
    assert "group_id" not in found


def test_sliced_arrow_arrays_and_null_lists_that_own_values():
    lists = pa.array([[9.0], [-1.0, -2.0], [], [-3.0]])
    found = columns_from_arrow({"kl": lists.slice(1)}, file="f").columns["kl"]
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.values.tolist() == [-1.0, -2.0, -3.0]
    offsets, values = pa.array([0, 1, 2], pa.int32()), pa.array([5.0, 6.0])
    mask = pa.array([True, False])
    hidden = pa.ListArray.from_arrays(offsets, values, mask=mask)
    found = columns_from_arrow({"kl": hidden}, file="f")
    assert found.columns["kl"].offsets.tolist() == [0, 0, 1]
    assert found.columns["kl"].values.tolist() == [6.0]
    assert found.missing["kl"].tolist() == [True, False]


def test_fixed_size_lists_and_float32(tmp_path):
    kind = pa.list_(pa.float32(), 2)
    table = pa.table(
        {
            "rollout_logprobs": pa.array([[-0.5, -0.1], [-1, -2]], kind),
            "train_logprobs": pa.array([[-1.5, -0.1], [-1, -2]], kind),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = collect(open_trace(tmp_path / "a.parquet"))
    assert found["rollout_logprobs"] == [-0.5, float(np.float32(-0.1)), -1.0, -2.0]


@pytest.mark.parametrize("name", ["mask", *ALIASES])
def test_mask_under_each_name_and_weight_versions(tmp_path, name):
    rows = [dict(row, weight_version=3) for row in ROWS]
    for row, mask in zip(rows, ([1, 0, 1], [], [True]), strict=True):
        row[name] = mask
    rows[0]["train_logprobs"] = [-0.75, None, 0.0]
    lines = write_jsonl(tmp_path / "a.jsonl", rows)
    rows[2][name] = [1]  # Parquet has one type for all
    for file in (lines, write_rows(tmp_path / "a.parquet", rows)):
        found = collect(open_trace(file))
        assert found["mask"] == [True, False, True, True]
        assert found["weight_version"] == [3, 3, 3, 3]


def test_every_optional_column_in_every_form(tmp_path):
    extra = {
        "advantages": [[0.5, -1.0, 0.0], [], [2.0]],
        "loss_mask": [[True, True, False], [], [True]],
        "weight_version": [[1, 1, 2], [], [3]],
        "temperature": [1.0, 0.7, 1.0],
        "top_p": [1.0, 0.9, 1.0],
        "top_k": [-1, 50, 0],
        "logprobs_mode": ["raw_logprobs", "processed_logprobs", "raw_logprobs"],
        "group_id": ["a", "b", "a"],
        "accepted": [True, False, True],
    }
    rows = [
        {**row, **{name: values[i] for name, values in extra.items()}} for i, row in enumerate(ROWS)
    ]
    jsonl = write_jsonl(tmp_path / "a.jsonl", rows)
    for file in (jsonl, write_rows(tmp_path / "a.parquet", rows)):
        found = collect(open_trace(file))
        for name, values in extra.items():
            flat = [x for v in values for x in v] if isinstance(values[0], list) else values
            assert found["mask" if name == "loss_mask" else name] == flat
    write_parquet(open_trace(jsonl), tmp_path / "b.parquet")
    assert collect(open_trace(tmp_path / "b.parquet")) == collect(open_trace(jsonl))


@pytest.mark.parametrize("name", ["stale_k16", "moe"])
def test_real_trace_is_the_same_in_parquet_and_jsonl(tmp_path, name):
    batches = list(open_trace(DATA / f"{name}.parquet"))
    lines = []
    for batch in batches:
        for i in range(batch.n_sequences):
            tokens = slice(batch.offsets[i], batch.offsets[i + 1])
            row = {f: getattr(batch, f)[tokens].tolist() for f in TOKEN_FIELDS[:6]}
            row |= {f: getattr(batch, f)[i].item() for f in ("reward", "seq_id", "prompt_id")}
            lines.append(row)
    found = collect(open_trace(write_jsonl(tmp_path / "a.jsonl", lines)))
    expected = collect(batches)
    assert sum(found["lengths"]) > 4000
    for field in found:
        assert found[field] == expected[field]


def test_batches_are_small_and_whole(monkeypatch):
    for path in (str(DATA / "moe.parquet"), example_path()):
        source = Source(path)
        batches = list(reader_module.detect(source).read(source, ReadOptions(batch_tokens=500)))
        assert len(batches) > 10
        limit = 500 if path.endswith("gz") else 1500
        assert all(batch.n_tokens <= limit or batch.n_sequences == 1 for batch in batches)


@pytest.mark.parametrize("bad", [False, True], ids=["abandoned", "bad record"])
def test_nothing_decodes_a_file_that_is_closed(tmp_path, monkeypatch, bad):
    """A thread reads ahead: it has ended when the file is closed, however reading ended."""
    rows = [{"rollout_logprobs": [-1.0], "train_logprobs": [-1.5]} for _ in range(50)]
    if bad:
        rows[1]["train_logprobs"] = [0.5]
    path = write_rows(tmp_path / "a.parquet", rows)
    source, options = Source(str(path)), ReadOptions(batch_tokens=1)
    closes, close, before = [], pq.ParquetFile.close, threading.active_count()

    def counting(self, *args):
        closes.append(threading.active_count() - before)
        close(self, *args)

    monkeypatch.setattr(pq.ParquetFile, "close", counting)
    batches = reader_module.detect(source).read(source, options)
    assert next(batches).n_sequences == 1
    assert threading.active_count() == before + 1
    if bad:
        with pytest.raises(InputError, match="record 1"):
            next(batches)
    else:
        batches.close()
    assert closes == [0]


def test_write_parquet_round_trip(tmp_path):
    path = tmp_path / "b.parquet"
    write_parquet(open_trace(write_jsonl(tmp_path / "a.jsonl", ROWS)), path)
    assert collect(open_trace(path)) == EXPECTED
    assert os.listdir(tmp_path).count("b.parquet") == 1
    assert len(os.listdir(tmp_path)) == 2


def test_write_parquet_ends_a_row_group_when_it_is_full(tmp_path, monkeypatch):
    batches = list(open_trace(write_jsonl(tmp_path / "a.jsonl", ROWS)))
    monkeypatch.setattr("trbounds.traces.writing._GROUP_TOKENS", 2 * batches[0].n_tokens)
    write_parquet(batches * 5, tmp_path / "b.parquet")
    metadata = pq.read_metadata(tmp_path / "b.parquet")
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert rows == [2 * len(ROWS), 2 * len(ROWS), len(ROWS)]


def test_write_parquet_leaves_nothing_behind_on_failure(tmp_path):
    one = open_trace(write_jsonl(tmp_path / "a.jsonl", ROWS))
    rows = [{k: v for k, v in row.items() if k != "kl"} for row in ROWS]
    two = open_trace(write_jsonl(tmp_path / "b.jsonl", rows))
    with pytest.raises(InputError, match="expected those of the first batch"):
        write_parquet([*one, *two], tmp_path / "c.parquet")
    with pytest.raises(InputError, match="found no sequence"):
        write_parquet([], tmp_path / "c.parquet")
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "b.jsonl"]
    with pytest.raises(InputError, match="cannot be written"):
        write_parquet(open_trace(tmp_path / "a.jsonl"), tmp_path / "no" / "c.parquet")


# ---- paths


def test_directories_globs_and_duplicates(tmp_path):
    (tmp_path / "deep").mkdir()
    a = write_jsonl(tmp_path / "a.jsonl", ROWS)
    b = write_rows(tmp_path / "deep" / "b.parquet", ROWS)
    (tmp_path / "notes.txt").write_text("not a trace")
    (tmp_path / ".hidden.jsonl").write_text("not a trace")
    assert expand_paths(tmp_path) == [str(a), str(b)]
    assert expand_paths(str(tmp_path / "**" / "*.parquet")) == [str(b)]
    assert expand_paths([a, tmp_path]) == [str(a), str(b)]
    assert len(collect(open_trace(tmp_path))["lengths"]) == 6


@pytest.mark.parametrize("closed", ["", "rank_1"])
def test_a_directory_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch, closed):
    (tmp_path / "rank_1").mkdir()
    for name in ("a.jsonl", "rank_1/b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    folder, listed = str(tmp_path / closed), os.scandir  # root may list everything

    def scandir(path):
        if os.fspath(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        InputError, match=f"{closed}: cannot be listed: Permission denied$"
    ) as error:
        expand_paths(str(tmp_path))
    assert error.value.file == folder


def test_a_file_is_read_once_whatever_path_leads_to_it(tmp_path, monkeypatch):
    a = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "link.jsonl").symlink_to(a)
    monkeypatch.chdir(tmp_path / "deep")
    assert expand_paths([a, "../a.jsonl", "link.jsonl", tmp_path]) == [str(a)]


@pytest.mark.parametrize(
    "other", [".ipynb_checkpoints/a.jsonl", "_temporary/0/a.jsonl", "b/_a.jsonl"]
)
def test_copies_and_parts_that_other_tools_leave_are_not_read(tmp_path, other):
    below = tmp_path / "_data"  # the directory that is named may be called anything
    (below / other).parent.mkdir(parents=True)
    a = write_jsonl(below / "a.jsonl", ROWS)
    write_jsonl(below / other, ROWS)
    assert expand_paths(below) == [str(a)]
    assert expand_paths(below / other) == [str(below / other)]


@pytest.mark.parametrize("logged", [True, False])
def test_the_step_of_a_directory_is_that_of_files_without_one(tmp_path, monkeypatch, logged):
    rows = [{key: value for key, value in row.items() if key != "step"} for row in ROWS]
    rows = [{**row, "step": 3} for row in rows] if logged else rows
    for step in (12, 7):
        (tmp_path / f"step={step}").mkdir()
        write_rows(tmp_path / f"step={step}" / "part-0.parquet", rows)
        write_jsonl(tmp_path / f"step={step}" / "part-1.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    expected = [3, 3] if logged else [12, 7]
    for paths in (tmp_path, ".", ["step=12", "step=7"], "step=*/*"):
        found = [batch.step.tolist() for batch in open_trace(paths)]
        assert found == [[step] * len(ROWS) for step in expected for _ in range(2)]


def test_a_name_that_is_no_partition_says_no_step(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "step"} for row in ROWS]
    for name in ("laststep=3", "step=3b", "step=12345678901"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "step=4.jsonl", rows)
    assert [batch.step for batch in open_trace(tmp_path)] == [None] * 3


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'\n [{"rollout_logprobs": []}]', "a JSON array, expected JSON Lines"),
        ("{}".encode("utf-16"), "text in UTF-16, expected UTF-8"),
        (b"\xfe\xff" + "{}".encode("utf-16-be"), "text in UTF-16, expected UTF-8"),
        (bz2.compress(b"{}"), "bzip2, expected gzip, Zstandard or none"),
        (lzma.compress(b"{}"), "xz, expected gzip, Zstandard or none"),
        (b"ARROW1\0\0", "an Arrow .* file, expected Parquet"),
    ],
)
def test_what_else_people_have_is_named(tmp_path, data, found):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.jsonl: found .*{found}"):
        list(open_trace(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("absent.parquet", "no such file"),
        ("*.nothing", "no file matches"),
        ("empty", "the directory holds no file"),
    ],
)
def test_bad_paths(tmp_path, path, problem):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=problem):
        open_trace(tmp_path / path)
    with pytest.raises(InputError, match="expected at least one file"):
        open_trace([])


def test_standard_input(monkeypatch):
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    batches = list(open_trace("-"))
    assert collect(batches) == EXPECTED
    assert batches[0].file == "<stdin>"
    for data, problem in ((b"", "empty"), (gzip.compress(text), "decompress"), (b"PAR1", "Parq")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(InputError, match=f"<stdin>.*{problem}"):
            list(open_trace("-"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(text))))
    with pytest.raises(InputError, match=r"<stdin>.*decompress"):
        list(open_trace("-", "canonical-jsonl"))


def test_format_is_detected_by_content_and_can_be_named(tmp_path):
    file = write_rows(tmp_path / "a.log", ROWS)
    assert collect(open_trace(file)) == EXPECTED
    assert collect(open_trace(file, "canonical-parquet")) == EXPECTED
    with pytest.raises(InputError, match=r"expected one of .*, canonical-jsonl, canonical-parquet"):
        open_trace(file, "nonsense")
    (tmp_path / "b.log").write_text("hello\n")
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n \r\n\n")
    with pytest.raises(InputError, match="blank lines only"):
        list(open_trace(blank))
    with pytest.raises(InputError, match="format not recognised"):
        list(open_trace(tmp_path / "b.log"))


def test_every_file_in_the_folder_is_a_reader_with_its_own_name():
    folder = Path(reader_module.__file__).parent / "readers"
    files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
    readers = reader_module.find_readers()
    assert len(readers) == len(files) >= 2
    for name, reader in readers.items():
        assert reader.name == name
        assert reader.description
        assert all(suffix.startswith(".") for suffix in reader.suffixes)
        assert reader.detects("", b"") is False


# ---- damage


@pytest.mark.parametrize(
    ("rows", "record", "field", "problem"),
    [
        (changed(0, kl=[0.1, 0.2]), 0, "kl", "found 2 entries, expected 3"),
        (changed(0, train_logprobs=[-1.0] * 4), 0, "train_logprobs", "found 4 entries"),
        (changed(2, train_logprobs=[0.5]), 2, "train_logprobs", "found 0.5 at position 0"),
        (changed(2, rollout_logprobs=[None]), 2, "rollout_logprobs", "missing value"),
        (changed(2, rollout_logprobs=None), 2, "rollout_logprobs", "no value"),
        (changed(2, kl=[-0.5]), 2, "kl", "found -0.5 at position 0"),
        (changed(1, reward=1.5), 1, "reward", "found 1.5"),
        (changed(1, reward=None), 1, "reward", "no value"),
        (changed(1, prompt_id=None), 1, "prompt_id", "no value"),
        (changed(1, finished=None), 1, "finished", "no value"),
    ],
)
def test_bad_record_in_every_form(tmp_path, rows, record, field, problem):
    jsonl = write_jsonl(tmp_path / "a.jsonl", rows)
    parquet = write_rows(tmp_path / "a.parquet", rows)
    for file in (jsonl, parquet):
        with pytest.raises(InputError) as caught:
            list(open_trace(file))
        error = caught.value
        assert (error.file, error.record, error.field) == (str(file), record, field)
        assert problem in error.problem
        seen = []
        found = collect(open_trace(file, on_error="skip", on_skip=seen.append))
        assert found["records"] == [i for i in range(3) if i != record]
        assert [(error.record, error.field) for error in seen] == [(record, field)]


@pytest.mark.parametrize(
    ("line", "record", "field", "problem"),
    [
        ("{", 1, None, "line 2 is not valid JSON"),
        ("[1]", 1, None, "line 2 holds list, expected a JSON object"),
        ("[" * 100_000, 1, None, "line 2 is not valid JSON"),
        ('{"a": ' * 50_000, 1, None, "line 2 is not valid JSON"),
        ('{"rollout_logprobs": [NaN]}', 1, "train_logprobs", "no value"),
        ("{}", 1, "rollout_logprobs", "no value"),
        (json.dumps(changed(1, kl="x")[1]), 1, "kl", "found str, expected a list of numbers"),
        (json.dumps(changed(1, kl=["x"])[1]), 1, "kl", "found a list with str"),
        *(
            (json.dumps(changed(2, **{name: [True]})[2]), 1, name, "found a list with bool")
            for name in ("rollout_logprobs", "train_logprobs", "kl")
        ),
        (json.dumps({**ROWS[1], "finished": None}), 1, "finished", "no value"),
        (json.dumps(changed(1, kl=[[1]])[1]), 1, "kl", "found a list with list"),
        (json.dumps(changed(1, reward="1")[1]), 1, "reward", "found str, expected a number"),
        (json.dumps(changed(1, finished=1)[1]), 1, "finished", "expected true or false"),
        (json.dumps(changed(1, prompt_id="\ud800")[1]), 1, "prompt_id", "not valid Unicode"),
        (json.dumps(changed(1, step=1.5)[1]), 1, "step", "found 1.5, expected a whole number"),
        (json.dumps(changed(1, step=2**70)[1]), 1, "step", "of 64 bits"),
        (json.dumps(changed(1, step=2**63)[1]), 1, "step", "of 64 bits"),
        (json.dumps(changed(1, step=True)[1]), 1, "step", "found True, expected a whole number"),
        (json.dumps(changed(2, kl=[10**400])[2]), 1, "kl", "too large"),
        (json.dumps(changed(2, kl=[np.nan])[2]), 1, "kl", "missing value (null or NaN)"),
        (json.dumps(changed(2, kl=[np.inf])[2]), 1, "kl", "found inf"),
        ('{"\udcff": 1', 1, None, "line 2 is not valid JSON"),
    ],
)
def test_bad_json_line(tmp_path, line, record, field, problem):
    text = f"{json.dumps(ROWS[0])}\n{line}\n{json.dumps(ROWS[2])}\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        list(open_trace(tmp_path / "a.jsonl"))
    assert (caught.value.record, caught.value.field) == (record, field)
    assert problem in caught.value.problem
    found = collect(open_trace(tmp_path / "a.jsonl", on_error="skip"))
    assert found["records"] == [0, 2]


def test_a_reward_may_be_true_or_false(tmp_path):
    rows = [
        {**row, "reward": reward} for row, reward in zip(ROWS, (True, False, True), strict=True)
    ]
    for file in (write_jsonl(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "a.parquet", rows)):
        assert collect(open_trace(file)) == {**EXPECTED, "reward": [1.0, 0.0, 1.0]}


def test_truth_values_encoded_by_a_dictionary_are_no_numbers(tmp_path):
    flags = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array([False]))
    column = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), flags)
    with pytest.raises(InputError, match="field 'train_logprobs': found type list<"):
        columns_from_arrow({"train_logprobs": column}, file="f")


def test_two_columns_of_one_name(tmp_path):
    lists = pa.array([[-1.0, -2.0]])
    names = ["rollout_logprobs", "train_logprobs", "other", "other", "train_logprobs"]
    pq.write_table(pa.table([lists] * 5, names=names), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="field 'train_logprobs': found 2 columns of this name"):
        list(open_trace(tmp_path / "a.parquet"))
    pq.write_table(pa.table([lists] * 4, names=names[:4]), tmp_path / "a.parquet")
    assert sum(batch.n_tokens for batch in open_trace(tmp_path / "a.parquet")) == 2


def test_two_names_for_the_mask(tmp_path):
    for names in (("loss_mask", "mask"), ("loss_mask", "response_mask")):
        rows = [{**row, names[0]: [], names[1]: []} for row in ROWS[1:2]]
        problem = f"field 'mask': found both {names[0]} and {names[1]}"
        for file in (
            write_jsonl(tmp_path / "a.jsonl", rows),
            write_rows(tmp_path / "a.parquet", rows),
        ):
            with pytest.raises(InputError, match=problem):
                list(open_trace(file))


def test_what_no_line_has_is_named_before_what_they_have(tmp_path):
    rows = [{name: row[name] for name in ("rollout_logprobs", "kl", "reward")} for row in ROWS]
    with pytest.raises(InputError, match="record 0, field 'train_logprobs': found no value"):
        list(open_trace(write_jsonl(tmp_path / "a.jsonl", rows)))


def test_first_line_broken_is_skipped_too(tmp_path):
    text = "oops\n{}\n" + "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(text)
    assert reader_module.find_readers()["canonical-jsonl"].detects("", text.encode()) is False
    found = collect(open_trace(tmp_path / "a.jsonl", "canonical-jsonl", on_error="skip"))
    assert found == {**EXPECTED, "records": [2, 3, 4]}


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trbounds.traces.json_lines.MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"kl": [' + b"0," * (1 << 22)))
    with pytest.raises(InputError, match="record 0: line 1 has more than 1 MiB"):
        list(open_trace(tmp_path / "a.jsonl.gz"))


def test_an_empty_file_of_a_named_format(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.jsonl: the file is empty"):
        list(open_trace(tmp_path / "a.jsonl", "canonical-jsonl"))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        list(open_trace(tmp_path / name))


def test_damaged_files(tmp_path):
    parquet = (DATA / "moe.parquet").read_bytes()
    text = Path(example_path()).read_bytes()
    flipped = bytearray(parquet)
    for place in range(2000, 60_000, 1000):
        flipped[place] ^= 0xFF
    damaged = {
        "truncated.parquet": parquet[: len(parquet) // 2],
        "head.parquet": parquet[:4],
        "flipped.parquet": bytes(flipped),
        "truncated.jsonl.gz": text[: len(text) // 2],
        "bad.jsonl.gz": text[:5000] + bytes(100) + text[5100:],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            list(open_trace(tmp_path / name))
        seen = []
        list(open_trace(tmp_path / name, on_error="skip", on_skip=seen.append))
        assert seen


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_what_comes_before_the_cut_of_a_compressed_file_is_read(tmp_path, codec, share):
    """As a run leaves it that was killed while it wrote."""
    rng = np.random.default_rng(0)
    values = [(-rng.random(20)).tolist() for _ in range(1500)]
    rows = [{"rollout_logprobs": row, "train_logprobs": row} for row in values]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    packed = pa.compress(text, codec=codec, asbytes=True)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(packed[: int(share * len(packed))])
    seen = []
    batches = list(open_trace(file, on_error="skip", on_skip=seen.append))
    read = np.concatenate([batch.rollout_logprobs for batch in batches])
    np.testing.assert_array_equal(read, np.concatenate(values)[: read.size])
    # Zstandard packs blocks of 128 KiB, of which the last is lost; gzip has none.
    lost = share * len(text) - len(text) * read.size / (20 * 1500)
    assert abs(lost) < (200_000 if codec == "zstd" else 10_000)
    assert [error.problem.startswith("cannot be read: ") for error in seen] == [True]
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read"):
        list(open_trace(file))


def test_no_line_is_read_of_a_compressed_file_with_a_wrong_checksum(tmp_path):
    """Lines before the place where damage is noticed may have wrong numbers."""
    row = json.dumps({"rollout_logprobs": [-1.5, -0.5], "train_logprobs": [-1.5, -0.5]})
    # Stored as it is, so that the damage changes one digit and nothing else.
    packed = gzip.compress(f"{row}\n".encode() * 100, compresslevel=0)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(packed.replace(b"1.5", b"2.5", 1))
    seen = []
    assert list(open_trace(file, on_error="skip", on_skip=seen.append)) == []
    (error,) = seen
    assert error.problem.startswith("cannot be read: CRC check failed")


@pytest.mark.parametrize(
    ("columns", "field", "problem"),
    [
        ({"kl": [[0.1]]}, "rollout_logprobs", "the column is missing; found kl"),
        ({"rollout_logprobs": [[-1.0]]}, "train_logprobs", "the column is missing"),
        ({"rollout_logprobs": [-1.0], "train_logprobs": [[-1.0]]}, "rollout_logprobs", "double"),
        ({"rollout_logprobs": [["x"]], "train_logprobs": [[-1.0]]}, "rollout_logprobs", "string"),
        (
            {"rollout_logprobs": [[-1.0]], "train_logprobs": [[-1.0]], "step": [1.5]},
            "step",
            "expected whole numbers",
        ),
        (
            {"rollout_logprobs": [[-1.0]], "train_logprobs": [[-1.0]], "finished": ["yes"]},
            "finished",
            "expected true or false",
        ),
        (
            {
                "rollout_logprobs": [[-1.0]],
                "train_logprobs": [[-1.0]],
                "mask": [[1]],
                "loss_mask": [[1]],
            },
            "mask",
            "found both",
        ),
        (
            {"rollout_logprobs": [[-1.0]], "train_logprobs": [[False]]},
            "train_logprobs",
            "found type list<element: bool>, expected a list of numbers",
        ),
        (
            {"rollout_logprobs": [[-1.0]], "train_logprobs": [[-1.0]], "step": [True]},
            "step",
            "found type bool, expected whole numbers",
        ),
        (
            {"rollout_logprobs": [[-1.0]], "train_logprobs": [[-1.0]], "temperature": [True]},
            "temperature",
            "found type bool, expected numbers",
        ),
    ],
)
def test_bad_parquet_columns(tmp_path, columns, field, problem):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError) as caught:
        list(open_trace(tmp_path / "a.parquet"))
    assert (caught.value.file, caught.value.field) == (str(tmp_path / "a.parquet"), field)
    assert problem in caught.value.problem


def test_damaged_parquet_metadata_never_ends_the_process(tmp_path):
    data = (DATA / "moe.parquet").read_bytes()
    source = random.Random(0)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(source.choice([1, 5])):
            broken[source.randrange(len(data) - 6000, len(data))] = source.randrange(256)
        (tmp_path / "a.parquet").write_bytes(broken)
        try:
            outcomes.add(len(list(open_trace(tmp_path / "a.parquet"))) > 0)
        except InputError as error:
            outcomes.add(str(error.file))
    assert outcomes == {True, str(tmp_path / "a.parquet")}


def test_missing_pyarrow_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"trbounds\[traces\]"):
        list(open_trace(DATA / "moe.parquet"))
    assert sum(batch.n_sequences for batch in open_trace(example_path())) == 128
