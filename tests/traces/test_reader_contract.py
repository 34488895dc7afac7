"""The contract of every trace reader, discovered: a new one needs its file and a sample here."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError
from trbounds.traces import open_trace, summarize, write_parquet
from trbounds.traces.reader import detect, find_readers
from trbounds.traces.source import Source
from trbounds.traces.validate import ReadOptions

Row = dict[str, Any]
"""A sequence: ``rollout`` and ``train`` (lists of log-probabilities), ``reward``, ``prompt``."""


class Sample(NamedTuple):
    """How files of a format are made, for tests that know of no format."""

    write: Callable[..., object]
    """``write(path, rows, torch_writer, **version)`` makes a file of rows, right or wrong."""
    rollout: str
    """What messages call the rollout's log-probabilities."""
    train: str
    """What they call the training policy's."""
    version: str | None = None
    """What says the version of the format, if anything does."""
    one_type: bool = False
    """Whether a column has one type, so that a wrong one is a fault of the file."""


def lines_of(convert):
    """Write a row a line, as ``convert(index, row)`` makes it."""

    def write(path, rows, torch_writer, **version):
        made = [convert(index, row) | version for index, row in enumerate(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in made))

    return write


def canonical(index, row):
    return {
        "rollout_logprobs": row["rollout"],
        "train_logprobs": row["train"],
        "reward": row["reward"],
        "prompt_id": row["prompt"],
    }


def write_canonical_parquet(path, rows, torch_writer):
    columns = {name: [canonical(0, row)[name] for row in rows] for name in canonical(0, ROWS[0])}
    table = {}
    for name, values in columns.items():
        wrong = [v for v in values if name.endswith("probs") and v is not None and not numbers(v)]
        table[name] = [wrong[0]] * len(rows) if wrong else values
    kinds = {} if rows else {"rollout_logprobs": NUMBERS, "train_logprobs": NUMBERS}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in table.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=2)


NUMBERS = pa.list_(pa.float64())


def numbers(value):
    """Tell whether these can be the values of a token column."""
    return isinstance(value, list) and all(type(entry) in (int, float) for entry in value)


def padded(before, values, after):
    """Put values of a response between those of a prompt and a filling, if they are a list."""
    return [before + values + after] if isinstance(values, list) else [values]


def nemo_rl(index, row):
    n = len(row["rollout"])
    return {
        "input_lengths": [n + 2],
        "token_ids": [[row["prompt"], 7, *range(n), 0]],
        "token_loss_mask": [[0, 0, *[1] * n, 0]],
        "generation_logprobs": padded([0.0, 0.0], row["rollout"], [0.0]),
        "prev_logprobs": padded([0.0, -1.0], row["train"], [0.0]),
        "rewards": [row["reward"]],
        "idx": index,
    }


def prime_rl(index, row):
    n = len(row["rollout"])
    train = row["train"]
    return {
        "schema_version": 1,
        "export_sequence_idx": index,
        "token_ids": [row["prompt"], 7, *range(n)],
        "loss_mask": [False, False, *[True] * n],
        "inference_logprobs": [0.0, 0.0, *row["rollout"]],
        "trainer_logprobs": [None, -1.0, *train] if isinstance(train, list) else train,
        "rewards": [row["reward"]] * (n + 2),
    }


def write_slime(path, rows, torch_writer, **version):
    def vector(values):
        # Numbers as the tensors that slime writes, anything else as it is.
        return torch_writer.Tensor(np.array(values, np.float64)) if numbers(values) else values

    samples = [
        {
            "tokens": vector([row["prompt"], 7, *range(len(row["rollout"]))]),
            "loss_masks": vector([1] * len(row["rollout"])),
            "rollout_log_probs": vector(row["rollout"]),
            "log_probs": vector(row["train"]),
            "rewards": row["reward"],
        }
        for row in rows
    ]
    torch_writer.save({"format_version": 2, "samples": samples, **version}, path)


SAMPLES = {
    "canonical-jsonl": Sample(lines_of(canonical), "rollout_logprobs", "train_logprobs"),
    "canonical-parquet": Sample(
        write_canonical_parquet, "rollout_logprobs", "train_logprobs", one_type=True
    ),
    "nemo-rl": Sample(lines_of(nemo_rl), "generation_logprobs", "prev_logprobs"),
    "prime-rl": Sample(
        lines_of(prime_rl), "inference_logprobs", "trainer_logprobs", version="schema_version"
    ),
    "slime": Sample(write_slime, "rollout_log_probs", "log_probs", version="format_version"),
}

LENGTHS = (3, 1, 4, 2, 5, 0)
ROWS: list[Row] = [
    {
        "rollout": [-0.5 - 0.25 * i for i in range(n)],
        "train": [-0.25 - 0.5 * i for i in range(n)],
        "reward": float(index % 2),
        "prompt": index // 2 + 1,
    }
    for index, n in enumerate(LENGTHS)
]


