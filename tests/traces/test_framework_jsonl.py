"""NeMo-RL and prime-rl logs, on files made to the frameworks' own layout."""

import json

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import ReadOptions, open_trace, summarize
from trbounds.traces.framework_records import number_in_name
from trbounds.traces.reader import detect
from trbounds.traces.source import Source

RANDOM = np.random.default_rng(0)
PROMPTS = ([5, 6, 7], [8, 9])


def nemo_line(index, prompt, response, *, width=12, reward=1.0, accepted=1.0, **changes):
    """One line, with the values a right reader must find in ``_expected``."""
    n = len(prompt) + response
    rollout = np.zeros(width)
    rollout[len(prompt) : n] = -RANDOM.uniform(0.1, 3.0, response)
    train = np.zeros(width)
    train[1:n] = np.where(rollout[1:n] == 0, -1.5, rollout[1:n] + 0.01)
    mask = [0] * len(prompt) + [1] * response + [0] * (width - n)
    line = {
        "content": ["user: , assistant: [{]"],
        "rewards": [reward],
        "input_lengths": [n],
        "token_ids": [prompt + list(range(20, 20 + response)) + [0] * (width - n)],
        "token_loss_mask": [mask],
        "sample_loss_mask": [accepted],
        "advantages": [[0.25] * width],
        "generation_logprobs": [rollout.tolist()],
        "prev_logprobs": [train.tolist()],
        "idx": index,
    }
    return {**line, **changes}


NEMO = [
    nemo_line(0, PROMPTS[0], 4),
    nemo_line(1, PROMPTS[0], 9, reward=0.0, accepted=0.0),
    nemo_line(2, PROMPTS[1], 1, reward=0.5),
]


def prime_line(index, prompt, response, **changes):
    n = len(prompt) + response
    rollout = [0.0] * len(prompt) + (-RANDOM.uniform(0.1, 3.0, response)).tolist()
    line = {
        "schema_version": 1,
        "step": 7,
        "rank": 0,
        "micro_step": 0,
        "micro_sequence_idx": index,
        "export_sequence_idx": index,
        "env_name": "math",
        "token_ids": prompt + list(range(20, 20 + response)),
        "position_ids": list(range(n)),
        "loss_mask": [False] * len(prompt) + [True] * response,
        "advantages": [0.5] * n,
        "inference_logprobs": rollout,
        "trainer_logprobs": [None, *[-1.0] * (len(prompt) - 1), *[-0.75] * response],
        "entropy": [None, *[1.0] * (n - 1)],
        "mismatch_kl": [None, *[0.1] * (n - 1)],
    }
    return {**line, **changes}


