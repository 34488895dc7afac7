"""Columns of every layout that Parquet files give, and those that cannot hold their field."""

import base64

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError
from trbounds.traces import open_trace
from trbounds.traces.arrow import MAX_STRING_BYTES, columns_from_arrow

LISTS = [[-0.5, -0.1, -3.0], [], [-1.0]]
NAMES = ["a", "name that is longer than a view", "\N{GREEK SMALL LETTER MU}" * 9]
STRINGS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
LIST_TYPES = ("list_", "large_list", "list_view", "large_list_view")
needs_views = pytest.mark.skipif(
    not hasattr(pa, "string_view"), reason="pyarrow before 16 has no views"
)


def of_type(name, values):
    """An array of strings, or of UTF-8 bytes, in this layout."""
    if "binary" in name:
        values = [None if value is None else value.encode() for value in values]
    return pa.array(values, getattr(pa, name)())


def views(lists):
    """The same lists as views."""
    return pa.array(lists.to_pylist(), pa.list_view(lists.type.value_type))


def parquet(path, columns, *, types=None):
    """Write columns; `types` are what the Arrow schema in the file's metadata claims."""
    table = pa.table({"rollout_logprobs": LISTS, "train_logprobs": LISTS} | columns)
    claimed = pa.schema([(f.name, (types or {}).get(f.name, f.type)) for f in table.schema])
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        schema = base64.b64encode(claimed.serialize().to_pybytes())
        writer.add_key_value_metadata({b"ARROW:schema": schema})
    return path


def read(path):
    [batch] = open_trace(path)
    return batch


@needs_views
@pytest.mark.parametrize("name", STRINGS)
def test_strings_of_every_layout(tmp_path, name):
    stored = of_type("binary" if "binary" in name else "string", NAMES)
    types = dict.fromkeys(("prompt_id", "logprobs_mode"), getattr(pa, name)())
    columns = dict.fromkeys(types, stored)
    batch = read(parquet(tmp_path / "a.parquet", columns, types=types))
    assert batch.prompt_id.tolist() == batch.logprobs_mode.tolist() == NAMES
    assert type(batch.prompt_id[0]) is str


@needs_views
@pytest.mark.parametrize("name", LIST_TYPES)
def test_lists_of_every_layout(tmp_path, name):
    types = {
        column: getattr(pa, name)(kind)
        for column, kind in (
            ("rollout_logprobs", pa.float64()),
            ("kl", pa.float32()),
            ("weight_version", pa.int16()),
        )
    }
    columns = {
        "kl": pa.array([[0.5, 0.25, 2.0], [], [4.0]], pa.list_(pa.float32())),
        "weight_version": pa.array([[1, 2, 3], [], [4]], pa.list_(pa.int16())),
    }
    batch = read(parquet(tmp_path / "a.parquet", columns, types=types))
    assert batch.offsets.tolist() == [0, 3, 3, 4]
    assert batch.rollout_logprobs.tolist() == [-0.5, -0.1, -3.0, -1.0]
    assert batch.kl.tolist() == [0.5, 0.25, 2.0, 4.0]
    assert batch.weight_version.tolist() == [1, 2, 3, 4]


@needs_views
@pytest.mark.parametrize("layout", ["ListViewArray", "LargeListViewArray"])
def test_views_of_lists_in_any_order(layout):
    """Overlapping, out of order, null, sliced: what to_pylist() says is what is read."""
    rng = np.random.default_rng(7)
    kind = np.int32 if layout == "ListViewArray" else np.int64
    for _ in range(20):
        sizes = rng.integers(0, 5, 9)
        views = getattr(pa, layout).from_arrays(
            pa.array(rng.integers(0, 20 - sizes).astype(kind)),
            pa.array(sizes.astype(kind)),
            pa.array(rng.random(20)),
            mask=pa.array(rng.random(9) < 0.3),
        )
        views = views.slice(int(rng.integers(0, 4)), 5)
        found = columns_from_arrow({"kl": views}, file="f")
        expected = views.to_pylist()
        column = found.columns["kl"]
        ends = zip(column.offsets[:-1], column.offsets[1:], strict=True)
        assert [column.values[a:b].tolist() for a, b in ends] == [row or [] for row in expected]
        missing = found.missing.get("kl", np.zeros(5, dtype=bool))
        assert missing.tolist() == [row is None for row in expected]


@needs_views
@pytest.mark.parametrize("name", ["string_view", "list_view", "large_list_view"])
def test_a_null_in_a_view_is_named_by_its_record(tmp_path, name):
    if name == "string_view":
        column, stored, kind = "prompt_id", pa.array(["a", None, "b"]), pa.string_view()
    else:
        column, stored = "kl", pa.array([[0.1, 0.2, 0.3], None, [0.5]])
        kind = getattr(pa, name)(pa.float64())
    path = parquet(tmp_path / "a.parquet", {column: stored}, types={column: kind})
    with pytest.raises(InputError, match="found no value") as caught:
        read(path)
    assert (caught.value.record, caught.value.field) == (1, column)