def changed(*places, **changes):
    """Rows of which some have other values: of a function of what they had, or as given."""
    rows = [dict(row) for row in ROWS]
    for index in places:
        for name, change in changes.items():
            rows[index][name] = change(rows[index][name]) if callable(change) else change
    return rows


def instead(value, place=-1):
    """Replace one entry of a list."""

    def change(values):
        out = list(values)
        out[place] = value
        return out

    return change


@pytest.fixture(params=sorted(find_readers()))
def name(request):
    """Name of each reader in turn."""
    return request.param


@pytest.fixture
def sample(name):
    """Its sample: who adds a reader adds one."""
    return SAMPLES[name]


@pytest.fixture
def make(sample, tmp_path, torch_writer):
    """Write rows to a file whose name says nothing; return its path."""

    def write(rows, file="log", **version):
        sample.write(tmp_path / file, rows, torch_writer, **version)
        return tmp_path / file

    return write


def read(path, **options):
    """Rows of what is read, with their numbers in the file."""
    found = []
    for batch in open_trace(path, **options):
        assert batch.file == str(path)
        counted = batch.counted()
        for i, number in enumerate(batch.record_numbers.tolist()):
            tokens = slice(counted.offsets[i], counted.offsets[i + 1])
            row = {
                "rollout": counted.rollout_logprobs[tokens].tolist(),
                "train": counted.train_logprobs[tokens].tolist(),
                "reward": float(batch.reward[i]),
            }
            found.append((number, row, batch.prompt_id[i]))
    return found


def expected(*left_out):
    """Rows that are read, without those."""
    return [
        (i, {name: row[name] for name in ("rollout", "train", "reward")})
        for i, row in enumerate(ROWS)
        if i not in left_out
    ]


def without_prompts(found):
    return [entry[:2] for entry in found]


def refusal(path, **options):
    """The error that reading raises; it names the file."""
    with pytest.raises(InputError) as caught:
        list(open_trace(path, **options))
    assert caught.value.file == str(path)
    return caught.value


def check_left_out(path, places, fields):
    """The first bad record is refused; skipping leaves out these and no others, and says so."""
    error = refusal(path)
    assert (error.record, error.field in fields) == (places[0], True)
    assert "expected" in error.problem
    skipped = []
    found = read(path, on_error="skip", on_skip=skipped.append)
    assert without_prompts(found) == expected(*places)
    assert [(e.file, e.record) for e in skipped] == [(str(path), i) for i in places]
    assert all(e.field in fields for e in skipped)
    summary = summarize(path, on_error="skip")
    assert summary.counts["skipped"] == len(places)
    assert summary.n_sequences == len(ROWS) - len(places)


def test_every_reader_has_a_sample():
    assert set(SAMPLES) == set(find_readers())


# ---- what is right


def test_values_records_and_prompts(make):
    found = read(make(ROWS))
    assert without_prompts(found) == expected()
    prompts = [prompt for _, _, prompt in found]
    assert [prompts.index(prompt) for prompt in prompts] == [0, 0, 2, 2, 4, 4]


def test_content_decides_what_reads_a_file(name, make, tmp_path):
    reader = find_readers()[name]
    path = make(ROWS)
    assert detect(Source(str(path))) is reader
    head = path.read_bytes()
    assert next(other for other, r in find_readers().items() if r.detects("log", head)) == name
    assert {reader.detects("log", head[:cut]) for cut in range(min(len(head), 300))} <= {
        True,
        False,
    }
    assert reader.detects("", b"") is False
    # A directory is searched for its files.
    for suffix in reader.suffixes[:1]:
        (tmp_path / "logs").mkdir()
        path.rename(tmp_path / "logs" / f"1{suffix}")
        assert [batch.n_sequences for batch in open_trace(tmp_path / "logs")]


def test_batches_are_small_and_records_keep_their_numbers(make):
    source = Source(str(make(ROWS)))
    batches = list(detect(source).read(source, ReadOptions(batch_tokens=1)))
    assert sum(batch.n_sequences for batch in batches) == len(ROWS)
    assert all(batch.n_sequences <= 2 for batch in batches)
    assert [n for batch in batches for n in batch.record_numbers.tolist()] == list(range(len(ROWS)))


def test_parts_of_a_file_are_the_file(make, monkeypatch):
    path = make(changed(1, 3, train=instead(0.5)))
    whole = summarize(path, on_error="skip")
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", 1)
    parts = summarize(path, on_error="skip")
    assert parts.skipped == whole.skipped
    for column in ("record", "log_weight", "reward"):
        assert parts.sequences[column].tolist() == whole.sequences[column].tolist()


def test_compressed_files_and_standard_input(name, make, monkeypatch):
    path = make(ROWS)
    data = path.read_bytes()
    path.write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    if any(suffix.endswith(".gz") for suffix in find_readers()[name].suffixes):
        assert without_prompts(read(path)) == expected()
        assert [n for batch in open_trace("-") for n in batch.record_numbers] == [*range(len(ROWS))]
    else:
        refusal(path)
        with pytest.raises(InputError, match=r"^<stdin>: .* cannot be read from standard input"):
            list(open_trace("-"))