PRIME = [prime_line(0, PROMPTS[0], 4), prime_line(1, PROMPTS[0], 2), prime_line(2, PROMPTS[1], 5)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(rows, index, **changes):
    return [{**row, **(changes if i == index else {})} for i, row in enumerate(rows)]


def only(path, **options):
    (batch,) = open_trace(path, **options)
    return batch


# ---- NeMo-RL


@pytest.fixture
def nemo(tmp_path):
    return write(tmp_path / "train_data_step42.jsonl", NEMO)


def test_nemo_values(nemo):
    batch = only(nemo)
    assert batch.lengths.tolist() == [7, 12, 3]
    expected = np.concatenate([row["generation_logprobs"][0][: n] for row, n in zip(
        NEMO, (7, 12, 3), strict=True)])  # fmt: skip
    assert batch.rollout_logprobs.tolist() == expected.tolist()
    assert batch.mask.tolist() == (expected != 0).tolist()
    assert np.allclose(batch.log_ratio[batch.mask], 0.01)
    assert batch.reward.tolist() == [1.0, 0.0, 0.5]
    assert batch.accepted.tolist() == [True, False, True]
    assert batch.step.tolist() == [42, 42, 42]
    assert batch.seq_id.tolist() == [0, 1, 2]
    assert batch.prompt_id[0] == batch.prompt_id[1] != batch.prompt_id[2]
    assert batch.advantages.size == batch.n_tokens


def test_nemo_summary_counts_generated_tokens_only(nemo):
    summary = summarize(nemo)
    assert (summary.n_sequences, summary.n_tokens, summary.T) == (3, 14, 9)
    assert summary.extremes["abs_log_ratio_max"].position >= 2


def test_nemo_first_token_never_counts(tmp_path):
    line = nemo_line(0, [], 5)
    assert line["token_loss_mask"][0][0] == 1
    assert only(write(tmp_path / "train_data_step1.jsonl", [line])).mask[0] == np.False_


def test_nemo_is_detected_by_content_or_name(tmp_path, nemo):
    elsewhere = write(tmp_path / "log.jsonl", NEMO)
    assert detect(Source(str(elsewhere))).name == "nemo-rl"
    assert only(elsewhere).step is None
    assert only(elsewhere, format="nemo-rl").n_sequences == 3
    long = write(tmp_path / "train_data_step3.jsonl", changed(NEMO, 0, content=["x" * 100_000]))
    assert detect(Source(str(long))).name == "nemo-rl"


def test_nemo_forced_on_policy_is_refused_with_the_reason(tmp_path):
    rows = [{**row, "prev_logprobs": [[0.0] * 12]} for row in NEMO]
    path = write(tmp_path / "train_data_step1.jsonl", rows)
    with pytest.raises(InputError, match="forced on-policy") as caught:
        list(open_trace(path))
    assert caught.value.field == "prev_logprobs"
    skipped = []
    assert list(open_trace(path, on_error="skip", on_skip=skipped.append)) == []
    assert len(skipped) == 1


def test_nemo_one_sequence_of_certain_tokens_is_not_taken_for_on_policy(tmp_path):
    rows = changed(NEMO, 0, prev_logprobs=[[0.0] * 12])
    assert only(write(tmp_path / "train_data_step1.jsonl", rows)).n_sequences == 3


def test_nemo_bare_nan_is_refused_where_it_counts_only(tmp_path):
    train = list(NEMO[0]["prev_logprobs"][0])
    train[1] = float("nan")
    path = write(tmp_path / "train_data_step1.jsonl", changed(NEMO, 0, prev_logprobs=[train]))
    assert "NaN" in path.read_text()
    assert only(path).n_sequences == 3
    train[4] = float("nan")
    write(path, changed(NEMO, 0, prev_logprobs=[train]))
    with pytest.raises(InputError, match=r"missing value .*at position 4") as caught:
        list(open_trace(path))
    assert (caught.value.record, caught.value.field) == (0, "prev_logprobs")


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"input_lengths": [0]}, "input_lengths", "expected a positive whole number"),
        ({"input_lengths": [True]}, "input_lengths", "expected a positive whole number"),
        ({"input_lengths": 12}, "input_lengths", "in a list of length 1"),
        ({"input_lengths": [5, 6]}, "input_lengths", "found a list of 2"),
        ({"input_lengths": [13]}, "token_loss_mask", "found 12 entries, expected at least 13"),
        ({"prev_logprobs": None}, "prev_logprobs", "found None"),
        ({"prev_logprobs": [[-1.0] * 8]}, "prev_logprobs", "found 8 entries, expected at least 12"),
        ({"prev_logprobs": ["x"]}, "prev_logprobs", "found str, expected a list"),
        ({"prev_logprobs": [["x"] * 12]}, "prev_logprobs", "found a list with str"),
        ({"token_loss_mask": [[2] * 12]}, "token_loss_mask", "expected 0 or 1"),
        ({"token_ids": [["x"] * 12]}, "token_ids", "expected a list of whole numbers"),
        ({"sample_loss_mask": [0.5]}, "sample_loss_mask", "expected 0 or 1"),
        ({"rewards": [None]}, "rewards", "found no value"),
        ({"rewards": [3.0]}, "rewards", "expected a number in [0, 1]"),
        ({"idx": [[[]]]}, "idx", "expected a whole number"),
    ],
)
def test_nemo_bad_record(tmp_path, changes, field, problem):
    path = write(tmp_path / "train_data_step1.jsonl", changed(NEMO, 1, **changes))
    with pytest.raises(InputError) as caught:
        list(open_trace(path))
    error = caught.value
    assert (error.file, error.record, error.field) == (str(path), 1, field)
    assert problem in error.problem
    skipped = []
    batch = only(path, on_error="skip", on_skip=skipped.append)
    assert batch.record_numbers.tolist() == [0, 2]
    assert [(error.record, error.field) for error in skipped] == [(1, field)]


def test_nemo_rewards_under_dynamic_sampling_are_those_of_the_sequences(tmp_path):
    """Held against NeMo-RL 0.7.0 and 7ea279a: ``rewards`` is not aligned with the other fields.

    With dynamic sampling a batch is filled with the sequences of prompts whose rewards differ.
    ``filtered_rewards`` belongs to them; ``rewards`` is that of all sequences that were sampled, in
    the order of sampling, cut to the size of the batch.
    """
    sampled = [0.0, 0.0, 0.0, 0.0, 1.0, 0.5]
    kept = [4, 5, 3]
    rows = [
        {**row, "rewards": [sampled[i]], "filtered_rewards": [sampled[kept[i]]]}
        for i, row in enumerate(NEMO)
    ]
    path = write(tmp_path / "train_data_step1.jsonl", rows)
    assert only(path).reward.tolist() == [1.0, 0.5, 0.0]
    write(path, changed(rows, 1, filtered_rewards=[2.0]))
    with pytest.raises(InputError, match="expected a number in"):
        list(open_trace(path))
    skipped = []
    assert only(path, on_error="skip", on_skip=skipped.append).n_sequences == 2
    assert skipped[0].field == "filtered_rewards"


