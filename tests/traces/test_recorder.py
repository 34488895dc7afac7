"""The recorder: what it writes, when, and what the recipes in docs/recipes.md do."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.recorder import Recorder
from trbounds.traces import open_trace, summarize

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(1)


def padded(lengths, width=6):
    mask = np.arange(width) < np.array(lengths)[:, None]
    rollout = np.where(mask, -RANDOM.uniform(0.1, 2.0, mask.shape), 0.0).astype(np.float32)
    train = np.where(mask, rollout - np.float32(0.125), np.float32(np.nan))
    return rollout, train, mask


def only(directory):
    (batch,) = open_trace(directory)
    return batch


def test_padded_arrays(tmp_path, xp):
    rollout, train, mask = padded([3, 0, 6])
    with Recorder(tmp_path, rank=3) as recorder:
        recorder.record(
            rollout_logprobs=xp.asarray(rollout),
            train_logprobs=xp.asarray(train),
            mask=xp.asarray(mask.astype(np.int64)),
            reward=xp.asarray(np.array([0.0, 0.5, 1.0])),
            prompt_id=["a", "a", "b"],
            step=4,
            weight_version=np.array([7, 8, 9]),
            advantages=None,
        )
        assert list(tmp_path.iterdir()) == []
    (shard,) = tmp_path.iterdir()
    assert re.fullmatch(r"trace-rank00003-[0-9a-f]{8}-000000\.parquet", shard.name)
    batch = only(tmp_path)
    assert batch.lengths.tolist() == [3, 0, 6]
    assert batch.rollout_logprobs.tolist() == rollout[mask].tolist()
    assert batch.train_logprobs.tolist() == train[mask].tolist()
    assert batch.mask.all()
    assert batch.reward.tolist() == [0.0, 0.5, 1.0]
    assert batch.prompt_id.tolist() == ["a", "a", "b"]
    assert batch.step.tolist() == [4, 4, 4]
    assert batch.weight_version.tolist() == [7] * 3 + [9] * 6
    assert batch.advantages is None


def test_tokens_between_that_do_not_count_stay_masked(tmp_path):
    rollout, train, mask = padded([5, 2])
    mask[0, 2] = False
    with Recorder(tmp_path) as recorder:
        recorder.record(rollout_logprobs=rollout, train_logprobs=train, mask=mask)
    batch = only(tmp_path)
    assert batch.mask.tolist() == [True, True, False, True, True, True, True]
    assert summarize(tmp_path).n_tokens == 6


def test_lists_of_arrays(tmp_path, xp):
    rows = [np.array([-1.0, -2.0]), np.array([-0.5]), np.empty(0)]
    with Recorder(tmp_path) as recorder:
        recorder.record(
            rollout_logprobs=[xp.asarray(row) for row in rows],
            train_logprobs=[row.tolist() for row in rows],
            mask=[[1, 1], [1], []],
            kl=[np.abs(row) for row in rows],
        )
    batch = only(tmp_path)
    assert batch.lengths.tolist() == [2, 1, 0]
    assert batch.log_ratio.tolist() == [0.0, 0.0, 0.0]
    assert batch.kl.tolist() == [1.0, 2.0, 0.5]


def test_half_precision_is_widened(tmp_path):
    rollout = np.array([[-0.5, -0.25]], np.float16)
    with Recorder(tmp_path) as recorder:
        recorder.record(rollout_logprobs=rollout, train_logprobs=rollout)
    assert only(tmp_path).rollout_logprobs.tolist() == [-0.5, -0.25]


def test_long_identifiers_are_shortened(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.record(
            rollout_logprobs=[[-1.0]] * 3,
            train_logprobs=[[-1.0]] * 3,
            prompt_id=["x" * 200_000, "x" * 200_000, "y" * 200_000],
        )
    first, second, third = only(tmp_path).prompt_id
    assert first == second != third
    assert len(first) == 32


def test_shards_by_tokens_age_and_fields(tmp_path, monkeypatch):
    rollout, train, mask = padded([6, 6])
    call = {"rollout_logprobs": rollout, "train_logprobs": train, "mask": mask}
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("trbounds.recorder.time.monotonic", lambda: next(clock))
    recorder = Recorder(tmp_path, shard_tokens=30, shard_seconds=1e9)
    for expected in (0, 0, 1, 1):
        recorder.record(**call)
        assert len(list(tmp_path.iterdir())) == expected
    recorder.record(**call, reward=1.0)
    assert len(list(tmp_path.iterdir())) == 2
    recorder.close()
    assert recorder.flush() is None
    assert len(list(tmp_path.iterdir())) == 3
    quick = Recorder(tmp_path / "quick", shard_seconds=15)
    quick.record(**call)
    assert not list((tmp_path / "quick").iterdir())
    quick.record(**call)
    assert len(list((tmp_path / "quick").iterdir())) == 1
    assert sum(batch.n_sequences for batch in open_trace(tmp_path)) == 14


def test_a_shard_that_cannot_be_written_is_dropped_with_a_warning(tmp_path):
    directory = tmp_path / "gone"
    recorder = Recorder(directory)
    recorder.record(rollout_logprobs=[[-1.0]], train_logprobs=[[-1.0]])
    directory.rmdir()
    with pytest.warns(RuntimeWarning, match="1 tokens are lost"):
        assert recorder.flush() is None
    directory.mkdir()
    recorder.record(rollout_logprobs=[[-1.0]], train_logprobs=[[-1.0]])
    assert recorder.flush().endswith("-000001.parquet")
    assert len(list(directory.iterdir())) == 1


def test_numbers_of_any_kind_share_a_shard(tmp_path):
    with Recorder(tmp_path) as recorder:
        for reward in ([True, False], [1, 0], [0.5, 1.0], np.float16([0.25, 0.5])):
            recorder.record(
                rollout_logprobs=[[-1.0]] * 2, train_logprobs=[[-1.0]] * 2, reward=reward
            )
    assert only(tmp_path).reward.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5, 1.0, 0.25, 0.5]


def test_a_missing_number_costs_its_record_and_not_the_shard(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.record(**TWO, reward=[1.0, None])
    with pytest.raises(InputError, match="record 1, field 'reward': found nan"):
        only(tmp_path)
    (batch,) = open_trace(tmp_path, on_error="skip")
    assert batch.reward.tolist() == [1.0]


@pytest.mark.parametrize(
    "identifiers",
    [
        [2**63, 2**63 + 1],  # numpy would make floats of them where one is smaller
        [1, 2**64 - 1],
        [2**70, 2**70 + 1],
        np.array([2**63, 2**63 + 1], dtype=np.uint64),
        ["\ud800", "\ud801"],  # half of a character, which JSON can hold and Parquet cannot
        [0.5, 1.5],
        np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
    ],
)
def test_identifiers_stay_apart(tmp_path, identifiers):
    with Recorder(tmp_path) as recorder:
        recorder.record(**TWO, prompt_id=identifiers)
    first, second = only(tmp_path).prompt_id
    assert first != second


def test_what_an_interrupt_finds_half_written_is_written_later(tmp_path, monkeypatch):
    from trbounds.traces import writing

    def interrupted(batches, path):
        raise KeyboardInterrupt

    recorder = Recorder(tmp_path)
    recorder.record(**ONE)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_parquet", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.flush()
    recorder.record(**ONE)
    recorder.close()
    assert only(tmp_path).n_sequences == 2


ONE = {"rollout_logprobs": [[-1.0, -2.0]], "train_logprobs": [[-1.0, -2.0]]}
TWO = {"rollout_logprobs": [[-1.0, -2.0], [-1.0]], "train_logprobs": [[-1.0, -2.0], [-1.0]]}


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"rollout_logprobs": np.zeros(3)}, "rollout_logprobs", "expected two dimensions"),
        ({"rollout_logprobs": [[[1.0]]]}, "rollout_logprobs", "one-dimensional"),
        ({"train_logprobs": [[-1.0]]}, "train_logprobs", "found lengths [1], expected [2]"),
        ({"train_logprobs": np.zeros((1, 3))}, "train_logprobs", "found shape (1, 3)"),
        ({"mask": [[1, 1], [1]]}, "mask", "found lengths [2, 1]"),
        ({"reward": [1.0, 2.0]}, "reward", "found shape (2,), expected (1,)"),
        ({"reward": ["good"]}, "reward", "expected numbers"),
        ({"reward": [1j]}, "reward", "expected numbers"),
        ({"kl": [["a", "b"]]}, "kl", "expected numbers"),
        ({"train_logprobs": [[False, True]]}, "train_logprobs", "type bool, expected numbers"),
        ({"rewards": [1.0]}, "rewards", "unknown, expected one of rollout_logprobs"),
    ],
)
def test_wrong_shapes(tmp_path, changes, field, problem):
    with pytest.raises(InputError) as caught:
        Recorder(tmp_path).record(**{**ONE, **changes})
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_wrong_settings(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        Recorder(tmp_path / "file" / "traces")
    for name in ("shard_tokens", "shard_seconds"):
        with pytest.raises(InputError, match="expected more than 0"):
            Recorder(tmp_path, **{name: 0})


CRASH = """
import os, sys
from trbounds.recorder import Recorder
recorder = Recorder(sys.argv[1])
recorder.record(rollout_logprobs=[[-1.0, -2.0]], train_logprobs=[[-1.0, -2.5]])
if os.fork() == 0:
    recorder.record(rollout_logprobs=[[-3.0]], train_logprobs=[[-3.0]])
    raise SystemExit
