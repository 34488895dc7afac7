"""Every inadmissible value is refused with its place."""

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import ReadOptions, TraceBatch, validate
from trbounds.traces.validate import Ragged, assemble

OFFSETS = np.array([0, 2, 3])


def good(**changes):
    fields = {
        "offsets": OFFSETS,
        "rollout_logprobs": np.array([-0.5, -1.0, 0.0]),
        "train_logprobs": np.array([-0.4, -1.1, -0.1]),
        "kl": np.array([0.1, 0.0, 0.2]),
        "tv": np.array([0.1, 0.0, 1.0]),
        "chi2": np.array([0.1, 0.0, 5.0]),
        "entropy": np.array([0.1, 0.0, 5.0]),
        "advantages": np.array([-1.0, 0.0, 5.0]),
        "reward": np.array([0.0, 1.0]),
        "temperature": np.array([1.0, 0.7]),
        "top_p": np.array([1.0, 0.9]),
        "file": "run.parquet",
        "first_record": 40,
    }
    return TraceBatch(**{**fields, **changes})


def test_limits_of_every_range_are_admissible():
    assert validate(good()) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-300, 0.5, -101.0])
def test_bad_rollout_logprob(value):
    with pytest.raises(InputError, match=r"run.parquet, record 41, field 'rollout_logprobs'"):
        validate(good(rollout_logprobs=np.array([-0.5, -1.0, value])))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("train_logprobs", 0.1, "a log-probability in"),
        ("train_logprobs", -np.inf, "a log-probability in"),
        ("train_logprobs", np.nan, "missing value"),
        ("kl", -1e-300, "a number in [0, 10000]"),
        ("kl", np.inf, "found inf"),
        ("tv", 1.0000001, "a number in [0, 1]"),
        ("tv", -0.1, "a number in [0, 1]"),
        ("chi2", -0.1, "a number in [0,"),
        ("chi2", np.nan, "missing value"),
        ("entropy", -0.1, "a number in [0,"),
        ("advantages", np.inf, "found inf"),
        ("advantages", np.nan, "missing value"),
    ],
)
def test_bad_token_value_names_record_field_and_position(field, value, expected):
    values = np.array([-0.1, value, -0.1]) if field.endswith("probs") else np.array([0, value, 0])
    with pytest.raises(InputError) as caught:
        validate(good(**{field: values.astype(float)}))
    assert (caught.value.file, caught.value.record, caught.value.field) == (
        "run.parquet",
        40,
        field,
    )
    assert "at position 1" in caught.value.problem
    assert expected in caught.value.problem


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reward", np.nan),
        ("reward", 1.5),
        ("reward", -np.inf),
        ("temperature", 0.0),
        ("top_p", 1.1),
        ("top_p", 0.0),
    ],
)
def test_bad_sequence_value(field, value):
    with pytest.raises(InputError, match=f"record 41, field '{field}'"):
        validate(good(**{field: np.array([1.0, value])}))


def test_reward_range_is_the_callers():
    validate(good(reward=np.array([-3.0, 7.0])), reward_range=(-3.0, 7.0))
    with pytest.raises(InputError, match=r"expected a number in \[-3, 6\]"):
        validate(good(reward=np.array([-3.0, 7.0])), reward_range=(-3.0, 6.0))


def test_the_first_bad_record_is_the_one_named():
    batch = good(kl=np.array([0.1, 0.0, -1.0]), reward=np.array([9.0, 1.0]))
    with pytest.raises(InputError, match="record 40, field 'reward'"):
        validate(batch)


def test_the_least_training_logprob_is_admissible():
    validate(good(train_logprobs=np.array([-1e4, -1.1, -0.1])))
    with pytest.raises(InputError, match="field 'train_logprobs'"):
        validate(good(train_logprobs=np.array([-10_000.001, -1.1, -0.1])))


def test_a_masked_value_is_not_named_in_the_place_of_one_that_counts():
    batch = good(kl=np.array([-1.0, 0.0, -2.0]), mask=np.array([False, True, True]))
    with pytest.raises(InputError, match="record 41, field 'kl': found -2 at position 0"):
        validate(batch)