@pytest.mark.parametrize(
    ("absent", "field", "reason"),
    [
        (("token_loss_mask", "token_ids", "sample_loss_mask", "advantages"), "token_loss_mask",
         "before 0.6"),
        (("generation_logprobs", "prev_logprobs", "token_loss_mask"), "generation_logprobs",
         "distillation"),
        (("prev_logprobs",), "prev_logprobs", "no line has it"),
    ],
)  # fmt: skip
def test_nemo_files_without_what_is_needed_say_why(tmp_path, absent, field, reason):
    """NeMo-RL 0.3 to 0.5 wrote no masks; its distillation writes texts and lengths alone."""
    rows = [{name: row[name] for name in row if name not in absent} for row in NEMO]
    path = write(tmp_path / "train_data_step1.jsonl", rows)
    with pytest.raises(InputError, match=reason) as caught:
        list(open_trace(path))
    assert (caught.value.field, caught.value.record) == (field, None)


# ---- prime-rl


@pytest.fixture
def prime(tmp_path):
    return write(tmp_path / "token_exports" / "step_7" / "rank_0.jsonl", PRIME)


def test_prime_values(prime):
    batch = only(prime)
    assert detect(Source(str(prime))).name == "prime-rl"
    assert batch.lengths.tolist() == [7, 5, 7]
    expected = [x for row in PRIME for x in row["inference_logprobs"]]
    assert batch.rollout_logprobs.tolist() == expected
    assert batch.mask.tolist() == [x != 0 for x in expected]
    assert set(batch.train_logprobs[batch.mask]) == {-0.75}
    assert batch.step.tolist() == [7, 7, 7]
    assert batch.prompt_id[0] == batch.prompt_id[1] != batch.prompt_id[2]
    assert batch.reward is None
    assert batch.entropy is None
    assert batch.kl is None


def test_the_same_prompt_has_the_same_number_in_both_formats(prime, nemo):
    assert only(prime).prompt_id.tolist() == only(nemo).prompt_id.tolist()


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"schema_version": None}, "schema_version", "found None, expected 1"),
        ({"trainer_logprobs": None}, "trainer_logprobs", "found no value"),
        ({"trainer_logprobs": {}}, "trainer_logprobs", "found dict, expected a list"),
        ({"trainer_logprobs": [None] * 5}, "trainer_logprobs", "missing value (null or NaN)"),
        ({"trainer_logprobs": [-1.0]}, "trainer_logprobs", "5 as in inference_logprobs"),
        ({"trainer_logprobs": [[-1.0]] * 5}, "trainer_logprobs", "found a list with list"),
        ({"loss_mask": [[]] * 5}, "loss_mask", "found a list with"),
        ({"token_ids": ["x"] * 5}, "token_ids", "expected a list of whole numbers"),
        ({"step": 1.5}, "step", "expected a whole number"),
        ({"step": float("nan")}, "step", "expected a whole number"),
    ],
)
def test_prime_bad_record(tmp_path, changes, field, problem):
    path = write(tmp_path / "rank_0.jsonl", changed(PRIME, 1, **changes))
    with pytest.raises(InputError) as caught:
        list(open_trace(path))
    error = caught.value
    assert (error.file, error.record, error.field) == (str(path), 1, field)
    assert problem in error.problem
    assert only(path, on_error="skip").record_numbers.tolist() == [0, 2]


def with_weights(line, rl=None, ce=None, ref=None):
    """Add the weight streams, by token; None for a stream that the batch does not have."""
    n = len(line["token_ids"])
    streams = {"rl_weights": rl, "ce_weights": ce, "ref_kl_weights": ref}
    return {**line, **{name: values or [None] * n for name, values in streams.items()}}