@needs_views
@pytest.mark.parametrize("name", STRINGS)
def test_the_longest_string(name):
    """Exactly at the limit is read, a byte more is not, wherever in a slice it lies."""
    longest = "x" * MAX_STRING_BYTES
    column = of_type(name, [longest + "x", "a", None, longest, longest + "x"])
    found = columns_from_arrow({"prompt_id": column.slice(1, 3)}, file="f")
    assert found.columns["prompt_id"].tolist() == ["a", None, longest]
    assert found.missing["prompt_id"].tolist() == [False, True, False]
    for part in (column.slice(1), column.slice(0, 2)):
        for field in ("prompt_id", "logprobs_mode", "step", "kl"):
            with pytest.raises(InputError, match=f"{name} *, expected .* 65537 bytes") as caught:
                columns_from_arrow({field: part}, file="f")
            assert (caught.value.file, caught.value.field) == ("f", field)


@needs_views
def test_the_length_that_a_null_view_holds_is_not_looked_at():
    views = np.array([[3, 0x636261, 0, 0], [1 << 30, 0, 0, 0]], np.int32)
    column = pa.Array.from_buffers(
        pa.string_view(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(views.tobytes())]
    )
    found = columns_from_arrow({"prompt_id": column}, file="f")
    assert found.columns["prompt_id"].tolist() == ["abc", None]


@needs_views
@pytest.mark.parametrize("name", STRINGS)
def test_long_strings_are_refused_before_they_are_copied(name):
    """Many rows of one string: of a dictionary, or of views on the same bytes."""
    one = of_type(name, ["x" * (MAX_STRING_BYTES + 1)])
    if "view" in name:
        column = pa.concat_arrays([one] * 2_000)
    else:
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000, np.int32)), one)
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(InputError, match="one of 65537 bytes, the limit is 65536"):
            columns_from_arrow({"prompt_id": column}, file="f")
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 1 << 20


@needs_views
def test_a_view_of_a_long_string_in_a_file(tmp_path):
    stored = pa.array(["a", "x" * (MAX_STRING_BYTES + 1), "b"])
    types = {"prompt_id": pa.string_view()}
    with pytest.raises(InputError, match=r"found type string.*one of 65537 bytes") as caught:
        read(parquet(tmp_path / "a.parquet", {"prompt_id": stored}, types=types))
    assert caught.value.field == "prompt_id"


def test_bytes_that_are_not_utf8():
    for name in ("prompt_id", "logprobs_mode"):
        with pytest.raises(InputError, match=r"found type binary, expected .*strings \(Invalid"):
            columns_from_arrow({name: pa.array([b"\xff"])}, file="f")


CANNOT = [
    ("step", pa.array(["1"]), "string", "whole numbers"),
    (
        "prompt_id",
        pa.array([1], pa.timestamp("us")),
        r"timestamp\[us\]",
        "whole numbers or strings",
    ),
    ("prompt_id", pa.array([[1]]), "list<.*>", "whole numbers or strings"),
    ("prompt_id", pa.array([1.5]), "double", r"whole numbers or strings \(.*1\.5.*\)"),
    ("prompt_id", pa.array([2**63], pa.uint64()), "uint64", r"whole numbers or strings \(.*\)"),
    ("logprobs_mode", pa.array([1]), "int64", "strings"),
    ("finished", pa.array([1]), "int64", "true or false"),
    ("reward", pa.array(["1"]), "string", "numbers"),
    ("kl", pa.array([0.5]), "double", "a list of numbers"),
    ("kl", pa.array([["1"]]), "list<.*>", "a list of numbers"),
    ("kl", pa.array([[[0.5]]]), "list<.*>", "a list of numbers"),
]


@pytest.mark.parametrize(("name", "column", "found", "expected"), CANNOT)
def test_a_type_that_cannot_hold_its_field_is_named(name, column, found, expected):
    with pytest.raises(InputError, match=f": found type {found}, expected {expected}$") as caught:
        columns_from_arrow({name: column}, file="f")
    assert (caught.value.file, caught.value.field) == ("f", name)


@needs_views
def test_a_view_that_cannot_hold_its_field_is_named():
    numbers, texts = pa.array([[0.5]], pa.list_(pa.float64())), pa.array([["1"]])
    for name, column, expected in (
        ("step", pa.array(["1"], pa.string_view()), "string_view, expected whole numbers"),
        ("finished", pa.array(["1"], pa.string_view()), "string_view, expected true or false"),
        ("reward", pa.array([b"1"], pa.binary_view()), "binary_view, expected numbers"),
        ("kl", pa.array(["1"], pa.string_view()), "string_view, expected a list of numbers"),
        ("kl", views(texts), "list_view<item: string>, expected a list of numbers"),
        ("reward", views(numbers), "list_view<item: double>, expected numbers"),
        ("seq_id", views(numbers), "list_view<item: double>, expected whole numbers or strings"),
    ):
        with pytest.raises(InputError, match=f": found type {expected}$"):
            columns_from_arrow({name: column}, file="f")
