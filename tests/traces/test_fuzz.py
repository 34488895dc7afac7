"""Every reader on generated damage: a validated trace, or an InputError, and nothing else."""

import copy
import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from trbounds.errors import InputError
from trbounds.traces import TraceSummary, example_path, open_trace, validate, write_parquet
from trbounds.traces.findings import findings
from trbounds.traces.restricted_pickle import PickleError, decode

X, Y = [-1.0, -0.5, -2.0, -0.25], [-1.1, -0.4, -2.0, -0.3]

CANONICAL = {
    "rollout_logprobs": X,
    "train_logprobs": Y,
    "kl": [0.1] * 4,
    "mask": [1, 1, 0, 1],
    "weight_version": 3,
    "reward": 0.5,
    "prompt_id": "p",
    "step": 2,
    "finished": True,
    "top_k": 0,
}
NEMO = {
    "content": ["text"],
    "rewards": [0.5],
    "filtered_rewards": [0.5],
    "input_lengths": [5],
    "token_ids": [[3, 4, 5, 6, 7, 0]],
    "token_loss_mask": [[0, 1, 1, 1, 1, 0]],
    "sample_loss_mask": [1.0],
    "advantages": [[0.1] * 6],
    "generation_logprobs": [[0.0, *X, 0.0]],
    "prev_logprobs": [[0.0, *Y, 0.0]],
    "idx": 0,
}
PRIME = {
    "schema_version": 1,
    "step": 1,
    "export_sequence_idx": 0,
    "token_ids": [3, 4, 5, 6],
    "loss_mask": [False, True, True, True],
    "advantages": [0.1] * 4,
    "inference_logprobs": X,
    "trainer_logprobs": [None, *Y[1:]],
    "rewards": [0.5] * 4,
    "rl_weights": [1.0, 1.0, 1.0, 0.0],
    "ce_weights": [0.0, 0.0, 0.0, 1.0],
    "ref_kl_weights": [None] * 4,
}

NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([0, -0.0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)

SHARED = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}


def refusal(action, kind=InputError):
    """The clear error that an action raises, if it does; any other error fails the test."""
    try:
        action()
    except kind as error:
        return error
    return None


def check(path, format=None):
    """Read in both ways; whatever is yielded must be admissible."""
    for on_error in ("fail", "skip"):
        summary = TraceSummary()

        def read(summary=summary, on_error=on_error):
            for batch in open_trace(path, format, on_error=on_error, on_skip=summary.record_skip):
                validate(batch)
                summary.absorb(TraceSummary.of(batch))

        error = refusal(read)
        assert error is None or (on_error == "fail" and 0 < len(str(error)) < 2000)
        for finding in findings(summary):
            assert finding.advice