@pytest.mark.parametrize(
    ("rl", "ce", "ref", "counted"),
    [
        (None, None, None, [3, 4, 5, 6]),
        # Echo: observations in the prompt have a cross-entropy loss; actions are sampled.
        (None, [0, 1, 1, 0, 0, 0, 0], None, [3, 4, 5, 6]),
        # Tokens of a frozen model among those of the policy.
        ([0, 0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 1, 0], None, [4, 6]),
        ([0] * 7, [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0.5], [5, 6]),
        ([0] * 7, [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 0.5], [5, 6]),
        # Advantage 0: the weight is 0 too, but the policy sampled the token.
        ([0, 0, 0, 0, 1, 1, 1], None, None, [3, 4, 5, 6]),
    ],
)
def test_prime_tokens_of_a_frozen_model_do_not_count(tmp_path, rl, ce, ref, counted):
    """Held against prime-rl 0.8.0 and 559b447: weights say which loss each token has.

    A token whose only loss is the cross-entropy was not sampled by the policy, so that
    ``mismatch_kl`` leaves it out; ``loss_mask`` is true there all the same.
    """
    path = write(tmp_path / "rank_0.jsonl", [with_weights(PRIME[0], rl, ce, ref)])
    assert np.flatnonzero(only(path).mask).tolist() == counted


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"rl_weights": [0] * 5, "ce_weights": [0, 0, 0, 1, 1]}, "ce_weights", "a frozen model"),
        ({"training_mode": "sft"}, "training_mode", "a frozen model"),
        ({"ce_weights": 1.0}, "ce_weights", "found float, expected a list"),
        ({"ce_weights": [1.0]}, "ce_weights", "found 1 entries, expected 5 as in loss_mask"),
        ({"ce_weights": [0, 0, 0, "x", 0]}, "ce_weights", "found a list with str"),
    ],
)
def test_prime_records_of_no_policy_are_refused(tmp_path, changes, field, problem):
    rows = changed([with_weights(row) for row in PRIME], 1, **changes)
    path = write(tmp_path / "rank_0.jsonl", rows)
    with pytest.raises(InputError) as caught:
        list(open_trace(path))
    assert (caught.value.record, caught.value.field) == (1, field)
    assert problem in caught.value.problem
    assert only(path, on_error="skip").record_numbers.tolist() == [0, 2]


def test_prime_rewards_where_they_are_logged(tmp_path):
    """prime-rl 0.6 wrote the reward of the sequence at every token; since 0.7 it does not."""
    rows = [
        {**row, "rewards": [reward] * len(row["token_ids"]), "training_mode": "rl"}
        for row, reward in zip(PRIME, (1.0, 0.0, 0.25), strict=True)
    ]
    path = write(tmp_path / "rank_0.jsonl", rows)
    assert only(path).reward.tolist() == [1.0, 0.0, 0.25]
    write(path, [{**row, "rewards": [None] * len(row["token_ids"])} for row in PRIME])
    assert only(path).reward is None
    write(path, changed(rows, 1, rewards=[0.0, 1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(InputError, match="one number for all tokens") as caught:
        list(open_trace(path))
    assert (caught.value.record, caught.value.field) == (1, "rewards")


def test_prime_marker_files_are_no_logs(prime):
    (prime.parent / "STABLE").touch()
    assert only(prime.parent.parent).n_sequences == 3


def test_prime_other_schema_is_refused_as_a_whole(tmp_path):
    path = write(tmp_path / "rank_0.jsonl", [{**row, "schema_version": 2} for row in PRIME])
    with pytest.raises(InputError, match="found 2, expected 1") as caught:
        list(open_trace(path))
    assert caught.value.record is None


def test_lines_with_too_many_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trbounds.traces.json_lines.MAX_LINE_VALUES", 1000)
    text = json.dumps({**PRIME[0], "extra": [[]] * 2000})
    (tmp_path / "rank_0.jsonl").write_text(text)
    with pytest.raises(InputError, match="holds more than 1000 values"):
        list(open_trace(tmp_path / "rank_0.jsonl"))


def test_options_reach_every_reader(nemo, prime):
    for path in (nemo, prime):
        source = Source(str(path))
        with pytest.raises(InputError, match="expected at most 4"):
            list(detect(source).read(source, ReadOptions(max_length=4)))
        batches = list(detect(source).read(source, ReadOptions(batch_tokens=1)))
        assert [batch.n_sequences for batch in batches] == [1, 1, 1]


def test_a_number_in_a_name_is_a_step_of_32_bits_or_none():
    pattern = r"step(\d+)\.jsonl"
    assert number_in_name("step9/step007.jsonl.gz", pattern) == 7
    assert number_in_name("step123456789.jsonl", pattern) == 123_456_789
    assert number_in_name("step12345678901.jsonl", pattern) is None
    assert number_in_name("step7/other.jsonl", pattern) is None


def test_the_first_entry_of_prime_rl_is_a_filler_even_where_its_mask_is_true(tmp_path):
    path = write(tmp_path / "rank_0.jsonl", [prime_line(0, [5], 3, loss_mask=[True] * 4)])
    assert only(path).mask.tolist() == [False, True, True, True]