# ---- what is wrong


def test_a_file_of_zero_records(make):
    path = make([])
    if path.stat().st_size == 0:
        assert refusal(path).problem == "the file is empty"  # nothing says of what format
    else:
        assert read(path) == []
    with pytest.raises(InputError, match=r"found no sequence|the file is empty"):
        summarize(path)


def test_a_truncated_file(name, make):
    data = make(ROWS).read_bytes()
    whole = expected()
    for size in range(0, len(data), max(len(data) // 40, 1)):
        path = make(ROWS)
        path.write_bytes(data[:size])
        skipped = []
        found = read(path, format=name, on_error="skip", on_skip=skipped.append)
        assert without_prompts(found) == whole[: len(found)]
        assert all(error.file == str(path) for error in skipped)
        if skipped:
            error = refusal(path, format=name)
            assert (error.record, error.problem) == (skipped[0].record, skipped[0].problem)
        else:
            # Whole lines are whole records, also without the end of the last.
            assert b"\n" in data[size - 1 : size + 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5, 1e-300, -1e5, 1e308])
@pytest.mark.parametrize("column", ["rollout", "train"])
def test_numbers_that_are_no_log_probabilities(sample, make, column, value):
    path = make(changed(2, 4, **{column: instead(value)}))
    check_left_out(path, (2, 4), {getattr(sample, column)})
    problem = refusal(path).problem
    assert ("missing value" if np.isnan(value) else f"found {value:g}") in problem


def test_rewards_out_of_range(make):
    check_left_out(make(changed(0, 3, reward=1.5)), (0, 3), {"reward", "rewards"})
    assert len(read(make(changed(0, 3, reward=1.5)), reward_range=(0.0, 2.0))) == len(ROWS)


def test_lists_of_unequal_length(sample, make):
    path = make(changed(0, 3, train=lambda values: values[:-2]))
    check_left_out(path, (0, 3), {sample.train})


@pytest.mark.parametrize("value", ["text", ["x"], [True, False], 0.5, [[-1.0]], {"a": 1}])
def test_values_of_a_wrong_type(sample, make, value):
    path = make(changed(2, 4, train=value))
    if not sample.one_type:
        check_left_out(path, (2, 4), {sample.train})
        return
    error = refusal(path)
    assert error.field == sample.train
    assert "expected a list of numbers" in error.problem
    with pytest.raises(InputError, match="found no sequence; left out because of an error: 1"):
        summarize(path, on_error="skip")


def test_a_missing_value(sample, make):
    path = make(changed(2, 4, train=None))
    check_left_out(path, (2, 4), {sample.train})
    assert "no value" in refusal(path).problem


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.version])
@pytest.mark.parametrize("version", [99, "1", None, [2]])
def test_a_version_that_is_not_known(sample, make, version):
    path = make(ROWS, **{sample.version: version})
    error = refusal(path)
    assert error.field == sample.version
    assert f"found {version!r}, expected " in error.problem
    with pytest.raises(InputError, match="found no sequence; left out"):
        summarize(path, on_error="skip")


def test_a_sequence_that_is_too_long(make):
    source = Source(str(make(ROWS)))
    longest = max(LENGTHS) + 2  # with a prompt of two tokens
    skipped = []
    for limit in range(1, longest + 1):
        skipped.clear()
        options = ReadOptions(max_length=limit, on_error="skip", on_skip=skipped.append)
        found = [n for b in detect(source).read(source, options) for n in b.record_numbers.tolist()]
        assert sorted([*found, *(error.record for error in skipped)]) == list(range(len(ROWS)))
        assert all("at most" in error.problem for error in skipped)
    assert not skipped


def test_nothing_but_bad_records(make):
    path = make(changed(0, 1, 2, 3, 4, train=instead(0.5)))
    assert refusal(path).record == 0
    assert without_prompts(read(path, on_error="skip")) == expected(0, 1, 2, 3, 4)
    path = make(changed(0, train=instead(0.5))[:1])
    with pytest.raises(InputError, match="found no sequence; left out because of an error: 1"):
        summarize(path, on_error="skip")


def test_a_bad_record_leaves_no_output(make, tmp_path):
    path = make(changed(4, train=instead(0.5)))
    with pytest.raises(InputError, match="record 4"):
        write_parquet(open_trace(path), tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == [path]


def test_one_bad_file_does_not_spoil_the_others(name, make):
    good, bad = make(ROWS, "good"), make(ROWS, "bad")
    bad.write_bytes(bad.read_bytes()[:40])
    summary = summarize([bad, good], name, on_error="skip")
    assert summary.n_sequences == len(ROWS)
    assert {skipped.file for skipped in summary.skipped} == {str(bad)}
