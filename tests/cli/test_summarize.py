"""``trbounds summarize`` and ``trbounds convert``."""

import json
import zipfile
from pathlib import Path

import pytest

from trbounds.traces import TraceSummary, engine, example_path, open_trace

DATA = Path(__file__).parents[1] / "data"


def test_summary_is_taken_instead_of_the_trace(trbounds, tmp_path):
    file = str(tmp_path / "run.tbs")
    made = trbounds("summarize", example_path(), "-o", file, "--json")
    assert (made.code, made.err) == (0, "")
    document = json.loads(made.out)
    assert (document["sequences"], document["partial"]) == (128, False)
    assert document["summary"] == file
    assert file in trbounds("summarize", example_path(), "-o", file).out
    one = json.loads(trbounds("verify", example_path(), "--json").out)
    two = json.loads(trbounds("verify", file, "--json").out)
    assert one == two


def test_shards_merge(trbounds, tmp_path):
    names = ["moe.parquet", "stale_k16.parquet"]
    shards = [str(tmp_path / f"{name}.tbs") for name in names]
    for name, shard in zip(names, shards, strict=True):
        trbounds("summarize", str(DATA / name), "-o", shard)
    trbounds("summarize", *shards, "-o", str(tmp_path / "a.tbs"))
    trbounds("summarize", *(str(DATA / name) for name in names), "-o", str(tmp_path / "b.tbs"))
    one, two = (TraceSummary.load(tmp_path / name) for name in ("a.tbs", "b.tbs"))
    assert one.sequences["chi2_sum"].tolist() == two.sequences["chi2_sum"].tolist()
    assert one.files == two.files


