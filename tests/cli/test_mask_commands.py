"""mask and threshold: output, files, exit codes, and one clear line for bad usage."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trbounds.masking import mask
from trbounds.traces import example_path, summarize

MOE = str(Path(__file__).parents[1] / "data" / "moe.parquet")
RULE = "max k2 <= 0.001 and mean k3 <= 0.001"


def records():
    with gzip.open(example_path(), "rt") as stream:
        return [json.loads(line) for line in stream][:16]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_mask(trbounds):
    outcome = trbounds("mask", MOE, "--rule", RULE, "--json")
    document = json.loads(outcome.out)
    direct = mask(summarize(MOE), RULE)
    assert (outcome.code, outcome.err) == (0, "")
    assert document["rule"] == RULE
    assert document["accepted"]["value"] == direct.accepted.share.value
    assert document["unmasked_bound"]["value"] > 0
    assert document["output"] is None
    text = trbounds("mask", MOE, "--rule", "sum chi2 <= 0.05")
    assert text.code == 0
    proved = 0.5 * math.sqrt(math.expm1(0.05) - 0.05)
    assert f"proved: |Error| <= {proved:.6g} for any reward" in text.out
    assert "By reward" in text.out
    plug_in = trbounds("mask", MOE, "--rule", "sum (rho-1)^2 <= 0.05").out
    assert f"plug-in, nothing is proved: |Error| <= {proved:.6g}" in plug_in


def test_mask_writes_who_is_accepted(trbounds, tmp_path):
    output = tmp_path / "masks.parquet"
    outcome = trbounds("mask", MOE, "--rule", RULE, "-o", str(output))
    assert outcome.code == 0
    assert outcome.out.rstrip().splitlines()[-1] == f"{output}: 64 sequences"
    table = pq.read_table(output)
    summary = summarize(MOE)
    direct = mask(summary, RULE)
    assert table.column_names == ["file", "record", "length", "accepted", "max k2", "mean k3"]
    assert set(table["file"].to_pylist()) == {MOE}
    assert table["record"].to_pylist() == summary.sequences["record"].tolist()
    assert table["accepted"].to_pylist() == direct.accept.tolist()
    kept = (np.array(table["max k2"]) <= 0.001) & (np.array(table["mean k3"]) <= 0.001)
    assert kept.tolist() == direct.accept.tolist()
    assert table.schema.field("accepted").metadata == {b"rule": RULE.encode()}
    assert list(tmp_path.iterdir()) == [output]


def test_mask_compares_rules_with_default_numbers(trbounds, tmp_path):
    text = " ".join(trbounds("mask", MOE, "--compare").out.split())
    for rule in ("sequence_mask: product ratio <= 3.0", "IcePop: 0.5 <= token ratio <= 5.0"):
        assert rule in text
    saved = str(tmp_path / "moe.tbs")
    trbounds("summarize", MOE, "-o", saved)
    outcome = trbounds("mask", saved, "--compare")
    assert "sequence_mask" in outcome.out
    assert "token" not in outcome.out.replace("tokens", "")  # those would need the tokens again
    assert outcome.err.startswith("left out: token_mask, IcePop, IPO, which read the tokens again")


def test_mask_compares(trbounds, tmp_path):
    output = tmp_path / "masks.parquet"
    words = ["--compare", "--rule", "TRM-Max(0.005)", "--rule", "geometric", "--rule", "IcePop"]
    words += ["--rule", "LN-TRM(0.01)", "--rule", "sum (rho-1)^2 <= 0.05"]
    outcome = trbounds("mask", MOE, *words, "-o", str(output), "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    assert [rule["rule"] for rule in document["rules"]] == [
        "max kl <= 0.005",
        "0.999 <= geomean ratio <= 1.001",
        "0.5 <= token ratio <= 5.0",
        "ln_trm <= 0.01",
        "sum (rho-1)^2 <= 0.05",
    ]
    assert document["rules"][3]["length_neutral"]["value"]["value"] > 0
    table = pq.read_table(output)
    for number, rule in enumerate(document["rules"], start=1):
        share = np.mean(table[f"accepted_{number}"].to_pylist())
        assert share == pytest.approx(rule["accepted"]["value"])
    text = trbounds("mask", MOE, *words)
    assert text.code == 0
    assert "Accepted by length, in brackets expected" in text.out
    assert "…" not in text.out
    assert "3: IcePop: 0.5 <= token ratio <= 5.0" in text.out


def test_mask_of_tokens(trbounds, tmp_path):
    output = tmp_path / "masks.parquet"
    rule = "0.9 <= token ratio <= 1.1 and max k2 <= 0.1"
    outcome = trbounds("mask", MOE, "--rule", rule, "-o", str(output), "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert document["on_tokens"]
    assert document["guarantee"] is None
    table = pq.read_table(output)
    names = ["file", "record", "length", "accepted", "kept_tokens", "keep", "max k2"]
    assert table.column_names == names
    lengths, kept = table["length"].to_pylist(), table["kept_tokens"].to_pylist()
    assert [len(row) for row in table["keep"].to_pylist()] == lengths
    assert document["kept_token_share"]["value"] == pytest.approx(sum(kept) / sum(lengths))
    assert document["accepted"]["value"] == np.mean(np.equal(lengths, kept))
    text = " ".join(trbounds("mask", MOE, "--rule", rule).out.split())
    assert "no token of them is masked" in text
    assert "tokens kept: " in text
    assert "a rule on tokens proves nothing of the error" in text
    words = ["--compare", "--rule", "IcePop(0.9, 1.1)", "--rule", "seq_max_k2(0.1)"]
    compared = trbounds("mask", MOE, *words).out
    assert "Tokens kept by length" in compared
    assert "proves nothing" in " ".join(compared.split())
    assert "Tokens kept by" not in trbounds("mask", MOE, *words[:1], *words[3:]).out


def test_mask_clamps_as_verl_where_it_matters(trbounds, tmp_path):
    rows = [{"rollout_logprobs": [-1.0, -2.0], "train_logprobs": [-31.0, -2.0]}]
    file = write(tmp_path / "far.jsonl", rows)
    for rule, accepted in (("seq_max_k2(200)", 1.0), ("max k2 <= 200", 0.0)):
        outcome = trbounds("mask", file, "--rule", rule, "--json")
        assert json.loads(outcome.out)["accepted"]["value"] == accepted
    saved = tmp_path / "far.tbs"
    summarize(file).save(saved)
    trbounds("mask", str(saved), "--rule", "seq_max_k2(200)").assert_refused(
        "expected a trace file"
    )


def test_mask_shows_steps(trbounds, tmp_path):
    rows = records()
    for number, row in enumerate(rows):
        row["step"] = number % 2
    file = write(tmp_path / "stepped.jsonl", rows)
    assert "By step" in trbounds("mask", file, "--rule", "SER(0.01)").out
    assert "Accepted by step" in trbounds("mask", file, "--compare", "--rule", "SER(0.01)").out


def test_mask_lists_its_rules(trbounds):
    document = json.loads(trbounds("mask", "--list", "--json").out)
    assert {"max k2", "ln_trm", "product ratio"} <= {s["name"] for s in document["statistics"]}
    assert {"TRM-Max&Avg", "seq_mean_k1"} <= {rule["name"] for rule in document["rules"]}
    text = trbounds("mask", "--list").out
    assert "sequence_mask(clip_max = 3, clip_min)" in text
    assert "nan" not in text
    assert "inf" not in text.split()


def test_masks_of_small_floats_are_exact(trbounds):
    """A threshold equal to a logged float32 value accepts the sequence that has it."""
    largest = float(np.float32(summarize(MOE).sequences["kl_max"].max()))
    outcome = trbounds("mask", MOE, "--rule", f"max kl <= {largest!r}", "--json")
    assert json.loads(outcome.out)["accepted"]["value"] == 1.0


def test_mask_refuses_bad_usage(trbounds, tmp_path):
    trbounds("mask", MOE).assert_refused("--rule")
    trbounds("mask", MOE, "--rule", "ser<1", "--rule", "ser<2").assert_refused("--compare")
    trbounds("mask", MOE, "--rule", "max k2 =< 1").assert_refused("'max k2 ^=< 1'")
    trbounds("mask", "--rule", "ser<1").assert_refused("give trace files")
    saved = tmp_path / "moe.tbs"
    summarize(MOE).save(saved)
    assert trbounds("mask", str(saved), "--rule", "ser < 1").code == 0
    trbounds("mask", str(saved), "--rule", "max k3 < 1").assert_refused("expected a trace file")
    trbounds("mask", "-", "--rule", "max k3 < 1").assert_refused("expected a trace file")
    trbounds("mask", "-", "--rule", "token k3 < 1").assert_refused("expected a trace file")
    assert trbounds("mask", str(saved), "--rule", "seq_max_k2(1)").code == 0
    nowhere = str(tmp_path / "none" / "masks.parquet")
    trbounds("mask", MOE, "--rule", "ser < 1", "-o", nowhere).assert_refused("no such folder")
    bare = [
        {k: row[k] for k in ("rollout_logprobs", "train_logprobs", "reward")} for row in records()
    ]
    file = write(tmp_path / "bare.jsonl", bare)
    trbounds("mask", file, "--rule", "LN-TRM(1)").assert_refused("--kl-max")
    trbounds("mask", file, "--rule", "max kl < 1").assert_refused("needs kl")
    assert trbounds("mask", file, "--rule", "LN-TRM(1)", "--kl-max", "0.1").code == 0


def test_mask_says_once_what_is_left_out(trbounds, tmp_path):
    rows = records()
    rows[3]["kl"][0] = -1.0
    file = write(tmp_path / "bad.jsonl", rows)
    outcome = trbounds("mask", file, "--rule", "max k3 < 1", "--on-error", "skip", "--json")
    assert outcome.code == 0
    assert outcome.err.count("left out") == 1


# -- threshold ---------------------------------------------------------------------------------


def test_threshold_for_an_acceptance(trbounds):
    outcome = trbounds("threshold", MOE, "--target-acceptance", "0.8", "--json")
    (found,) = json.loads(outcome.out)["thresholds"]
    assert outcome.code == 0
    assert found["statistic"] == "max k2"
    assert found["lower"] <= found["value"] <= found["upper"]
    assert found["effect"]["accepted"]["value"] >= 0.8
    again = trbounds("mask", MOE, "--rule", found["effect"]["rule"], "--json")
    assert json.loads(again.out)["accepted"] == found["effect"]["accepted"]
    text = trbounds("threshold", MOE, "--target-acceptance", "0.8", "--rule-family", "TRM-Avg").out
    assert "mean kl <= " in text
    assert "accepts 80.0% (95% interval " in text
    assert "of the longest" in text


def test_threshold_for_several_acceptances(trbounds):
    words = [word for target in ("0.5", "0.8", "0.95") for word in ("--target-acceptance", target)]
    outcome = trbounds("threshold", MOE, *words, "--rule-family", "LN-TRM", "--json")
    values = [found["value"] for found in json.loads(outcome.out)["thresholds"]]
    assert values == sorted(values)
    text = trbounds("threshold", MOE, *words, "--rule-family", "sum-chi2").out
    assert "Thresholds of sum chi2, 95% intervals" in text


def test_threshold_for_a_budget(trbounds, tmp_path):
    outcome = trbounds("threshold", MOE, "--budget", "0.05", "--json")
    (found,) = json.loads(outcome.out)["thresholds"]
    assert found["statistic"] == "sum chi2"
    cap = found["value"]
    assert 0.5 * math.sqrt(math.expm1(cap) - cap) == pytest.approx(0.05, rel=1e-9)
    text = trbounds("threshold", MOE, "--budget", "0.05").out
    assert "keeps the bound within 0.05" in text
    assert "at the estimated variance of this reward (plug-in)" in text
    rows = [{k: r[k] for k in ("rollout_logprobs", "train_logprobs")} for r in records()]
    bare = trbounds("threshold", write(tmp_path / "bare.jsonl", rows), "--budget", "0.05").out
    assert "sum (rho-1)^2 <= " in bare
    assert "plug-in, nothing is proved" in bare


def test_threshold_refuses_bad_usage(trbounds):
    trbounds("threshold", MOE).assert_refused("either --target-acceptance or --budget")
    trbounds("threshold", MOE, "--budget", "1", "--target-acceptance", "0.5").assert_refused(
        "either"
    )
    trbounds("threshold", MOE, "--target-acceptance", "1.5").assert_refused("at most 1")
    trbounds("threshold", MOE, "--budget", "-1").assert_refused("positive")
    words = ["--rule-family", "max-k9", "--budget", "1"]
    trbounds("threshold", MOE, *words).assert_refused("expected a statistic")
    words = ["--rule-family", "max-k2", "--budget", "1"]
    trbounds("threshold", MOE, *words).assert_refused("limits no divergence")
    words = ["--rule-family", "token-ratio", "--target-acceptance", "0.9"]
    trbounds("threshold", MOE, *words).assert_refused("masks single tokens")
