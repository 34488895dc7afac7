"""Parquet files that would unfold: what the footer and the pages declare is counted first."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError
from trbounds.traces import open_trace
from trbounds.traces.parquet_guard import DamagedError, ParquetPages, _Thrift
from trbounds.traces.partition import partition

DATA = Path(__file__).parents[1] / "data"
COLUMNS = ("rollout_logprobs", "train_logprobs", "prompt_id")


def pages(table, **options):
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return ParquetPages(stream, COLUMNS, max_length=131_072), stream


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_page_version": "2.0"},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "gzip", "data_page_size": 500},
        {"write_page_index": True, "write_page_checksum": True},
        {"row_group_size": 7},
        {"write_statistics": False, "version": "1.0"},
        {"use_byte_stream_split": ["rollout_logprobs.list.element"], "use_dictionary": False},
    ],
)
def test_rows_hold_the_tokens_asked_for(options):
    table = pq.read_table(DATA / "moe.parquet")
    found, stream = pages(table, **options)
    file = pq.ParquetFile(stream)
    for group in range(file.num_row_groups):
        lists = file.read_row_group(group, ["rollout_logprobs"])["rollout_logprobs"]
        tokens = len(lists.combine_chunks().flatten())
        rows = found.rows_at_once(group, 1000)
        assert abs(rows - 1000 * len(lists) / tokens) <= 1
        assert found.rows_at_once(group, 10**7) == 10**7 * len(lists) // tokens
    with pytest.raises(DamagedError, match="another number of row groups"):
        found.rows_at_once(file.num_row_groups, 1000)


def test_rows_without_tokens_are_bounded_too():
    empty = pa.array([[]] * 1000, pa.list_(pa.float64()))
    found, _ = pages(pa.table({"rollout_logprobs": empty, "train_logprobs": empty}))
    assert found.rows_at_once(0, 50) == 50


def constant(rows, length):
    offsets = pa.array(np.arange(rows + 1) * length, pa.int64())
    values = pa.array(np.full(rows * length, -1.0, np.float32))
    column = pa.LargeListArray.from_arrays(offsets, values)
    return {"rollout_logprobs": column, "train_logprobs": column}


def test_one_list_of_millions_of_equal_values(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(constant(1, 5_000_000)), path)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="5000000 values in 1 rows") as caught:
        list(open_trace(path))
    assert (caught.value.file, caught.value.record) == (str(path), 0)


def test_many_lists_of_equal_values(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(constant(500, 10_000)), path)
    with pytest.raises(InputError, match="which no logged log-probabilities have"):
        list(open_trace(path))


def test_a_list_that_is_a_little_too_long_is_named_by_its_record(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(constant(1, 131_073)), path)
    with pytest.raises(InputError, match="found 131073 entries, expected at most 131072"):
        list(open_trace(path))


def test_a_long_string_repeated_for_every_row(tmp_path):
    path = tmp_path / "a.parquet"
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000), pa.array(["x" * 900_000]))
    table = pa.table({**constant(20_000, 1), "prompt_id": names})
    pq.write_table(table, path)
    assert path.stat().st_size < 100_000
    assert pages(table)[0].rows_at_once(0, 49_152) == (1 << 28) // 900_004
    with pytest.raises(InputError, match="one of 900000 bytes") as caught:
        list(open_trace(path))
    assert caught.value.field == "prompt_id"


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY"])
def test_long_strings_each_in_a_page_of_its_own(tmp_path, encoding):
    path = tmp_path / "a.parquet"
    table = pa.table({**constant(40, 1), "prompt_id": ["x" * (1 << 25)] * 40})
    options = {"data_page_size": 1, "write_batch_size": 1, "compression": "zstd"}
    columns = {"use_dictionary": False, "column_encoding": {"prompt_id": encoding}}
    pq.write_table(table, path, **options, **columns)
    assert path.stat().st_size < 200_000
    assert pages(table, **options, **columns)[0].rows_at_once(0, 49_152) < 8
    with pytest.raises(InputError, match=f"one of {1 << 25} bytes"):
        list(open_trace(path))


def test_a_type_that_no_field_has_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.parquet"
    for name in ("prompt_id", "logprobs_mode"):
        wide = pa.array([None, b"x" * (1 << 20)], pa.binary(1 << 20))
        pq.write_table(pa.table({**constant(2, 1), name: wide}), path)
        data = bytearray(path.read_bytes())
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
        start = chunk.dictionary_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"found type fixed_size_binary\[1048576\]"):
            list(open_trace(path))


def test_a_column_without_a_type_is_absent(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({**constant(2, 1), "train_logprobs": pa.nulls(2)}), path)
    with pytest.raises(InputError, match="found no value, expected a list of numbers") as caught:
        list(open_trace(path))
    assert (caught.value.file, caught.value.field) == (str(path), "train_logprobs")


def test_lists_of_a_fixed_size_are_no_longer_than_a_sequence(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({**constant(3, 1), "kl": pa.nulls(3, pa.list_(pa.float64(), 131_073))})
    pq.write_table(table, path)
    problem = "found lists of 131073 entries, expected at most 131072"
    with pytest.raises(InputError, match=problem) as caught:
        list(open_trace(path))
    assert caught.value.field == "kl"
    assert len(partition(path)) == 1


BOMB = """
import resource, sys
from trbounds.errors import InputError
from trbounds.traces import open_trace
list(open_trace(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(open_trace(sys.argv[1]))
except InputError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def equal_values(length):
    return pa.table(constant(4, length))


def null_lists_of_a_fixed_size(length):
    kind = pa.list_(pa.float64(), length)
    return pa.table({**constant(2000, 1), "kl": pa.nulls(2000, kind)})


@pytest.mark.parametrize(
    ("table", "length"), [(equal_values, 4_000_000), (null_lists_of_a_fixed_size, 20_000)]
)
def test_memory_stays_small(tmp_path, table, length):
    path = tmp_path / "a.parquet"
    pq.write_table(table(length), path)
    assert path.stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path), str(DATA / "moe.parquet")],
        cwd=DATA.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 64 << 10  # KiB


