"""The commands on traces: output, exit codes, and one clear line for every kind of bad input."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trbounds.bounds import all_bounds
from trbounds.traces import example_path, summarize

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "moe.parquet")


def records() -> list[dict[str, Any]]:
    with gzip.open(example_path(), "rt") as stream:
        return [json.loads(line) for line in stream][:16]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- verify ------------------------------------------------------------------------------------


def test_verify_example(run):
    code, out, err = run("verify", "--example")
    assert code == 0
    assert err == ""
    assert "sqrt(kl/2)" in out
    assert "128 sequences, 12538 tokens, 4 prompts, longest 256" in out
    assert out.rstrip().splitlines()[-1].startswith("All ")
    assert out.rstrip().endswith("checks hold.")


def test_verify_names_a_fault_of_the_log_and_fails(run, tmp_path):
    rows = [{**row, "train_logprobs": row["rollout_logprobs"]} for row in records()]
    for row in rows:
        for name in ("kl", "tv", "chi2"):
            del row[name]
    path = write(tmp_path / "a.jsonl", rows)
    code, out, err = run("verify", path)
    assert (code, err) == (1, "")
    last = " ".join(out.split())
    assert "error: identical_logprobs: 100.0% of the tokens" in last
    assert last.endswith("the trace was logged WRONGLY: identical_logprobs")
    assert json.loads(run("verify", path, "--json")[1])["findings"][0]["severity"] == "error"


def test_verify_prints_one_json_document(run):
    code, out, err = run("verify", MOE, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["holds"] is True
    assert document["trace"]["files"] == [MOE]
    pinsker = next(v for v in document["verdicts"] if v["check"] == "pinsker")
    assert pinsker["place"]["file"] == MOE
    assert pinsker["slack"] == pytest.approx(pinsker["right"] - pinsker["left"])
    assert document["estimates"]["error"]["jackknife_error"] > 0


def test_verify_all_shows_every_check(run):
    _, short, _ = run("verify", "--example")
    code, out, _ = run("verify", "--example", "--all")
    assert code == 0
    assert len(out.splitlines()) > len(short.splitlines()) + len(all_bounds())
    assert "|Error| <= classical" in out


def test_verify_takes_saved_summaries(run, tmp_path):
    saved = tmp_path / "moe.tbs"
    summarize(MOE).save(saved)
    code, direct, _ = run("verify", MOE, "--json")
    again, stored, _ = run("verify", saved, "--json")
    assert (code, again) == (0, 0)
    assert json.loads(stored) == json.loads(direct)


def test_verify_exits_1_and_names_the_place_of_a_violation(run, tmp_path):
    rows = records()
    rows[5]["kl"][7] /= 1e6
    code, out, err = run("verify", write(tmp_path / "bad.jsonl", rows))
    assert (code, err) == (1, "")
    last = out.rstrip().splitlines()[-1]
    assert "VIOLATED" in last
    assert "pinsker" in last
    assert "record 5, position 7" in " ".join(out.split())


def test_verify_catches_swapped_policies(run, tmp_path):
    rows = records()
    for row in rows:
        # Wrong by more than noise, so that few sequences show it.
        row["train_logprobs"] = [1.3 * value for value in row["rollout_logprobs"]]
    code, out, _ = run("verify", write(tmp_path / "swapped.jsonl", rows), "--json")
    assert code == 1
    assert "tv_seq_total" in json.loads(out)["violations"]


def test_verify_leaves_bad_records_out_on_request(run, tmp_path):
    rows = records()
    rows[3]["kl"][0] = -1.0
    file = write(tmp_path / "one_bad.jsonl", rows)
    code, out, err = run("verify", file, "--on-error", "skip", "--json")
    assert code == 0
    assert json.loads(out)["trace"]["sequences"] == 15
    assert "left out" in err
    assert "record 3" in err


def test_verify_reads_other_reward_ranges(run, tmp_path):
    rows = records()
    for row in rows:
        row["reward"] = 10 * row["reward"] - 5
    file = write(tmp_path / "wide.jsonl", rows)
    code, out, _ = run("verify", file, "--reward-range", "-5", "5", "--json")
    assert code == 0
    narrow = json.loads(run("verify", write(tmp_path / "r.jsonl", records()), "--json")[1])
    wide = json.loads(out)
    for name in ("error", "surrogate", "sup_error"):
        assert wide["estimates"][name]["value"] == pytest.approx(
            10 * narrow["estimates"][name]["value"], rel=1e-9
        )


# -- bad input ---------------------------------------------------------------------------------


def changed(field: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        if isinstance(rows[2][field], list):
            rows[2][field][1] = value
        else:
            rows[2][field] = value

    return change


BAD_VALUES = {
    "NaN": (changed("train_logprobs", float("nan")), "train_logprobs"),
    "infinity": (changed("rollout_logprobs", float("-inf")), "rollout_logprobs"),
    "positive log-probability": (changed("train_logprobs", 0.5), "train_logprobs"),
    "negative kl": (changed("kl", -1e-4), "kl"),
    "tv above 1": (changed("tv", 1.5), "tv"),
    "reward outside the range": (changed("reward", 1.5), "reward"),
    "null": (changed("kl", None), "kl"),
    "text": (changed("kl", "much"), "kl"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.parametrize("command", ["verify", "bound", "mask"])
def test_bad_values_are_named(run, tmp_path, case, command):
    change, field = BAD_VALUES[case]
    rows = records()
    change(rows)
    file = write(tmp_path / "bad.jsonl", rows)
    words = {
        "verify": ("verify", file),
        "bound": ("bound", "--trace", file),
        "mask": ("mask", file, "--rule", "max kl <= 1"),
    }[command]
    run(*words, "--json").assert_refused(str(file), "record 2", field)


@pytest.mark.parametrize("field", ["rollout_logprobs", "kl", "reward"])
def test_bad_values_in_parquet_are_named(run, tmp_path, field):
    table = pq.read_table(MOE)
    index = table.schema.get_field_index(field)
    values = table.column(field).to_pylist()
    values[4] = [float("nan"), *values[4][1:]] if isinstance(values[4], list) else float("inf")
    file = tmp_path / "bad.parquet"
    pq.write_table(table.set_column(index, field, pa.array(values)), file)
    run("verify", file).assert_refused(str(file), "record 4", field)


def test_missing_file(run, tmp_path):
    run("verify", tmp_path / "none.parquet").assert_refused("none.parquet", "no such file")


@pytest.mark.parametrize("name", ["empty.parquet", "empty.jsonl", "empty.tbs"])
def test_empty_file(run, tmp_path, name):
    (tmp_path / name).touch()
    run("verify", tmp_path / name).assert_refused(name)


def test_truncated_parquet(run, tmp_path):
    file = tmp_path / "cut.parquet"
    file.write_bytes(Path(MOE).read_bytes()[:-5000])
    run("verify", file).assert_refused("cut.parquet")


def test_truncated_summary(run, tmp_path):
    summarize(MOE).save(tmp_path / "moe.tbs")
    file = tmp_path / "cut.tbs"
    file.write_bytes((tmp_path / "moe.tbs").read_bytes()[:-5000])
    run("verify", file).assert_refused("cut.tbs")


def test_broken_json_line(run, tmp_path):
    file = write(tmp_path / "broken.jsonl", records())
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:-20]
    file.write_text("\n".join(lines))
    run("verify", file).assert_refused("broken.jsonl", "record 6")


def test_missing_column(run, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "train_logprobs"} for row in records()]
    run("verify", write(tmp_path / "m.jsonl", rows)).assert_refused("m.jsonl", "train_logprobs")
    table = pq.read_table(MOE).drop_columns(["rollout_logprobs"])
    pq.write_table(table, tmp_path / "m.parquet")
    run("verify", tmp_path / "m.parquet").assert_refused("m.parquet", "rollout_logprobs")


def test_unequal_lengths(run, tmp_path):
    rows = records()
    rows[1]["kl"].pop()
    run("verify", write(tmp_path / "u.jsonl", rows)).assert_refused("u.jsonl", "record 1", "kl")


def test_sequences_without_tokens(run, tmp_path):
    rows = [{"rollout_logprobs": [], "train_logprobs": [], "reward": 0.5} for _ in range(3)]
    run("verify", write(tmp_path / "none.jsonl", rows)).assert_refused("no token")


def test_nothing_or_too_much_to_read(run):
    run("verify").assert_refused("--example")
    run("verify", MOE, "--example").assert_refused("--example")
    run("bound", "--trace", MOE, "--T", "5").assert_refused("give either traces, or --T")
    assert run("bound", MOE, "--json").out == run("bound", "--trace", MOE, "--json").out
    run("bound").assert_refused("--T")
    run("verify", MOE, "--format", "tarot").assert_refused("tarot", "canonical-parquet")


# -- bound and mask ----------------------------------------------------------------------------


def test_bound_on_a_trace(run):
    code, out, _ = run("bound", "--trace", MOE, "--json")
    document = json.loads(out)
    assert code == 0
    assert [b["key"] for b in document["bounds"]] == list(all_bounds())
    assert document["best"]["value"] == min(b["value"] for b in document["bounds"])
    assert all(b["status"] == "plug-in" for b in document["bounds"])
    l2 = next(b for b in document["bounds"] if b["key"] == "l2")
    assert l2["value"] == pytest.approx(document["estimates"]["l2"]["value"])
    assert l2["standard_error"] > 0
    assert document["profile"]["kl_max"]["kind"] == "observed"
    code, out, _ = run("bound", "--trace", MOE)
    assert code == 0
    assert "effective sample size" in out


def test_bound_warns_of_heavy_weights(run, tmp_path):
    rows = records()
    for number, row in enumerate(rows):
        shift = 6.0 if number == 0 else -2.0
        row["train_logprobs"][0] = min(row["rollout_logprobs"][0] + shift, 0.0)
        row["train_logprobs"][-1] = row["rollout_logprobs"][-1] - 8.0 * (number > 1)
    _, out, _ = run("bound", "--trace", write(tmp_path / "h.jsonl", rows), "--json")
    assert any("too heavy to trust" in warning for warning in json.loads(out)["warnings"])


def test_overview_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in ("verify", "mask"):
        assert f"  {name}" in out
        assert "Example" in run(name, "--help")[1]