def test_masked_values_are_not_looked_at():
    mask = np.array([True, True, False])
    assert validate(good(rollout_logprobs=np.array([-0.5, -1.0, np.nan]), mask=mask)) is None
    assert validate(good(kl=np.array([0.0, 0.0, -1.0]), mask=np.zeros(3, dtype=bool))) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kl": np.zeros(2)}, "kl"),
        ({"reward": np.zeros(3)}, "reward"),
        ({"offsets": np.array([0, 4, 3])}, "offsets"),
        ({"offsets": np.array([1, 2, 3])}, "offsets"),
    ],
)
def test_shapes(changes, field):
    with pytest.raises(InputError) as caught:
        validate(good(**changes))
    assert caught.value.field == field


def columns(**changes):
    base = {
        "rollout_logprobs": Ragged(OFFSETS, np.array([-0.5, -1.0, 0.0])),
        "train_logprobs": Ragged(OFFSETS, np.array([-0.4, -1.1, -0.1])),
        "reward": np.array([0.0, 1.0]),
    }
    return {**base, **changes}


def build(changes, **options):
    return assemble(columns(**changes), file="f", first_record=5, options=ReadOptions(**options))


def test_lists_of_unequal_length():
    short = Ragged(np.array([0, 1, 2]), np.array([0.1, 0.1]))
    with pytest.raises(InputError, match="record 5, field 'kl': found 1 entries, expected 2"):
        build({"kl": short})


def test_a_sequence_without_tokens_is_admissible():
    assert validate(good(offsets=np.array([0, 3, 3]))) is None


def test_of_faults_of_several_kinds_that_of_the_first_record_is_raised():
    short = Ragged(np.array([0, 1, 2]), np.array([0.1, 0.1]))
    options = ReadOptions()
    with pytest.raises(InputError, match="record 5, field 'kl'"):
        assemble(
            columns(kl=short),
            file="f",
            first_record=5,
            missing={"reward": np.array([False, True])},
            options=options,
        )


def test_the_longest_sequence_is_admissible():
    assert build({}, max_length=2).n_sequences == 2
    with pytest.raises(InputError, match=r"record 5, .* found 2 entries, expected at most 1"):
        build({}, max_length=1)


def test_weight_versions_that_floats_cannot_tell_apart_are_refused():
    versions = np.array([2.0**53 - 1, 1.0, 0.0])
    found = build({"weight_version": Ragged(OFFSETS, versions)})
    assert found.weight_version.tolist() == [2**53 - 1, 1, 0]
    with pytest.raises(InputError, match=r"'weight_version': .* expected a whole number"):
        build({"weight_version": Ragged(OFFSETS, versions + 1)})


def test_a_step_that_no_table_holds_is_skipped_like_any_bad_record():
    steps = {"step": np.array([3_000_000_000, 7])}
    with pytest.raises(InputError, match="record 5, field 'step': found 3000000000, expected a"):
        build(steps)
    left = build(steps, on_error="skip")
    assert left.record_numbers.tolist() == [6]
    assert left.step.tolist() == [7]


def test_a_list_that_is_too_long():
    with pytest.raises(InputError, match="found 2 entries, expected at most 1"):
        build({}, max_length=1)


@pytest.mark.parametrize("value", [0.5, 2.0, np.nan])
def test_mask_entries_are_zero_or_one(value):
    with pytest.raises(InputError, match=r"record 6, field 'mask'.*expected 0 or 1"):
        build({"mask": Ragged(OFFSETS, np.array([0.0, 1.0, value]))})


def test_weight_versions_are_whole():
    with pytest.raises(InputError, match="expected a whole number"):
        build({"weight_version": Ragged(OFFSETS, np.array([0.0, 1.5, 2.0]))})


def test_skipping_leaves_exactly_the_bad_records_out():
    seen = []
    batch = build(
        {
            "kl": Ragged(np.array([0, 1, 2]), np.array([0.1, 0.1])),
            "reward": np.array([0.5, 2.0]),
        },
        on_error="skip",
        on_skip=seen.append,
    )
    assert batch.n_sequences == 0
    assert [(error.record, error.field) for error in seen] == [(5, "kl"), (6, "reward")]
    batch = build({"reward": np.array([3.0, 1.0])}, on_error="skip")
    assert batch.record_numbers.tolist() == [6]


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "ignore"},
        {"reward_range": (1.0, 0.0)},
        {"reward_range": (1.0, 1.0)},
        {"reward_range": (0.0, np.inf)},
        {"reward_range": (0.0, 1e31)},
        {"reward_range": (-1e31, 1.0)},
        {"reward_range": (0.0, 5e-324)},
        {"reward_range": (np.nan, 1.0)},
        {"batch_tokens": 0},
        {"max_length": 0},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InputError):
        ReadOptions(**options)