# ---- damage


def test_pages_that_hold_more_than_is_declared():
    _, stream = pages(pa.table(constant(1, 100)))
    data = bytearray(stream.getvalue())
    small, _ = pages(pa.table(constant(1, 90)))
    # The pages of one file under the footer of another of the same layout.
    other = small._stream.getvalue()
    footer = int.from_bytes(other[-8:-4], "little") + 8
    mixed = io.BytesIO(bytes(data[: len(other) - footer]) + other[-footer:])
    with pytest.raises(DamagedError):
        ParquetPages(mixed, COLUMNS, max_length=1000).rows_at_once(0, 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1",
        b"PAR1" + bytes(20),
        b"PAR1" + (100).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + bytes(4) + (4).to_bytes(4, "little") + b"PAR1",
        b"PAR1\xff\xff\xff\xff" + (4).to_bytes(4, "little") + b"PAR1",
        b"PAR1\x49\xfc\xff\xff\xff\x0f\x00\x00" + (8).to_bytes(4, "little") + b"PAR1",
    ],
)
def test_damaged_footers(data):
    with pytest.raises(DamagedError):
        ParquetPages(io.BytesIO(data), COLUMNS, max_length=1000)


def test_thrift_of_every_type():
    fields = b"\x11\x12\x13\x05\x14\x03\x17" + bytes(8) + b"\x18\x02ab\x19\x25\x02\x04"
    fields += b"\x1a\x11\x01\x1b\x01\x55\x02\x04\x1c\x11\x00\x1d" + bytes(16) + b"\x05\x64\x06\x00"
    found = _Thrift(fields).struct(0)
    assert found == {
        1: True,
        2: False,
        3: 5,
        4: -2,
        5: bytes(8),
        6: b"ab",
        7: [1, 2],
        8: [True],
        9: None,
        10: {1: True},
        11: bytes(16),
        50: 3,
    }


@pytest.mark.parametrize(
    "data",
    [b"\x1c" * 100, b"\x19" * 100, b"\x1e", b"\x18\x05a", b"\x16" + b"\xff" * 12, b"\x19\xf5\x7f",
     b"\x1b\x7f\x55"],
)  # fmt: skip
def test_damaged_thrift(data):
    with pytest.raises(DamagedError):
        _Thrift(data).struct(0)


@pytest.fixture
def three_groups(tmp_path):
    """A file of three row groups with a column that no reader takes, and where columns start."""
    rng = np.random.default_rng(0)
    names = ("rollout_logprobs", "train_logprobs", "kl", "hidden_states")
    columns = {name: list(rng.random((30, 50)) * (1 if name == "kl" else -1)) for name in names}
    path = tmp_path / "a.parquet"
    options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table(columns), path, row_group_size=10, **options)
    metadata = pq.ParquetFile(path).metadata
    return path, lambda group, name: metadata.row_group(group).column(names.index(name))


def read(path):
    skipped = []
    kept = list(open_trace(path, on_error="skip", on_skip=skipped.append))
    return [int(i) for batch in kept for i in batch.record_numbers], skipped


@pytest.mark.parametrize("name", ["train_logprobs", "kl"])
@pytest.mark.parametrize("where", ["header", "page", "value"])
def test_damage_costs_its_row_group_and_is_named(three_groups, name, where):
    path, column = three_groups
    chunk = column(1, name)
    data = bytearray(path.read_bytes())
    at = chunk.data_page_offset
    if where == "page":
        at = data.index(b"\x28\xb5\x2f\xfd", at)  # its first bytes, which name Zstandard
    if where == "value":
        at += chunk.total_compressed_size // 2  # which only the checksum of the page shows
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"row group 1 cannot be read: column {name}") as caught:
        list(open_trace(path))
    assert caught.value.record == 10
    records, skipped = read(path)
    assert records == [*range(10), *range(20, 30)]
    assert [str(error) for error in skipped] == [str(caught.value)]


def test_damage_in_a_column_that_is_not_read_costs_nothing(three_groups):
    path, column = three_groups
    data = bytearray(path.read_bytes())
    for group in range(3):
        chunk = column(group, "hidden_states")
        data[chunk.data_page_offset : chunk.data_page_offset + 300] = b"\xff" * 300
    path.write_bytes(data)
    assert read(path) == (list(range(30)), [])
