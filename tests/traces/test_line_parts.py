"""JSON Lines cut into ranges: the summary and the faults of the whole file, for any size."""

import gzip
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trbounds.errors import InputError
from trbounds.traces import TraceSummary, open_trace, summarize
from trbounds.traces.partition import Part, _between_lines, partition
from trbounds.traces.reader import find_readers
from trbounds.traces.summary_file import _arrays, _document

FORMATS = ("canonical-jsonl", "nemo-rl", "prime-rl")
NAMES = {"canonical-jsonl": "a.jsonl", "nemo-rl": "train_data_step3.jsonl", "prime-rl": "r.jsonl"}


def canonical(index, rollout, train):
    prompt = str(index // 2) if index % 3 else index // 2
    return {
        "rollout_logprobs": rollout,
        "train_logprobs": train,
        "kl": [abs(r - t) for r, t in zip(rollout, train, strict=True)],
        "reward": index % 2,
        "prompt_id": prompt if index < 9 else f"p{prompt}",
    }


def nemo(index, rollout, train):
    n = len(rollout)
    return {
        "input_lengths": [n + 2],
        "token_ids": [[5, index // 2, *range(n), 0]],
        "token_loss_mask": [[0, 0, *[1] * n, 0]],
        "generation_logprobs": [[0.0, 0.0, *rollout, 0.0]],
        "prev_logprobs": [[0.0, -1.0, *train, 0.0]],
        "rewards": [index % 2],
        "idx": index,
    }


def prime(index, rollout, train):
    n = len(rollout)
    return {
        "schema_version": 1,
        "export_sequence_idx": index,
        "step": 3,
        "token_ids": [5, index // 2, *range(n)],
        "loss_mask": [False, False, *[True] * n],
        "inference_logprobs": [0.0, 0.0, *rollout],
        "trainer_logprobs": [None, -1.0, *train],
    }


MAKE = {"canonical-jsonl": canonical, "nemo-rl": nemo, "prime-rl": prime}
TRAIN = {
    "canonical-jsonl": "train_logprobs",
    "nemo-rl": "prev_logprobs",
    "prime-rl": "trainer_logprobs",
}


def rows(format, count, seed=0):
    source = random.Random(seed)
    out = []
    for index in range(count):
        rollout = [-source.uniform(0.01, 3) for _ in range(source.randint(1, 9))]
        train = [max(r + source.gauss(0, 0.1), -50) if r < -0.3 else r for r in rollout]
        out.append(MAKE[format](index, rollout, train))
    return out


def spoiled(format, row, kind):
    """A line with a fault: in the text, in a type, in a length, or in a value."""
    field = TRAIN[format]
    if kind == "text":
        return json.dumps(row)[:-3]
    if kind == "no object":
        return "[1, 2]"
    if kind == "absent":
        return json.dumps({name: value for name, value in row.items() if name != field})
    values = row[field]
    inner = values[0] if format == "nemo-rl" else values
    bad = {"type": ["x", *inner[1:]], "length": inner[:-2], "value": [0.5] * len(inner)}[kind]
    return json.dumps({**row, field: [bad] if format == "nemo-rl" else bad})


KINDS = ("text", "no object", "absent", "type", "length", "value")


def write(path, lines, *, ends=("\n",), mark=b"", final=True):
    text = "".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    text = text if final else text.rstrip("\r\n")
    path.write_bytes(mark + text.encode())
    return path


def cut(monkeypatch, size, scan=64):
    monkeypatch.setattr("trbounds.traces.partition._PART_BYTES", size)
    monkeypatch.setattr("trbounds.traces.partition._SCAN_BYTES", scan)


def outcome(path, format, **options):
    """The summary, or the fault."""
    try:
        return summarize(path, format, **options)
    except InputError as error:
        return (error.problem, error.file, error.record, error.field)


def assert_same(one, two):
    if isinstance(one, tuple) or isinstance(two, tuple):
        assert one == two
        return
    assert _document(one) == _document(two)
    first, second = _arrays(one), _arrays(two)
    for name, values in first.items():
        other = second[name]
        if values.ndim == 2:
            values, other = values.sum(axis=0), other.sum(axis=0)
        np.testing.assert_allclose(values, other, rtol=1e-12, atol=1e-15, err_msg=name)


def whole(path, format):
    """The summary without an engine and without parts."""
    out = TraceSummary()
    for batch in open_trace(path, format):
        out.absorb(TraceSummary.of(batch))
    return out


@st.composite
def files(draw, faults):
    format = draw(st.sampled_from(FORMATS))
    count = draw(st.integers(2, 14))
    lines = [json.dumps(row) for row in rows(format, count, draw(st.integers(0, 9)))]
    made = rows(format, count)
    for index in draw(st.sets(st.integers(1, count - 1), max_size=3)) if faults else ():
        lines[index] = spoiled(format, made[index], draw(st.sampled_from(KINDS)))
    for place in draw(st.lists(st.integers(0, count), max_size=4)):
        lines.insert(place, draw(st.sampled_from(["", "  ", "\t"])))
    ends = draw(st.lists(st.sampled_from(["\n", "\r\n"]), min_size=1, max_size=5))
    return format, lines, {"ends": ends, "final": draw(st.booleans())}


SIZES = st.integers(1, 3000)
BLOCKS = st.sampled_from([100, 1000, 1 << 22])


def check(folder, monkeypatch, file, size, block, on_error):
    format, lines, options = file
    path = write(folder / NAMES[format], lines, **options)
    with monkeypatch.context() as patch:
        patch.setattr("trbounds.traces.source._BLOCK_BYTES", block)
        cut(patch, 1 << 40)
        expected = outcome(path, format, on_error=on_error)
        cut(patch, size)
        assert_same(outcome(path, format, on_error=on_error), expected)
        parts = partition(path, format)
    assert_parts_of_lines(path, parts, size)
    return parts, expected


def assert_parts_of_lines(path, parts, size):
    data = path.read_bytes()
    assert {part.file_size for part in parts} == {len(data)}
    if parts == [Part(str(path), file_size=len(data), size=len(data))]:
        return
    assert [part.first for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == len(data)
    for part in parts:
        assert part.size == part.stop - part.first
        assert part.first_record == data[: part.first].count(b"\n")
        assert part.first == 0 or data[part.first - 1 : part.first] == b"\n"
        # No longer than it has to be: without its last line it is too short.
        longest_line = max(map(len, data[part.first : part.stop].splitlines(keepends=True)))
        assert part.size < size + longest_line


PROPERTY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@PROPERTY
@given(file=files(faults=False), size=SIZES, block=BLOCKS)
def test_any_range_gives_the_whole(tmp_path, monkeypatch, file, size, block):
    parts, expected = check(tmp_path, monkeypatch, file, size, block, "fail")
    assert expected.n_sequences == sum(bool(line.strip()) for line in file[1])
    if size < 100 and block == 1 << 22:
        assert len(parts) > 1
    assert_same(whole(parts[0].file, file[0]), expected)


@PROPERTY
@given(
    file=files(faults=True), size=SIZES, block=BLOCKS, on_error=st.sampled_from(["fail", "skip"])
)
def test_faults_have_the_same_place_for_any_range(
    tmp_path, monkeypatch, file, size, block, on_error
):
    check(tmp_path, monkeypatch, file, size, block, on_error)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("later", KINDS)
@pytest.mark.parametrize("earlier", KINDS)
def test_the_first_fault_in_order_is_raised(tmp_path, format, earlier, later):
    made = rows(format, 6)
    lines = [json.dumps(row) for row in made]
    # Where no line but the first is good, its lacking a field may be a fault of the file.
    for first in (2,) if earlier == "absent" else (0, 2):
        both = spoiled(format, made[first], earlier), spoiled(format, made[first + 1], later)
        path = write(tmp_path / NAMES[format], [*lines[:first], *both, *lines[first + 2 :]])
        with pytest.raises(InputError) as caught:
            list(open_trace(path, format))
        assert caught.value.record == first
        left_out = []
        list(open_trace(path, format, on_error="skip", on_skip=left_out.append))
        assert sorted(error.record for error in left_out) == [first, first + 1]


# ---- what is decided for the whole file


_NOT_IN_MOST = "found a value, expected none: most records at the beginning of the file have none"


@pytest.mark.parametrize("size", [1, 1 << 30])
def test_a_field_is_in_every_record_of_a_file_or_in_none(tmp_path, monkeypatch, size):
    made = rows("canonical-jsonl", 8)
    del made[0]["reward"], made[1]["prompt_id"], made[5]["rollout_logprobs"]
    path = write(tmp_path / "a.jsonl", map(json.dumps, [{}, *made]))
    cut(monkeypatch, size)
    assert len(partition(path)) == (9 if size == 1 else 1)
    summary = summarize(path, on_error="skip")
    assert {"reward", "prompt_id"} <= summary.present
    assert [(s.record, s.field) for s in summary.skipped] == [
        (0, "rollout_logprobs"),
        (1, "reward"),
        (2, "prompt_id"),
        (6, "rollout_logprobs"),
    ]


@pytest.mark.parametrize("size", [1, 1 << 30])
@pytest.mark.parametrize(
    ("form", "usual", "rare", "value"),
    [("canonical-jsonl", "kl", "temperature", 1.0), ("prime-rl", "step", "rewards", [0.5])],
)
def test_a_field_that_few_records_have_is_their_fault(
    tmp_path, monkeypatch, form, usual, rare, value, size
):
    made = rows(form, 8)
    for index in (0, 3, 5):
        made[index][rare] = value
    del made[6][usual]
    path = write(tmp_path / "a.jsonl", map(json.dumps, made))
    cut(monkeypatch, size)
    left_out = summarize(path, on_error="skip").skipped
    assert [(s.record, s.field) for s in left_out] == [
        *((index, rare) for index in (0, 3, 5)),
        (6, usual),
    ]
    assert {s.problem for s in left_out[:3]} == {_NOT_IN_MOST}
    with pytest.raises(InputError, match=f"record 0, field '{rare}': {_NOT_IN_MOST}"):
        summarize(path)


@pytest.mark.parametrize("size", [1, 1 << 30])
@pytest.mark.parametrize(
    ("form", "rare", "value"),
    [("canonical-jsonl", "temperature", 1.0), ("prime-rl", "rewards", [0.5])],
)
def test_lines_after_a_damaged_one_count_for_what_most_have(
    tmp_path, monkeypatch, form, rare, value, size
):
    made = rows(form, 8)
    made[0][rare] = value
    lines = [json.dumps(row) for row in made]
    lines[2] = "{"
    path = write(tmp_path / "a.jsonl", lines)
    cut(monkeypatch, size)
    with pytest.raises(InputError, match=f"record 0, field '{rare}': {_NOT_IN_MOST}"):
        summarize(path)


@pytest.mark.parametrize("size", [1, 1 << 30])
def test_a_mask_has_one_name_in_each_record(tmp_path, monkeypatch, size):
    made = rows("canonical-jsonl", 8)
    for index, row in enumerate(made):
        names = ("mask", "loss_mask", "response_mask")
        for name in names[:2] if index in (0, 4) else names[index % 3 :][:1]:
            row[name] = [True] * len(row["kl"])
    path = write(tmp_path / "a.jsonl", map(json.dumps, made))
    cut(monkeypatch, size)
    summary = summarize(path, on_error="skip")
    assert [(s.record, s.field, s.problem) for s in summary.skipped] == [
        (index, "mask", "found both loss_mask and mask, expected one") for index in (0, 4)
    ]
    assert all(batch.mask.all() for batch in open_trace(path, on_error="skip"))


def test_a_field_that_appears_later_is_a_fault_of_its_record(tmp_path, monkeypatch):
    made = rows("canonical-jsonl", 8)
    for row in made[:6]:
        del row["reward"], row["kl"]
    made[7]["kl"] = None
    path = write(tmp_path / "a.jsonl", map(json.dumps, made))
    monkeypatch.setattr("trbounds.traces.source._BLOCK_BYTES", len(json.dumps(made[0])) + 1)
    summary = summarize(path, on_error="skip")
    assert [(s.record, s.field, s.problem) for s in summary.skipped] == [
        (6, "kl", _NOT_IN_MOST),
        (7, "reward", _NOT_IN_MOST),
    ]
    assert not summary.seen & {"reward", "kl"}


@pytest.mark.parametrize("size", [1, 1 << 30])
def test_what_the_first_record_of_a_framework_lacks_is_not_lost(tmp_path, monkeypatch, size):
    made = rows("prime-rl", 6)
    assert all("rewards" not in row for row in made)
    for row in made[2:]:
        row["rewards"] = [0.5] * len(row["loss_mask"])
    path = write(tmp_path / "r.jsonl", map(json.dumps, made))
    cut(monkeypatch, size)
    summary = summarize(path, on_error="skip")
    assert [(s.record, s.field) for s in summary.skipped] == [(0, "rewards"), (1, "rewards")]
    assert summary.sequences["reward"].tolist() == [0.5] * 4


def test_faults_of_the_file_count_once(tmp_path, monkeypatch):
    cut(monkeypatch, 1)
    good = write(tmp_path / "good.jsonl", map(json.dumps, rows("canonical-jsonl", 3)))
    forced = [{**row, "prev_logprobs": [[0.0] * 12]} for row in rows("nemo-rl", 5)]
    other = [{**row, "schema_version": 2} for row in rows("prime-rl", 5)]
    for name, lines, problem in (
        ("train_data_step1.jsonl", forced, "forced on-policy"),
        ("r.jsonl", other, "found 2, expected 1"),
    ):
        path = write(tmp_path / name, map(json.dumps, lines))
        assert len(partition(path)) == 1
        summary = summarize([good, path], on_error="skip")
        (left_out,) = summary.skipped
        assert problem in left_out.problem
        assert (left_out.record, summary.counts["skipped"], summary.n_sequences) == (-1, 1, 3)


def test_one_record_of_certain_tokens_does_not_make_a_part_on_policy(tmp_path, monkeypatch):
    made = rows("nemo-rl", 6)
    for index in (0, 3):
        made[index]["prev_logprobs"] = [[0.0] * len(made[index]["prev_logprobs"][0])]
    path = write(tmp_path / "train_data_step1.jsonl", map(json.dumps, made))
    cut(monkeypatch, 1)
    assert len(partition(path)) == 6
    assert summarize(path).n_sequences == 6


def test_another_version_amid_a_file_is_a_fault_of_its_record(tmp_path, monkeypatch):
    made = rows("prime-rl", 6)
    made[3]["schema_version"] = 2
    path = write(tmp_path / "r.jsonl", map(json.dumps, made))
    for size in (1, 1 << 30):
        cut(monkeypatch, size)
        summary = summarize(path, on_error="skip")
        assert [(s.record, s.problem) for s in summary.skipped] == [(3, "found 2, expected 1")]
        assert summary.n_sequences == 5


# ---- lines


@pytest.mark.parametrize("size", [1, 100, 1 << 30])
def test_a_line_that_is_too_long_is_left_out_alone(tmp_path, monkeypatch, size):
    monkeypatch.setattr("trbounds.traces.json_lines.MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("trbounds.traces.source._BLOCK_BYTES", 256)
    cut(monkeypatch, size)
    lines = [json.dumps(row) for row in rows("canonical-jsonl", 6)]
    assert max(map(len, lines)) < 1000
    lines[1] = lines[1][:-1] + " " * 1000 + "}"
    lines[4] = " " * 5000
    for final in (True, False):
        path = write(tmp_path / "a.jsonl", lines, ends=("\r\n", "\n"), final=final)
        summary = summarize(path, on_error="skip")
        assert summary.sequences["record"].tolist() == [0, 2, 3, 5]
        assert [s.record for s in summary.skipped] == [1, 4]
        assert "line 2 has more than" in summary.skipped[0].problem
        with pytest.raises(InputError, match="record 1: line 2 has more than"):
            summarize(path)


def test_the_longest_line_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trbounds.traces.json_lines.MAX_LINE_BYTES", 1024)
    monkeypatch.setattr("trbounds.traces.source._BLOCK_BYTES", 256)
    lines = [json.dumps(row) for row in rows("canonical-jsonl", 3)]
    lines = [line[:-1] + " " * (1024 - len(line)) + "}" for line in lines]
    path = write(tmp_path / "a.jsonl", lines, final=False)
    assert summarize(path).n_sequences == 3


@pytest.mark.parametrize("format", FORMATS)
def test_byte_order_mark_and_blank_ends(tmp_path, monkeypatch, format):
    lines = [json.dumps(row) for row in rows(format, 3)]
    path = write(tmp_path / "a.jsonl", [*lines, *[""] * 50], mark=b"\xef\xbb\xbf")
    cut(monkeypatch, 10)
    assert len(partition(path)) > 4
    summary = summarize(path)
    assert summary.sequences["record"].tolist() == [0, 1, 2]


def test_what_is_not_cut(tmp_path, monkeypatch):
    cut(monkeypatch, 1)
    lines = [json.dumps(row) for row in rows("canonical-jsonl", 3)]
    path = write(tmp_path / "a.jsonl", lines)
    assert len(partition(path)) == 3
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(path.read_bytes()))
    bad = write(tmp_path / "c.jsonl", ["{]"] * 3)
    one = write(tmp_path / "d.jsonl", lines[:1])
    for file in (tmp_path / "b.jsonl", bad, one):
        size = os.path.getsize(file)
        assert partition(file) == [Part(str(file), file_size=size, size=size)]
    assert partition("-") == [Part("-")]
    with pytest.raises(InputError, match=r"record 0: line 1 is not valid JSON"):
        summarize(bad)


def test_every_reader_of_lines_can_be_cut():
    assert {reader.name for reader in find_readers().values() if reader.fields} == set(FORMATS)


# ---- files that change


@pytest.fixture
def file(tmp_path, monkeypatch):
    cut(monkeypatch, 2000)
    return write(tmp_path / "a.jsonl", map(json.dumps, rows("canonical-jsonl", 60)))


def test_a_file_that_changes_meanwhile(file, monkeypatch):
    data = file.read_bytes()
    parts = partition(file)
    monkeypatch.setattr("trbounds.traces.engine.partition", lambda paths, format: parts)
    # What was added is not read.
    file.write_bytes(data + b'{"half a rec')
    assert summarize(file).n_sequences == 60
    for changed in (data[:-5], data.replace(b"\n", b" \n"), data.replace(b"\n", b" \n", 1)):
        file.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.jsonl: .*changed since it was cut"):
            summarize(file)


# ---- engines, interruption


class Interrupt:
    """Ctrl-C once a number of parts is done."""

    def __init__(self, after):
        self.after = after

    def __call__(self, progress):
        if progress.parts_done >= self.after:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_interrupted_amid_a_file_is_continued(file, tmp_path, monkeypatch, jobs):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            summarize(file, jobs=jobs, save_partial=tmp_path / "run.tbs", on_progress=Interrupt(2))
    finally:
        signal.signal(signal.SIGINT, previous)
    partial = TraceSummary.load(tmp_path / "run.tbs")
    parts = partition(file)
    assert len(parts) > 4
    assert partial.partial.done < set(parts)
    assert (len(partial.partial.done), partial.partial.left) == (2, len(parts) - 2)
    assert 0 < partial.n_sequences < 60
    assert "(bytes " in str(sorted(partial.partial.done)[0])
    seen = []
    final = summarize(file, resume=partial, jobs=jobs, on_progress=seen.append)
    assert final.partial is None
    assert_same(final, whole(file, None))
    assert (seen[-1].bytes_done, seen[-1].bytes) == (os.path.getsize(file),) * 2
    assert seen[-1].tokens_read < seen[-1].tokens


@pytest.mark.parametrize("change", ["longer", "shorter", "other lines"])
def test_a_file_that_changed_is_not_continued(file, tmp_path, change):
    data = file.read_bytes()
    bad = Path(tmp_path / "bad.jsonl")
    bad.write_text("{]")
    with pytest.raises(InputError):
        summarize([file, bad], save_partial=tmp_path / "run.tbs")
    partial = TraceSummary.load(tmp_path / "run.tbs")
    assert partial.n_sequences == 60
    longer, shorter = data + data.splitlines(keepends=True)[0], data[: data.rfind(b"\n", 0, -1)]
    other = data.replace(b", ", b",\n", 1) if change == "other lines" else b""
    file.write_bytes({"longer": longer, "shorter": shorter, "other lines": other}[change])
    with pytest.raises(InputError, match="not among the inputs or has changed"):
        summarize([file, bad], resume=partial)


def test_tokens_are_read_in_one_pass_unless_progress_is_shown(tmp_path, monkeypatch):
    """Cutting takes a pass of its own, through all of a file that may be larger than memory."""
    lines = [json.dumps(canonical(i, [-0.5, -1.0], [-0.5, -1.5])) for i in range(60)]
    file = write(tmp_path / "a.jsonl", lines)
    cut(monkeypatch, 1000)
    seen, scanned = [], []
    monkeypatch.setattr(
        "trbounds.traces.partition._between_lines",
        lambda *args: scanned.append(args) or _between_lines(*args),
    )
    for on_progress in (None, seen.append):
        batches = open_trace(file, on_progress=on_progress)
        assert [n for batch in batches for n in batch.record_numbers] == [*range(60)]
        assert bool(scanned) == bool(on_progress)
    assert seen[-1].parts_done == seen[-1].parts > 1
