"""slime's ``train_data/{rollout_id}.pt``: values, layout, and everything a file may not do."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import open_trace
from trbounds.traces.reader import detect
from trbounds.traces.restricted_pickle import PickleError, decode
from trbounds.traces.source import Source
from trbounds.traces.torch_file import TorchFile

ROLLOUT = [np.array([-1.0, -2.0, -0.5], np.float32), np.array([-3.0, -0.25], np.float32)]
PROMPTS = [[5, 6], [7]]


def samples(writer, **changes):
    out = []
    for i, (rollout, prompt) in enumerate(zip(ROLLOUT, PROMPTS, strict=True)):
        tokens = np.array(prompt + [30] * rollout.size, np.int64)
        out.append(
            {
                "tokens": writer.Tensor(tokens),
                "total_lengths": tokens.size,
                "response_lengths": rollout.size,
                "loss_masks": writer.Tensor(np.ones(rollout.size, np.int32)),
                "rollout_log_probs": writer.Tensor(rollout),
                "log_probs": writer.Tensor(rollout - np.float32(0.5)),
                "advantages": writer.Tensor(
                    np.array([0.5], np.float32), shape=(rollout.size,), stride=(0,)
                ),
                "rewards": float(i),
            }
        )
    out[0].update(changes)
    return out


def document(writer, **changes):
    return {"format_version": 2, "rollout_id": 9, "samples": samples(writer, **changes)}


def only(path, **options):
    (batch,) = open_trace(path, **options)
    return batch


def test_values(torch_writer, tmp_path):
    path = torch_writer.save(document(torch_writer), tmp_path / "9.pt")
    batch = only(path)
    assert detect(Source(str(path))).name == "slime"
    assert batch.rollout_logprobs.tolist() == np.concatenate(ROLLOUT).tolist()
    assert batch.log_ratio.tolist() == [-0.5] * 5
    assert batch.lengths.tolist() == [3, 2]
    assert batch.mask.all()
    assert batch.advantages.tolist() == [0.5] * 5
    assert batch.reward.tolist() == [0.0, 1.0]
    assert batch.step.tolist() == [9, 9]
    assert batch.prompt_id[0] != batch.prompt_id[1]


def test_step_from_the_name_where_the_file_does_not_say(torch_writer, tmp_path):
    value = document(torch_writer)
    del value["rollout_id"]
    assert only(torch_writer.save(value, tmp_path / "17.pt")).step.tolist() == [17, 17]
    assert only(torch_writer.save(value, tmp_path / "last.pt")).step is None


def test_lists_and_one_element_tensors(torch_writer, tmp_path):
    changes = {
        "rollout_log_probs": [-1.0, -2, 0],
        "loss_masks": [1, False, True],
        "response_lengths": torch_writer.Tensor(np.array([3])),
        "rewards": torch_writer.Tensor(np.array([0.5], np.float32), shape=(), stride=()),
        "tokens": [1, 2, 3, 4, 70_000],
    }
    batch = only(torch_writer.save(document(torch_writer, **changes), tmp_path / "1.pt"))
    assert batch.rollout_logprobs[:3].tolist() == [-1.0, -2.0, 0.0]
    assert batch.mask[:3].tolist() == [True, False, True]
    assert batch.reward.tolist() == [0.5, 1.0]


def test_rewards_are_those_before_normalisation(torch_writer, tmp_path):
    """Held against slime 624b824 (after 0.3.1): ``rewards`` is what advantages are made of.

    With GRPO and its kin those are normalised in each group of a prompt. As they were given they
    are in ``raw_reward``, of the whole batch in the order of ``rollout_position``, and since
    12 August 2026 also in each sample.
    """
    given = [0.0, 1.0, 0.5, 0.25]
    value = document(torch_writer)
    value["raw_reward"] = given
    for sample, position in zip(value["samples"], (3, 1), strict=True):
        sample["rollout_position"] = position
        sample["rewards"] = (given[position] - np.mean(given).item()) / np.std(given).item()
    assert only(torch_writer.save(value, tmp_path / "1.pt")).reward.tolist() == [0.25, 1.0]
    del value["raw_reward"]
    for sample in value["samples"]:
        sample["local_raw_reward"] = given[sample["rollout_position"]]
    assert only(torch_writer.save(value, tmp_path / "1.pt")).reward.tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("given", "position", "field", "problem"),
    [
        ([0.0, 1.0], None, "rollout_position", "found None, expected the place in raw_reward"),
        ([0.0, 1.0], 2, "rollout_position", "found 2"),
        ([0.0, 1.0], -1, "rollout_position", "found -1"),
        ([0.0, 1.0], True, "rollout_position", "found True"),
        ([{"score": 1.0}, 1.0], 0, "raw_reward", "found dict, expected a number"),
        ([2.0, 1.0], 0, "raw_reward", "expected a number in [0, 1]"),
        ({"x": 1.0}, 0, "raw_reward", "found dict, expected a list"),
    ],
)
def test_bad_rewards(torch_writer, tmp_path, given, position, field, problem):
    value = document(torch_writer)
    value["raw_reward"] = given
    value["samples"][0]["rollout_position"] = position
    value["samples"][1]["rollout_position"] = 1
    with pytest.raises(InputError) as caught:
        list(open_trace(torch_writer.save(value, tmp_path / "1.pt")))
    assert caught.value.field == field
    assert problem in caught.value.problem


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
def test_kinds_of_floats(torch_writer, tmp_path, kind):
    exact = np.array([-1.0, -2.5, -0.15625], np.float32)  # in all four kinds
    if kind == "bfloat16":
        tensor = torch_writer.Tensor((exact.view(np.uint32) >> 16).astype(np.uint16), kind)
    else:
        tensor = torch_writer.Tensor(exact.astype(kind))
    value = document(torch_writer, rollout_log_probs=tensor)
    batch = only(torch_writer.save(value, tmp_path / "1.pt"))
    assert batch.rollout_logprobs[:3].tolist() == exact.tolist()
    assert batch.rollout_logprobs.dtype == np.float64


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "int64"])
def test_kinds_of_masks(torch_writer, tmp_path, kind):
    mask = torch_writer.Tensor(np.array([1, 0, 1]).astype(kind))
    path = torch_writer.save(document(torch_writer, loss_masks=mask), tmp_path / "1.pt")
    assert only(path).mask.tolist() == [True, False, True, True, True]


def test_views_of_a_shared_storage(torch_writer, tmp_path):
    matrix = -np.arange(1, 21, dtype=np.float32)
    column = torch_writer.Tensor(matrix, offset=2, shape=(3,), stride=(5,))
    row = torch_writer.Tensor(matrix, offset=5, shape=(3,), stride=(1,))
    value = document(torch_writer, rollout_log_probs=column, log_probs=row)
    batch = only(torch_writer.save(value, tmp_path / "1.pt"))
    assert batch.rollout_logprobs[:3].tolist() == [-3.0, -8.0, -13.0]
    assert batch.train_logprobs[:3].tolist() == [-6.0, -7.0, -8.0]


def test_many_samples_come_in_batches(torch_writer, tmp_path):
    from trbounds.traces.validate import ReadOptions

    value = {"format_version": 2, "samples": []}
    for _ in range(31):
        value["samples"] += samples(torch_writer)
    source = Source(str(torch_writer.save(value, tmp_path / "1.pt")))
    batches = list(detect(source).read(source, ReadOptions(batch_tokens=20)))
    assert sum(batch.n_sequences for batch in batches) == 62
    assert max(batch.n_tokens for batch in batches) <= 20
    numbers = [n for batch in batches for n in batch.record_numbers.tolist()]
    assert numbers == list(range(62))


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"log_probs": None}, "log_probs", "found no value"),
        ({"log_probs": "x"}, "log_probs", "found str"),
        ({"log_probs": [-1.0, "x", -1.0]}, "log_probs", "found a list with str"),
        ({"log_probs": [-1.0, -2.0]}, "log_probs", "found 2 entries, expected 3"),
        ({"log_probs": [-1.0, 10**400, -1.0]}, "log_probs", "too large"),
        ({"log_probs": [-1.0, float("nan"), -1.0]}, "log_probs", "missing value"),
        ({"response_lengths": 4}, "rollout_log_probs", "found 3 entries, expected 4"),
        ({"response_lengths": float("nan")}, "rollout_log_probs", "expected nan"),
        ({"response_lengths": "3"}, "response_lengths", "expected a number"),
        ({"total_lengths": 9}, "tokens", "found 5 entries, expected 9"),
        ({"tokens": [1, 2]}, "tokens", "found 2 entries"),
        ({"tokens": [1, 2, 3, 4, float("inf")]}, "tokens", "expected identifiers"),
        ({"rewards": 2.0}, "rewards", "expected a number in [0, 1]"),
        ({"rewards": [1.0]}, "rewards", "found list, expected a number"),
        ({"rewards": 10**400}, "rewards", "too large"),
        ({"loss_masks": [2, 2, 2]}, "loss_masks", "expected 0 or 1"),
    ],
)
def test_bad_sample(torch_writer, tmp_path, changes, field, problem):
    path = torch_writer.save(document(torch_writer, **changes), tmp_path / "1.pt")
    with pytest.raises(InputError) as caught:
        list(open_trace(path))
    error = caught.value
    assert (error.file, error.record, error.field) == (str(path), 0, field)
    assert problem in error.problem
    assert only(path, on_error="skip").record_numbers.tolist() == [1]


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (2, 2)])
def test_matrices_are_refused(torch_writer, tmp_path, shape):
    tensor = torch_writer.Tensor(np.ones(4, np.float32), shape=shape, stride=(1, 1))
    for field in ("log_probs", "rollout_log_probs"):
        path = torch_writer.save(document(torch_writer, **{field: tensor}), tmp_path / "1.pt")
        with pytest.raises(InputError, match="expected one dimension"):
            list(open_trace(path))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1, 2], "no slime train data"),
        ({"samples": []}, "format_version is missing"),
        ({"samples": [], "rollout_id": 3}, "no training log-probabilities"),
        ({"rollout_id": 3, "rank": 0, "rollout_data": {"tokens": []}}, "one rank.*until 0.3.1"),
        ({"format_version": 1, "samples": []}, "found 1, expected 2"),
        ({"format_version": [[]], "samples": []}, "expected 2"),
        ({"format_version": 2, "samples": {}}, "found dict, expected a list"),
        ({"format_version": 2, "samples": [3]}, "found int, expected a dict"),
        ({"format_version": 2, "samples": [{}]}, "rollout_log_probs.*found no value"),
    ],
)
def test_other_documents(torch_writer, tmp_path, value, problem):
    path = torch_writer.save(value, tmp_path / "1.pt")
    with pytest.raises(InputError, match=problem):
        list(open_trace(path))


# ---- damage


def test_sizes_of_storages_are_checked(torch_writer, tmp_path):
    value = document(torch_writer)
    for data, problem in ((b"\0" * 8, "has 8 bytes, expected"), (None, "no item named")):
        path = torch_writer.save(value, tmp_path / "1.pt", changes={"data/0": data})
        with pytest.raises(InputError, match=problem):
            list(open_trace(path))


def test_a_flipped_bit_in_a_storage_is_found(torch_writer, tmp_path):
    path = torch_writer.save(document(torch_writer), tmp_path / "1.pt")
    data = bytearray(path.read_bytes())
    at = data.index(ROLLOUT[0].tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        list(open_trace(path))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(1, (3,), (1,)), (0, (3,), (2,)), (-1, (3,), (1,)), (0, (3,), (-1,)), (0, (3,), (1, 1)),
     (0, (2**50,), (0,)), (0, (1,) * 9, (1,) * 9)],
)  # fmt: skip
def test_views_outside_their_storage_are_refused(torch_writer, tmp_path, offset, shape, stride):
    tensor = torch_writer.Tensor(ROLLOUT[0], offset=offset, shape=shape, stride=stride)
    path = torch_writer.save(document(torch_writer, log_probs=tensor), tmp_path / "1.pt")
    with pytest.raises(InputError, match="a tensor"):
        list(open_trace(path))


def test_compressed_archives_are_refused(torch_writer, tmp_path):
    path = torch_writer.save(
        document(torch_writer), tmp_path / "1.pt", compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InputError, match="is compressed, expected stored"):
        list(open_trace(path, "slime"))


def test_other_byte_order_and_layout(torch_writer, tmp_path):
    path = torch_writer.save(
        document(torch_writer), tmp_path / "1.pt", changes={"byteorder": b"big"}
    )
    with pytest.raises(InputError, match="expected little"):
        list(open_trace(path))
    path = torch_writer.save(document(torch_writer), tmp_path / "1.pt", name="a/b")
    with pytest.raises(InputError, match="no single NAME/data"):
        list(open_trace(path, "slime"))


def test_truncated_anywhere(torch_writer, tmp_path):
    data = torch_writer.save(document(torch_writer), tmp_path / "1.pt").read_bytes()
    for size in range(4, len(data), 97):
        (tmp_path / "2.pt").write_bytes(data[:size])
        with pytest.raises(InputError, match=r"2\.pt"):
            list(open_trace(tmp_path / "2.pt", "slime"))


# ---- nothing is executed, nothing blows up


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Payload(os.system, "touch {}"), "posix.system"),
        (Payload(eval, "1"), "__builtin__.eval"),
        (Payload(getattr, "x", "y"), "__builtin__.getattr"),
        (Payload(open, "{}", "w"), "open"),
        (np.float64(1.0), "numpy"),
        (np.zeros(2), "numpy"),
        ({1, 2}, "__builtin__.set"),
        (1j, "__builtin__.complex"),
        (b"bytes", "_codecs.encode"),
        (Source("x"), "Source"),
    ],
)
def test_any_other_name_is_refused_by_name(torch_writer, tmp_path, payload, name):
    trap = tmp_path / "trap"
    if isinstance(payload, Payload):
        function, arguments = payload.call
        filled = (a.format(trap) for a in arguments)
        payload = Payload(function, *filled)
    value = document(torch_writer, extra=[payload])
    path = torch_writer.save(value, tmp_path / "1.pt")
    with pytest.raises(InputError, match=f"{name}.*is refused"):
        list(open_trace(path))
    assert not trap.exists()


def packed(body):
    return b"\x80\x02" + body + b"."


def test_plain_values():
    value = {"a": [1, -5, 300, 2**40, -(2**70), 0.5, None, True, False, "\u00e9", (), (1,)]}
    value["b"] = [value["a"], (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, OrderedDict()]
    decoded = decode(pickle.dumps(value, 2))
    assert decoded == value
    assert decoded["b"][0] is decoded["a"]


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n(X\x02\x00\x00\x00lstR",
        b"(X\x04\x00\x00\x00exitios\nsystem\n",
        b"cbuiltins\neval\n",
        b"\x8c\x02os\x8c\x06system\x93",
        b"]b",
        b"ccollections\nOrderedDict\n(K\x01tR",
        b"ccollections\nOrderedDict\n)\x81",
        b"X\x01\x00\x00\x00aQ",
        b"Pa\n",
        b"N0",
        b"(",
        b"((",
        b"K",
        b"h\x00",
        b"q\x00",
        b"X\xff\xff\xff\xffab",
        b"}]Ns",
        b"}K\x01Ns",
        b"}(X\x01\x00\x00\x00au",
        b"Na",
        b"\x85",
        b"c",
        b"ctorch\nFloatStorage",
        b"NN",
        b"",
    ],
)
def test_damaged_or_forbidden_pickles(body):
    with pytest.raises(PickleError):
        decode(packed(body))


def test_other_protocols_are_refused():
    for protocol in (0, 1, 3, 4, 5):
        with pytest.raises(PickleError, match="another pickle protocol"):
            decode(pickle.dumps({"a": 1}, protocol))


def test_bombs(monkeypatch):
    deep = packed(b"]" * 200_000 + b"a" * 199_999)
    assert isinstance(decode(deep), list)
    with pytest.raises(PickleError, match="containers"):
        decode(packed(b"]" * 3_000_000))
    # A memo index of 2^31 makes the standard unpickler allocate 32 GB.
    assert decode(packed(b"Nr\xff\xff\xff\x7f")) is None
    monkeypatch.setattr("trbounds.traces.restricted_pickle._MAX_MEMO", 100)
    with pytest.raises(PickleError, match="shared values"):
        decode(packed(b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(200))))


def test_deep_nesting_in_any_field_is_an_error_only(torch_writer, tmp_path):
    deep = b"]" * 100_000 + b"a" * 99_999
    for key in (b"format_version", b"samples"):
        body = b"}X" + struct.pack("<I", len(key)) + key + deep + b"s"
        path = torch_writer.save({}, tmp_path / "1.pt", changes={"data.pkl": packed(body)})
        with pytest.raises(InputError):
            list(open_trace(path))


def test_large_pickles_and_directories_are_refused(torch_writer, tmp_path, monkeypatch):
    path = torch_writer.save(document(torch_writer), tmp_path / "1.pt")
    monkeypatch.setattr("trbounds.traces.torch_file.MAX_PICKLE_BYTES", 100)
    with pytest.raises(InputError, match=r"data\.pkl, expected at most 100"):
        list(open_trace(path))
    monkeypatch.setattr("trbounds.traces.torch_file._MAX_MEMBERS", 2)
    with pytest.raises(InputError, match="too many members"):
        list(open_trace(path))


def test_samples_cannot_share_what_they_logged(torch_writer, tmp_path):
    sample = samples(torch_writer)[0]
    sample["rollout_log_probs"] = torch_writer.Tensor(
        np.array([-1.0], np.float32), shape=(100_000,), stride=(0,)
    )
    path = torch_writer.save({"format_version": 2, "samples": [sample] * 50}, tmp_path / "1.pt")
    with pytest.raises(InputError, match="the samples overlap"):
        list(open_trace(path, on_error="fail"))


def test_a_wide_stride_is_not_loaded(torch_writer, tmp_path, monkeypatch):
    monkeypatch.setattr("trbounds.traces.torch_file._MAX_SPAN", 1000)
    storage = -np.ones(5000, np.float32)
    tensor = torch_writer.Tensor(storage, shape=(3,), stride=(2000,))
    path = torch_writer.save(document(torch_writer, log_probs=tensor), tmp_path / "1.pt")
    with pytest.raises(InputError, match="spans 4001 numbers"):
        list(open_trace(path))


def test_standard_input_is_refused(torch_writer, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="standard input"):
        list(detect(Source("-"), "slime").read(Source("-"), None))


def test_document_of_an_open_file(torch_writer, tmp_path):
    path = torch_writer.save({"x": torch_writer.Tensor(ROLLOUT[0])}, tmp_path / "1.pt", name="z")
    with path.open("rb") as stream:
        file = TorchFile(stream, "f")
        tensor = file.document()["x"]
        assert tensor.size == 3
        assert file.load(tensor).tolist() == ROLLOUT[0].tolist()


def test_a_sample_may_have_no_prompt(torch_writer, tmp_path):
    value = document(torch_writer, tokens=[30, 30, 30], total_lengths=3)
    prompts = only(torch_writer.save(value, tmp_path / "1.pt")).prompt_id.tolist()
    assert len(set(prompts)) == 2


def test_samples_of_one_prompt_have_its_number_whatever_they_answer(torch_writer, tmp_path):
    value = document(torch_writer)
    for i, (prompt, answer) in enumerate((([5, 6], [30, 31, 32]), ([5, 6], [40, 41]))):
        tokens = np.array([*prompt, *answer], np.int64)
        value["samples"][i] |= {"tokens": torch_writer.Tensor(tokens), "total_lengths": tokens.size}
    one, two = only(torch_writer.save(value, tmp_path / "1.pt")).prompt_id
    assert one == two