@st.composite
def damaged(draw, record):
    """A good record with one value replaced, somewhere inside; or a key dropped or doubled."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        where = record
        key = draw(st.sampled_from(sorted(record)))
        while isinstance(where[key], list) and where[key] and draw(st.booleans()):
            where, key = where[key], draw(st.integers(0, len(where[key]) - 1))
        action = draw(st.sampled_from(["replace", "drop", "repeat"]))
        if action == "replace":
            where[key] = draw(VALUES)
        elif action == "repeat" and isinstance(where, list):
            where.insert(key, copy.deepcopy(where[key]))
        elif isinstance(where, list) or len(where) > 1:
            del where[key]
    return record


@pytest.mark.parametrize(
    ("format", "record"),
    [("canonical-jsonl", CANONICAL), ("nemo-rl", NEMO), ("prime-rl", PRIME)],
    ids=lambda value: value if isinstance(value, str) else "",
)
@settings(max_examples=150, **SHARED)
@given(data=st.data())
def test_json_values(tmp_path, format, record, data):
    rows = [record, data.draw(damaged(record)), record]
    if data.draw(st.booleans()):
        rows = rows[1:]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check(tmp_path / "a.jsonl", format)
    check(tmp_path / "a.jsonl")


@pytest.mark.parametrize("format", ["canonical-jsonl", "nemo-rl", "prime-rl"])
@settings(max_examples=60, **SHARED)
@given(text=st.one_of(st.binary(max_size=200), VALUES.map(lambda v: json.dumps(v).encode())))
def test_any_text(tmp_path, format, text):
    (tmp_path / "a.jsonl").write_bytes(text)
    check(tmp_path / "a.jsonl", format)


def sample(writer):
    return {
        "tokens": writer.Tensor(np.arange(6)),
        "total_lengths": 6,
        "response_lengths": 4,
        "loss_masks": [1, 1, 0, 1],
        "rollout_log_probs": writer.Tensor(np.array(X, np.float32)),
        "log_probs": Y,
        "advantages": writer.Tensor(np.ones(1, np.float32), shape=(4,), stride=(0,)),
        "rewards": 0.5,
        "rollout_position": 0,
    }


@settings(max_examples=150, **SHARED)
@given(data=st.data())
def test_slime_values(tmp_path, torch_writer, data):
    small = st.integers(-3, 8)
    shapes = st.lists(small, max_size=2).map(tuple)
    tensors = st.builds(
        lambda values, kind, offset, shape, stride: torch_writer.Tensor(
            values.astype(kind), kind, offset, shape, stride
        ),
        st.lists(st.floats(-4, 1), min_size=1, max_size=6).map(np.array),
        st.sampled_from(["float32", "float64", "float16", "int64", "int8", "uint8"]),
        small,
        shapes,
        shapes,
    )
    record = sample(torch_writer)
    for _ in range(data.draw(st.integers(1, 2))):
        record[data.draw(st.sampled_from(sorted(record)))] = data.draw(st.one_of(tensors, VALUES))
    value = {"format_version": 2, "samples": [record, sample(torch_writer)], "raw_reward": [0.5]}
    if data.draw(st.integers(0, 9)) == 0:
        names = ["format_version", "samples", "rollout_id", "raw_reward"]
        value[data.draw(st.sampled_from(names))] = data.draw(VALUES)
    check(torch_writer.save(value, tmp_path / "1.pt"))


OPCODES = b"N\x88\x89KMJ\x8aGX]})(t\x85\x86\x87aesuqrhjcRQ.0b\x93"


@settings(max_examples=400)
@given(
    st.lists(
        st.one_of(st.sampled_from([bytes([o]) for o in OPCODES]), st.binary(max_size=6)),
        max_size=30,
    )
)
def test_any_pickle(parts):
    error = refusal(lambda: decode(b"\x80\x02" + b"".join(parts)), PickleError)
    assert error is None or str(error)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory, torch_writer):
    folder = tmp_path_factory.mktemp("good")
    small = folder / "a.jsonl"
    small.write_text((json.dumps(CANONICAL) + "\n") * 5)
    write_parquet(open_trace(small), folder / "a.parquet")
    summary = TraceSummary()
    for batch in open_trace(small):
        summary = summary.merge(TraceSummary.of(batch))
    summary.save(folder / "a.tbs")
    value = {"format_version": 2, "samples": [sample(torch_writer)] * 3}
    torch_writer.save(value, folder / "a.pt")
    (folder / "a.jsonl.gz").write_bytes(Path(example_path()).read_bytes()[:3000])
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=4
)


def edited(data, edits):
    for place, new, removed in edits:
        at = int(place * len(data))
        data = data[:at] + new + data[at + removed :]
    return data


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.pt"])
@settings(max_examples=120, **SHARED)
@given(edits=EDITS)
def test_bytes(tmp_path, good_files, name, edits):
    path = tmp_path / name
    path.write_bytes(edited(good_files[name], edits))
    check(path)


@pytest.mark.parametrize("name", ["a.pt", "a.tbs"])
@settings(max_examples=150, **SHARED)
@given(edits=EDITS, which=st.integers(0, 100))
def test_members_of_archives(tmp_path, good_files, name, edits, which):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good_files[name])) as good, zipfile.ZipFile(out, "w") as bad:
        members = good.namelist()
        for member in members:
            data = good.read(member)
            chosen = member == members[which % len(members)]
            bad.writestr(member, edited(data, edits) if chosen else data)
    path = tmp_path / name
    path.write_bytes(out.getvalue())
    if name == "a.pt":
        check(path)
        return
    error = refusal(lambda: TraceSummary.load(path).sequences)
    assert error is None or error.problem


# -- found by coverage-guided fuzzing (benchmarks/fuzz_readers.py --engine atheris) ------------


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
def test_a_compressed_pt_file_is_refused(tmp_path, good_files, magic):
    path = tmp_path / "1.pt"
    path.write_bytes(magic + good_files["a.pt"][len(magic) :])
    error = refusal(lambda: list(open_trace(path, "slime")))
    assert error is not None
    assert "torch.save" in str(error)
    path.write_bytes(gzip.compress(good_files["a.pt"]))
    assert "torch.save" in str(refusal(lambda: list(open_trace(path))))


def test_damaged_zstandard_files_leave_no_memory_behind(tmp_path, good_files):
    data = bytearray(pa.compress(good_files["a.jsonl"], "zstd", asbytes=True))
    data[20:23] = b"\x00\x01\x02"
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(data)

    def read():
        assert refusal(lambda: list(open_trace(path, "canonical-jsonl"))) is not None

    read()
    tracemalloc.start()
    try:
        for _ in range(8):
            read()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