os.wait()
1 / 0
"""


def test_written_after_a_crash_and_once_only_after_a_fork(tmp_path):
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    environment = {**os.environ, "RANK": "2", "PYTHONPATH": str(ROOT)}
    out = tmp_path / "traces"
    done = subprocess.run(
        [sys.executable, str(script), str(out)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert sorted(b.n_tokens for b in open_trace(out)) == [1, 2]
    assert all(path.name.startswith("trace-rank00002-") for path in out.iterdir())


def test_written_after_a_signal_that_becomes_an_exit(tmp_path):
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
    assert f"`{handler}`" in (ROOT / "docs" / "recipes.md").read_text()
    code = (
        "import os, signal, sys; from trbounds.recorder import Recorder; "
        f"{handler}; recorder = Recorder(sys.argv[1]); "
        "recorder.record(rollout_logprobs=[[-1.0]], train_logprobs=[[-1.0]]); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    out = tmp_path / "traces"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 143
    assert only(out).n_sequences == 1


FORK_WHILE_WRITING = """
import os, sys, threading
from trbounds.recorder import Recorder
from trbounds.traces import writing
recorder = Recorder(sys.argv[1])
one = {"rollout_logprobs": [[-1.0]], "train_logprobs": [[-1.0]]}
recorder.record(**one)
started, forked, write = threading.Event(), threading.Event(), writing.write_parquet
def slow(batches, path):
    started.set()
    forked.wait()
    write(batches, path)