def test_interrupt_and_resume(trbounds, tmp_path, monkeypatch):
    inputs = [str(DATA / "moe.parquet"), str(DATA / "stale_k16.parquet"), example_path()]
    file = str(tmp_path / "run.tbs")
    summarize_part = engine.summarize_part

    def interrupted(part, **options):
        if part.file.endswith("jsonl.gz"):
            raise KeyboardInterrupt
        return summarize_part(part, **options)

    monkeypatch.setattr(engine, "summarize_part", interrupted)
    outcome = trbounds("summarize", *inputs, "-o", file)
    assert outcome.code == 2
    assert "interrupted; --resume continues" in outcome.err
    assert "partial: 2 of 3 parts" in trbounds("verify", file).err
    monkeypatch.setattr(engine, "summarize_part", summarize_part)
    outcome = trbounds("summarize", *inputs, "-o", file, "--resume", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["files"] == 3
    assert TraceSummary.load(file).partial is None
    again = trbounds("summarize", *inputs, "-o", file, "--resume")
    assert (again.code, "complete" in again.err) == (2, True)


def test_of_many_left_out_the_document_counts_those_it_does_not_list(trbounds, tmp_path):
    good = {"rollout_logprobs": [-1.0, -2.0], "train_logprobs": [-2.0, -1.5]}
    rows = [good if i < 2000 else {**good, "train_logprobs": [1.0, 1.0]} for i in range(3005)]
    logs = tmp_path / "a.jsonl"
    logs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command, file in (("summarize", "a.tbs"), ("convert", "a.parquet")):
        done = trbounds(command, str(logs), "-o", tmp_path / file, "--on-error", "skip", "--json")
        texts = json.loads(done.out)["left_out"]
        assert (len(texts), texts[-1]) == (1001, "5 more")
        assert [f"left out: {text}" for text in texts] == done.err.splitlines()[:1001]


def test_what_is_left_out_is_said(trbounds, tmp_path):
    good = {"rollout_logprobs": [-1.0, -2.0], "train_logprobs": [-2.0, -1.5]}
    bad = {"rollout_logprobs": [1.0], "train_logprobs": [-2.0]}
    logs = tmp_path / "a.jsonl"
    logs.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good)))
    file = str(tmp_path / "run.tbs")
    refused = trbounds("summarize", str(logs), "-o", file)
    assert (refused.code, "record 1" in refused.err) == (2, True)
    assert not Path(file).exists()
    skipped = trbounds("summarize", str(logs), "-o", file, "--on-error", "skip", "--json")
    assert skipped.err.startswith(f"left out: {logs}, record 1, field 'rollout_logprobs': found")
    assert [f"left out: {text}\n" for text in json.loads(skipped.out)["left_out"]] == [skipped.err]
    parquet = str(tmp_path / "a.parquet")
    made = trbounds("convert", str(logs), "-o", parquet, "--on-error", "skip", "--json")
    document = json.loads(made.out)
    assert (document["sequences"], document["tokens"], len(document["left_out"])) == (2, 4, 1)
    assert made.err == skipped.err
    logs.write_text(json.dumps(bad))
    for command in ("verify", "metrics", "summarize", "convert"):
        nothing = trbounds(command, str(logs), "--on-error", "skip")
        assert nothing.code == 2
        assert f"{logs}, record 0, field 'rollout_logprobs': found 1 at position 0" in nothing.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("convert -o run.csv", "run.csv: found suffix '.csv', expected .parquet"),
        ("convert -o none/run.parquet", "none/run.parquet: no such folder to write to"),
        ("mask --rule geometric -o masks.csv", "found suffix '.csv', expected .parquet"),
        ("mask --rule geometric -o none/masks.parquet", "no such folder to write to"),
        ("summarize -o .", ".: found a folder, expected a file to write"),
        ("summarize -o none/run.tbs", "none/run.tbs: no such folder to write to"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_read(
    trbounds, tmp_path, monkeypatch, words, problem
):
    monkeypatch.chdir(tmp_path)
    command, *rest = words.split()
    outcome = trbounds(command, "not-there.jsonl", *rest)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith(f"{problem}\n")


def test_a_summary_is_not_converted(trbounds, tmp_path):
    saved = str(tmp_path / "run.tbs")
    trbounds("summarize", example_path(), "-o", saved)
    outcome = trbounds("convert", saved, "-o", str(tmp_path / "run.parquet"))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith("run.tbs: holds a summary, expected a trace with its tokens\n")


@pytest.mark.parametrize("command", ["summarize", "convert"])
def test_traces_are_needed(trbounds, command):
    outcome = trbounds(command)
    assert (outcome.code, "give trace files" in outcome.err) == (2, True)


def test_convert_keeps_every_value(trbounds, tmp_path):
    file = str(tmp_path / "a.parquet")
    assert "128 sequences" in trbounds("convert", example_path(), "-o", file).out
    one, two = [next(iter(open_trace(path))) for path in (example_path(), file)]
    for name in ("offsets", "rollout_logprobs", "train_logprobs", "kl", "reward", "prompt_id"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


def test_other_rewards_name_the_option_that_says_their_range(trbounds, tmp_path):
    logs, saved = tmp_path / "a.jsonl", str(tmp_path / "run.tbs")
    row = {"rollout_logprobs": [-1.0], "train_logprobs": [-2.0], "reward": -0.5}
    logs.write_text(json.dumps(row) + "\n")
    refused = trbounds("summarize", str(logs), "-o", saved)
    assert refused.err.endswith(
        "field 'reward': found -0.5, expected a number in [0, 1] (see --reward-range)\n"
    )
    assert trbounds("summarize", str(logs), "-o", saved, "--reward-range", "-1", "1").code == 0
    refused = trbounds("verify", saved)
    assert refused.code == 2
    assert refused.err.startswith("trbounds: error: field '--reward-range': found (-1.0, 1.0)")
    assert refused.err.endswith("give the range that the summary was made with\n")
    assert trbounds("verify", saved, "--reward-range", "-1", "1").code == 0
    # It is no way on where a reward is none.
    logs.write_text(json.dumps({**row, "reward": "high"}) + "\n")
    assert trbounds("verify", str(logs)).err.endswith("(--on-error skip leaves it out)\n")


def test_a_range_that_a_summary_states_is_a_fault_of_its_file(trbounds, tmp_path):
    saved = tmp_path / "run.tbs"
    assert trbounds("summarize", example_path(), "-o", str(saved)).code == 0
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = {**json.loads(members["summary.json"]), "reward_range": [0, 1e200]}
    members["summary.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    outcome = trbounds("verify", str(saved))
    assert outcome.code == 2
    assert outcome.err.startswith(f"trbounds: error: {saved}, field 'reward_range': found (0, 1e+")
    assert "--reward-range" not in outcome.err
