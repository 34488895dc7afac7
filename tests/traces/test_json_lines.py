"""orjson and the standard library: the same records, the same faults."""

import json

import pytest

from trbounds.errors import InputError
from trbounds.traces import json_lines, open_trace
from trbounds.traces.json_lines import batches_of_lines, leading_records
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

LINES = [
    b'{"a": [1, 2.5, -3e-7], "b": "x", "c": null, "d": true}',
    b'{"a": [NaN, Infinity, -Infinity]}',
    b'{"a": 0.1, "a": 0.30000000000000004}',
    b'{"a": -1.7976931348623157e308, "b": 5e-324}',
    b'{"a": "\\ud800"}',
    b"[1, 2]",
    b"{]",
    b'{"a": 1',
    b"\xff\xfe{}",
    b"",
    b"[" * 100_000,
    b'{"a": 01}',
]


def decoded(path, options):
    """Pairs of a record and its number."""
    pairs = []

    def collect(records, numbers, options):
        pairs.extend(zip(records, numbers.tolist(), strict=True))

    assert list(batches_of_lines(Source(str(path)), options, collect)) == []
    return pairs


def outcome(path):
    faults = []
    options = ReadOptions(on_error="skip", on_skip=faults.append)
    records = decoded(path, options)
    assert repr([record for record, _ in records]) == repr(list(leading_records(Source(str(path)))))
    return repr(records), [(fault.record, fault.problem) for fault in faults]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:24].decode("latin1"))
def test_both_parsers_say_the_same(tmp_path, monkeypatch, line):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"first": 1}\n' + line + b"\n")
    assert json_lines._orjson is not None
    fast = outcome(file)
    monkeypatch.setattr(json_lines, "_orjson", None)
    assert fast == outcome(file)


def test_whole_numbers_beyond_64_bits_are_refused_by_both(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"rollout_logprobs": [-1], "train_logprobs": [-1], "seq_id": 123456789012345678901234}'
    )
    for _ in range(2):
        with pytest.raises(InputError, match="expected a whole number of 64 bits"):
            list(open_trace(file))
        monkeypatch.setattr(json_lines, "_orjson", None)


def test_numbers_are_read_to_the_last_bit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, -2.2250738585072014e-308, 9007199254740993.0, 1e23]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"a": values}))
    assert decoded(file, ReadOptions()) == [({"a": values}, 0)]


def test_a_bad_line_is_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": }\n')
    with pytest.raises(
        InputError, match=r"record 1: line 2 is not valid JSON: Expecting value in column 7"
    ):
        decoded(file, ReadOptions())


def test_every_kind_of_value_counts_towards_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_LINE_VALUES", 9)
    file = tmp_path / "a.jsonl"
    for text in ('{"a": [[[[[[[[[[]]]]]]]]]]}', '{"a": [' + "0," * 9 + "0]}", '{"a":' * 10 + "1"):
        file.write_text(text)
        with pytest.raises(InputError, match="line 1 holds more than 9 values"):
            decoded(file, ReadOptions())