writing.write_parquet = slow
thread = threading.Thread(target=recorder.flush)
thread.start()
started.wait()
if os.fork() == 0:
    writing.write_parquet = write
    recorder.record(**one)
    raise SystemExit
forked.set()
os.wait()
thread.join()
"""


def test_a_fork_while_another_thread_writes_does_not_hang(tmp_path):
    out = tmp_path / "traces"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_WHILE_WRITING, str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [batch.n_sequences for batch in open_trace(out)] == [1, 1]


def test_no_framework_is_imported():
    code = (
        "import sys, trbounds.recorder; "
        "print([m for m in ('torch', 'jax', 'verl', 'trl', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- the recipes


def recipes():
    text = (ROOT / "docs" / "recipes.md").read_text()
    return dict(re.findall(r"<!-- recipe: (.*?) -->\n```python\n(.*?)```", text, re.DOTALL))


def test_every_recipe_is_tested():
    text = (ROOT / "docs" / "recipes.md").read_text()
    names = {"verl, in the constructor", "verl, before the correction", "trl", "any loop"}
    assert set(recipes()) == names
    assert text.count("```python") == len(names)


def test_recipe_verl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The last one is a sample that fills the batch up.
    rollout, train, mask = padded([4, 6, 0])
    scores = np.zeros(mask.shape)
    scores[0, 3] = 1.0
    tensors = {
        "rollout_log_probs": rollout,
        "old_log_probs": train,
        "response_mask": mask.astype(np.int64),
        "token_level_scores": scores,
    }
    uid = np.array(["u1", "u1", "pad0"], dtype=object)
    trainer = types.SimpleNamespace(global_steps=11)
    data = types.SimpleNamespace(batch=tensors, non_tensor_batch={"uid": uid})
    names = {"data": data, "self": trainer, "np": np}
    exec(recipes()["verl, in the constructor"], names)
    exec(recipes()["verl, before the correction"], names)
    found = only("traces")
    assert found.lengths.tolist() == [4, 6]
    assert found.rollout_logprobs.tolist() == rollout[mask].tolist()
    assert found.train_logprobs.tolist() == train[mask].tolist()
    assert found.reward.tolist() == [1.0, 0.0]
    assert found.prompt_id.tolist() == ["u1", "u1"]
    assert found.step.tolist() == [11, 11]


class Rewards(np.ndarray):
    """What the recipe asks of a torch tensor."""

    device = "cpu"

    def to(self, device):
        return self

    def isnan(self):
        return np.isnan(self)

    def nansum(self, axis):
        return np.nansum(self, axis)

    def masked_fill(self, where, value):
        return np.where(where, value, self).view(Rewards)


# Rewards by two functions of the samples of two processes; the second process records.
OTHERS, OWN = ((9.0, 9.0), (9.0, 9.0)), ((0.5, np.nan), (0.25, 1.0))


@pytest.fixture
def trl(tmp_path, monkeypatch):
    """A stand-in for trl whose trainer returns what the test puts into it."""
    monkeypatch.chdir(tmp_path)

    class GRPOTrainer:
        state = types.SimpleNamespace(global_step=3)
        model = types.SimpleNamespace(training=True)
        accelerator = types.SimpleNamespace(process_index=1)
        reward_weights = np.array([1.0, 0.5]).view(Rewards)
        rewards = (*OTHERS, *OWN)

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            return np.array(self.rewards).view(Rewards)

        def _generate_and_score_completions(self, inputs):
            prompts = [example["prompt"] for example in inputs]
            gathered = self._calculate_rewards(inputs, prompts, [], [])
            assert np.array_equal(gathered, self.rewards, equal_nan=True)
            return self.output

    module = types.ModuleType("trl")
    module.GRPOTrainer = GRPOTrainer
    monkeypatch.setitem(sys.modules, "trl", module)
    names = {}
    exec(recipes()["trl"], names)
    return names


@pytest.mark.parametrize("tools", [False, True])
def test_recipe_trl(trl, tools):
    rollout, train, mask = padded([2, 5])
    rollout[1, 3] = np.nan
    output = {
        "sampling_per_token_logps": rollout,
        "old_per_token_logps": train,
        "completion_mask": mask.astype(np.int64),
        "advantages": np.array([0.5, -0.5]),
    }
    counted = mask.copy()
    counted[1, 3] = False
    if tools:
        # The second token of the second completion is what a tool returned.
        output["tool_mask"] = np.ones(mask.shape, dtype=np.int64)
        output["tool_mask"][1, 1] = 0
        counted[1, 1] = False
    trainer = trl["RecordingTrainer"]()
    trainer.output = output
    inputs = [{"prompt": [{"role": "user", "content": "1+1"}]}] * 2
    assert trainer._generate_and_score_completions(inputs) is output
    trainer.model.training = False
    assert trainer._generate_and_score_completions(inputs) is output
    trl["recorder"].close()
    found = only("traces")
    assert found.lengths.tolist() == [2, 5]
    assert found.mask.tolist() == [*counted[0, :2], *counted[1, :5]]
    assert np.allclose(found.counted().log_ratio, -0.125)
    assert found.reward.tolist() == [0.5, 0.75]
    assert found.advantages.tolist() == [0.5] * 2 + [-0.5] * 5
    assert found.step.tolist() == [4, 4]  # TRL logs the metrics of samples one step later
    assert len(set(found.prompt_id)) == 1


def test_recipe_trl_does_not_take_a_missing_reward_for_zero(trl):
    rollout, train, mask = padded([2, 5])
    trainer = trl["RecordingTrainer"]()
    trainer.rewards = (*OTHERS, (np.nan, np.nan), (0.0, 0.5))
    trainer.output = {
        "sampling_per_token_logps": rollout,
        "old_per_token_logps": train,
        "completion_mask": mask,
        "advantages": np.array([0.0, 0.5]),
    }
    trainer._generate_and_score_completions([{"prompt": "1+1"}] * 2)
    trl["recorder"].close()
    with pytest.raises(InputError) as caught:
        only("traces")
    assert (caught.value.record, caught.value.field) == (0, "reward")
    (batch,) = open_trace("traces", on_error="skip")
    assert batch.reward.tolist() == [0.25]


def test_recipe_any_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = {"rollout": np.array([-1.0, -0.5]), "train": [-1.0, -0.25], "reward": 1.0}
    exec(recipes()["any loop"], {"rollouts": [[one, one], [one]]})
    assert only("traces").step.tolist() == [0, 0, 1]


def test_a_shard_is_written_when_it_is_full(tmp_path):
    recorder = Recorder(tmp_path, shard_tokens=4, shard_seconds=1e9)
    tokens = np.full((1, 2), -1.0)
    for shards in (0, 1, 1, 2):
        recorder.record(rollout_logprobs=tokens, train_logprobs=tokens)
        assert len(list(tmp_path.iterdir())) == shards


@pytest.mark.parametrize(("length", "kept"), [(128, True), (129, False)])
def test_the_longest_identifier_is_kept(tmp_path, length, kept):
    tokens, prompt = np.full((1, 2), -1.0), "x" * length
    with Recorder(tmp_path) as recorder:
        recorder.record(rollout_logprobs=tokens, train_logprobs=tokens, prompt_id=[prompt])
    (batch,) = open_trace(tmp_path)
    assert (batch.prompt_id.tolist() == [prompt]) is kept


@pytest.mark.parametrize(("field", "right", "wrong"), [("top_k", 5, None), ("finished", True, 0.5)])
def test_values_of_a_wrong_type_spoil_no_others(tmp_path, field, right, wrong):
    ones = -np.ones((2, 3))
    with Recorder(tmp_path, rank=0) as recorder:
        for values in ([right, right], [right, wrong]):
            recorder.record(rollout_logprobs=ones, train_logprobs=ones, **{field: values})
    left_out: list[InputError] = []
    batches = list(open_trace(tmp_path, on_error="skip", on_skip=left_out.append))
    assert [getattr(batch, field).tolist() for batch in batches] == [[right, right]]
    assert [error.field for error in left_out] == [field]


@pytest.mark.parametrize("rank", ["first", -1, 1.5, [0]])
def test_a_rank_that_no_name_can_hold_is_refused_before_anything_is_recorded(tmp_path, rank):
    with pytest.raises(InputError, match="field 'rank': found"):
        Recorder(tmp_path, rank=rank)


def test_the_rank_of_the_environment_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with Recorder(tmp_path) as recorder:
        recorder.record(rollout_logprobs=[[-1.0]], train_logprobs=[[-1.0]])
        assert repr(recorder) == f"Recorder({str(tmp_path)!r}, 1 tokens to be written)"
    (shard,) = tmp_path.iterdir()
    assert "rank00003" in shard.name
    monkeypatch.setenv("RANK", "")
    with pytest.raises(InputError, match="field 'rank': found ''"):
        Recorder(tmp_path)


@pytest.mark.parametrize("mask", [[[0.5, 1.0]], [[np.nan, 1.0]], [[2, 1]]])
def test_a_mask_of_weights_is_refused(tmp_path, mask):
    with Recorder(tmp_path) as recorder, pytest.raises(InputError, match=r"field 'mask'.*1 and 0"):
        recorder.record(rollout_logprobs=[[-1.0, -1.0]], train_logprobs=[[-1.0, -1.0]], mask=mask)


@pytest.mark.parametrize("rows", [-1.0, [[-1.0, [2.0]]], None])
def test_rows_that_are_none_are_refused(tmp_path, rows):
    with Recorder(tmp_path) as recorder, pytest.raises(InputError, match="'rollout_logprobs'"):
        recorder.record(rollout_logprobs=rows, train_logprobs=rows)


def test_masked_arrays_are_refused(tmp_path):
    rows = np.ma.array([[-1.0, -2.0]], mask=[[False, True]])
    with Recorder(tmp_path) as recorder, pytest.raises(InputError, match="masked entries"):
        recorder.record(rollout_logprobs=rows, train_logprobs=rows)
