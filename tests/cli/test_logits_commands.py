"""mismatch, prune and divergences: output against the library, and one line for bad input."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from trbounds.bounds import get_bound
from trbounds.logits import example_logits_path, read_logits, top_k_divergences
from trbounds.mismatch import profile_from_logit_error
from trbounds.pruning import sweep
from trbounds.traces import example_path, summarize

Run = Callable[..., Any]


def document(run: Run, *words: object) -> Any:
    outcome = run(*words, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads(outcome.out)


def example() -> dict[str, np.ndarray]:
    with np.load(example_logits_path(), allow_pickle=False) as data:
        return dict(data)


# -- mismatch ----------------------------------------------------------------------------------


def test_logit_error_gives_envelope_caps_and_bounds(run: Run) -> None:
    found = document(run, "mismatch", "--logit-error", 0.01, "--T", 8192)
    a = 0.01
    assert found["caps"] == pytest.approx(
        {
            "tv_max": math.tanh(a / 2),
            "kl_max": a * a / 2,
            "chi2_max": math.sinh(a) ** 2,
            "log_ratio_max": 2 * a,
        },
        rel=1e-14,
    )
    half = next(row for row in found["envelope"] if row["p"] == 0.5)
    assert half["largest"] == pytest.approx(-math.log(0.5 + 0.5 * math.exp(-2 * a)), rel=1e-13)
    assert half["smallest"] == pytest.approx(-math.log(0.5 + 0.5 * math.exp(2 * a)), rel=1e-13)
    # Near certainty the mismatch vanishes with 1 - p, on the lower side a little faster.
    last = found["envelope"][-1]
    assert last["one_minus_p"] == 1e-12
    assert -last["smallest"] == pytest.approx(1e-12 * math.expm1(2 * a), rel=1e-9)
    profile = profile_from_logit_error(a, 8192, positions=True).complete()
    values = {row["key"]: row for row in found["bounds"]}
    for key in ("classical", "adaptive", "chi2_second_order", "entropy_dual"):
        assert values[key]["value"] == pytest.approx(get_bound(key).evaluate(profile), rel=1e-12)
    assert values["chi2_second_order"]["can_certify"]
    assert found["best"]["value"] == min(row["value"] for row in found["bounds"])


def test_a_logit_error_for_people(run: Run) -> None:
    out = run("mismatch", "--logit-error", 0.01, "--T", 100).out
    assert "-0.01005      0.00995" in out  # the envelope at p = 1/2
    assert f"{math.tanh(0.005):.6g}" in out
    assert "best: " in out


def test_solved_logit_errors_meet_the_budget(run: Run) -> None:
    found = document(run, "mismatch", "--solve", "--T", 512, "--budget", 0.1)
    assert len(found["bounds"]) > 15
    for row in found["bounds"]:
        profile = profile_from_logit_error(row["logit_error"], 512, positions=True)
        value = get_bound(row["key"]).evaluate(profile.complete())
        assert value == pytest.approx(0.1, rel=1e-7), row["key"]
    best = max(found["bounds"], key=lambda row: row["logit_error"])
    assert found["best"] == {"key": best["key"], "logit_error": best["logit_error"]}
    out = run("mismatch", "--solve", "--T", 512, "--budget", 0.1).out
    assert f"best: {best['key']}" in out


def test_mismatch_of_a_trace_by_a_plain_loop(run: Run) -> None:
    found = document(run, "mismatch", "--example", "--logit-error", 0.08)
    needed, ratios, likely = [], [], []
    for p, q in logprob_pairs():
        logits = [x - math.log(-math.expm1(x)) for x in (p, q)]
        needed.append(abs(logits[1] - logits[0]) / 2)
        ratios.append(q - p)
        likely.append(math.exp(p))
    assert found["tokens"] == len(needed)
    assert found["a_hat"] == pytest.approx(max(needed), rel=1e-9)
    assert found["exceeding_tokens"] == sum(a > 0.08 for a in needed)
    assert len(found["largest"]) == found["exceeding_tokens"] == 13
    assert [t["value"] for t in found["largest"]] == pytest.approx(sorted(needed)[::-1][:13])
    assert sum(row["tokens"] for row in found["bins"]) == len(needed)
    row = max(found["bins"], key=lambda row: row["tokens"])
    inside = [row["p_low"] <= p < row["p_high"] for p in likely]
    assert sum(inside) == row["tokens"]
    chosen = np.array(ratios)[inside]
    assert row["bias"]["value"] == pytest.approx(chosen.mean(), rel=1e-9)
    assert row["abs_mismatch"]["value"] == pytest.approx(np.abs(chosen).mean(), rel=1e-9)


def logprob_pairs() -> list[tuple[float, float]]:
    from trbounds.traces import open_trace

    return [
        (float(p), float(q))
        for batch in open_trace(example_path())
        for p, q in zip(batch.train_logprobs, batch.rollout_logprobs, strict=True)
    ]


def test_mismatch_of_a_trace_for_people(run: Run) -> None:
    out = run("mismatch", "--example", "--logit-error", 0.08).out
    assert "a_hat = 0.115319" in out
    assert "13 of 12538 tokens" in out
    assert "record" in out
    quiet = run("mismatch", "--example", "--logit-error", 0.3).out
    assert "0 of 12538 tokens" in quiet
    assert "record" not in quiet


def test_mismatch_draws_the_traces_it_reads(run: Run, tmp_path: Path) -> None:
    outcome = run("mismatch", "--example", "--figure", "tokens.png")
    assert outcome.out.rstrip().endswith("tokens.png")
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")
    # Two tokens that both policies hold alike, and one without a bin of enough tokens for a mean.
    same = {"rollout_logprobs": [-0.1, -0.5], "train_logprobs": [-0.1, -0.5]}
    Path("same.jsonl").write_text(json.dumps(same))
    outcome = run("mismatch", "same.jsonl", "--figure", "same.png")
    assert (outcome.code, outcome.out) == (2, "")
    first, second = outcome.err.splitlines()
    assert first.startswith("warning: the trace was logged WRONGLY: identical_logprobs")
    assert "no sampled token has a mismatch" in second
    assert not (tmp_path / "same.png").exists()
    Path("few.jsonl").write_text(json.dumps(same | {"train_logprobs": [-0.1, -0.6]}))
    assert run("mismatch", "few.jsonl", "--figure", "few.svg").code == 0


# -- prune -------------------------------------------------------------------------------------


def test_prune_equals_the_library_at_every_threshold(run: Run) -> None:
    found = document(run, "prune", "--example", "--sweep", "--min-p", 3e-4, "--T", 256)
    data = example()
    thresholds = [row["min_p"] for row in found["thresholds"]]
    assert thresholds == sorted(thresholds)
    assert 3e-4 in thresholds
    direct = sweep(
        data["rollout_logits"],
        data["train_logits"],
        thresholds,
        token_ids=data["token_ids"],
        T=256,
    )
    for shown, row in zip(found["thresholds"], direct, strict=True):
        assert shown["pruned_mass"]["value"] == pytest.approx(row.pruned_mass.value, rel=1e-12)
        assert shown["sequence_union"] == pytest.approx(256 * row.pruned_mass.value, rel=1e-12)
        for name in ("kl", "tv", "chi2", "abs_mismatch"):
            assert shown["removed"][name] == pytest.approx(row.removed(name), abs=1e-12)


def test_prune_reads_blocks_of_rows_in_order(run: Run, tmp_path: Path) -> None:
    """More rows than one block holds: the same means as a plain computation."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(700, 900)).astype(np.float32)
    y = x + rng.normal(size=x.shape).astype(np.float32) * np.linspace(0, 1, 700)[:, None]
    np.savez(tmp_path / "big.npz", rollout_logits=x, train_logits=y.astype(np.float32))
    (row,) = document(run, "prune", "big.npz", "--min-p", 0.1)["thresholds"]
    p = np.exp(x.astype(float))
    p /= p.sum(axis=1, keepdims=True)
    removed = np.where(p >= 0.1 * p.max(axis=1, keepdims=True), 0.0, p).sum(axis=1)
    assert row["pruned_mass"]["value"] == pytest.approx(removed.mean(), rel=1e-9)
    assert row["pruned_mass_max"] == pytest.approx(removed.max(), rel=1e-9)
    assert row["after"]["abs_mismatch"] is None


def test_prune_warns_where_absolute_continuity_is_lost(run: Run) -> None:
    own = run("prune", "--example", "--min-p", 0.01, "--sets", "own")
    assert own.code == 0
    assert "absolute continuity is lost in up to 3.0% of the rows" in " ".join(own.out.split())
    assert "now infinite" in own.out
    assert "continuity" not in run("prune", "--example", "--min-p", 0.01).out


def test_prune_draws_what_it_shows(run: Run, tmp_path: Path) -> None:
    outcome = run("prune", "--example", "--sweep", "--figure", "trade.png")
    assert outcome.code == 0
    assert outcome.out.rstrip().endswith("trade.png")
    assert (tmp_path / "trade.png").read_bytes().startswith(b"\x89PNG")


def test_prune_refuses_a_figure_before_it_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trbounds.pruning.sweep_file", None)  # never called
    run("prune", "--example", "--sweep", "--figure", "a.gif").assert_refused("found suffix '.gif'")


def test_prune_says_what_it_cannot_compare(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 9))
    x[:, 4] = 5.0
    y = x.copy()
    y[:, 4] = -np.inf  # the likeliest token of the other policy
    np.savez("apart.npz", rollout_logits=x, train_logits=y)
    out = run("prune", "apart.npz", "--min-p", 1e-9).out
    assert "infinite" in out
    assert "now infinite" not in out
    np.savez("one.npz", rollout_logits=x[:1], train_logits=x[:1], token_ids=np.array([0]))
    out = run("prune", "one.npz", "--min-p", 1).out
    assert "nan" not in out
    run("prune", "one.npz", "--sweep", "--figure", "a.png").assert_refused("nothing to draw")
    assert not (tmp_path / "a.png").exists()


# -- divergences -------------------------------------------------------------------------------


def test_divergences_writes_a_trace_with_what_it_shows(run: Run, tmp_path: Path) -> None:
    found = document(run, "divergences", "--example", "-o", "trace.parquet")
    assert found["trace"] == "trace.parquet"
    summary = summarize(tmp_path / "trace.parquet")
    assert summary.n_tokens == found["rows"] == 100
    for name in ("kl", "tv", "chi2", "entropy"):
        extreme = summary.extremes[f"{name}_max"]
        assert extreme.value == found["divergences"][name]["largest"]
    data = example()
    p, q = (softmax(data[f"{policy}_logits"]) for policy in ("rollout", "train"))
    kl = (p * (np.log(p) - np.log(q))).sum(axis=1)
    assert found["divergences"]["kl"]["mean"] == pytest.approx(kl.mean(), rel=1e-9)
    assert found["divergences"]["kl"]["row"] == int(kl.argmax())
    tv = np.abs(p - q).sum(axis=1) / 2
    assert found["divergences"]["tv"]["median"] == pytest.approx(np.sort(tv)[49], rel=1e-9)
    assert "trace: again.parquet" in run("divergences", "--example", "-o", "again.parquet").out


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(float) - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_divergences_without_output_writes_nothing(run: Run, tmp_path: Path) -> None:
    outcome = run("divergences", "--example", "--precision", "float32", "--device", "cpu")
    assert outcome.code == 0
    assert "KL(rollout‖train)" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_infinite_divergences_are_counted_and_named(run: Run) -> None:
    data = example()
    data["train_logits"][3, data["rollout_logits"][3].argmin()] = -np.inf
    np.savez("cut.npz", **data)
    outcome = run("divergences", "cut.npz")
    assert "KL(rollout‖train) is infinite in 1 rows" in " ".join(outcome.out.split())
    kl = document(run, "divergences", "cut.npz")["divergences"]["kl"]
    assert (kl["infinite_rows"], kl["row"], kl["largest"]) == (1, 3, None)


def test_a_trace_without_what_it_cannot_hold_can_be_read(run: Run) -> None:
    data = example()
    data["train_logits"][3, data["rollout_logits"][3].argmin()] = -np.inf
    np.savez("cut.npz", **data)
    outcome = run("divergences", "cut.npz", "-o", "cut.parquet")
    assert "left out of the trace, which holds finite numbers: kl, max_abs_log_ratio" in " ".join(
        outcome.out.split()
    )
    found = document(run, "divergences", "cut.npz", "-o", "cut.parquet")
    assert found["left_out"] == ["kl", "max_abs_log_ratio"]
    summary = summarize("cut.parquet")
    assert summary.n_tokens == 100
    assert "chi2_max" in summary.extremes
    assert "kl_max" not in summary.extremes


def test_stored_precision_is_a_note(run: Run) -> None:
    half = {
        name: array.astype(ml_dtypes.bfloat16) if array.ndim == 2 else array
        for name, array in example().items()
    }
    save_file(half, "half.safetensors")
    for words in (("divergences", "half.safetensors"), ("prune", "half.safetensors", "--min-p", 1)):
        outcome = run(*words)
        assert outcome.code == 0
        assert outcome.err.startswith("note: half.safetensors stores logits in bfloat16")
        assert outcome.err.count("\n") == 1


def test_top_k_logs_give_intervals(run: Run) -> None:
    save_top_k("top.npz")
    found = document(run, "divergences", "top.npz")
    assert found["intervals"] is True
    (part,) = top_k_divergences(read_logits("top.npz"))
    kl, tv = found["divergences"]["kl"], found["divergences"]["tv"]
    assert kl["lower_mean"] == pytest.approx(part.lower.kl.mean())
    assert kl["upper_mean"] is None
    exact = document(run, "divergences", "--example")["divergences"]
    assert tv["lower_mean"] <= exact["tv"]["mean"] <= tv["upper_mean"] < 1
    assert kl["lower_mean"] <= exact["kl"]["mean"]
    out = run("divergences", "top.npz").out
    assert "these are intervals" in out
    assert "data processing" in out


def save_top_k(path: str, k: int = 20) -> None:
    arrays = {}
    for policy in ("rollout", "train"):
        logprobs = np.log(softmax(example()[f"{policy}_logits"]))
        ids = np.argsort(-logprobs, axis=1)[:, :k]
        arrays[f"{policy}_topk_ids"] = ids
        arrays[f"{policy}_topk_logprobs"] = np.take_along_axis(logprobs, ids, axis=1)
    np.savez(path, **arrays)


def test_a_missing_gpu_library_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    outcome = run("divergences", "--example", "--device", "cuda")
    assert (outcome.code, outcome.out) == (2, "")
    assert "trbounds[cuda]" in outcome.err


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mismatch", "give traces, or a horizon --T"),
        ("mismatch --logit-error 0.1", "give traces, or a horizon --T"),
        ("mismatch --T 8", "give either --logit-error or --solve"),
        ("mismatch --logit-error -1 --T 8", "'--logit-error': found -1"),
        ("mismatch --logit-error nan --T 8", "'--logit-error': found nan"),
        ("mismatch --logit-error 400 --T 8", "expected at most 350"),
        ("mismatch --logit-error 0.1 --T 0", "field '--T'"),
        ("mismatch --logit-error 0.1 --T 8 --reward-range 1 0", "--reward-range"),
        ("mismatch --logit-error 0.1 --T 8 --reward-var -1", "--reward-var"),
        ("mismatch --solve --T 8", "--solve and --budget together"),
        ("mismatch --budget 1 --T 8", "--solve and --budget together"),
        ("mismatch --solve --T 8 --budget -1", "'--budget': found -1"),
        ("mismatch --solve --T 8 --budget 1 --logit-error 1", "give either"),
        ("mismatch nothing.parquet", "nothing.parquet: no such file"),
        ("mismatch --example --T 8", "traces go with --logit-error only"),
        ("mismatch --example other.parquet", "found 'other.parquet' besides --example"),
        ("mismatch --example --logit-error -1", "'--logit-error': found -1"),
        ("mismatch --logit-error 0.1 --T 8 --figure a.png", "--figure needs traces"),
        ("mismatch --logit-error 0.1 --T 8 --format nemo-rl", "--format needs traces"),
        ("mismatch --logit-error 0.1 --T 8 --on-error skip", "--on-error needs traces"),
        ("mismatch --example --conversion sharp", "not with --T, --solve, --reward-var"),
        ("mismatch --example --figure a.gif", "found suffix '.gif'"),
        ("prune --example", "give --min-p"),
        ("prune --example --min-p 0", "field '--min-p': found 0"),
        ("prune --example --min-p 1.5", "field '--min-p': found 1.5"),
        ("prune --example --min-p nan", "field '--min-p': found nan"),
        ("prune --example --min-p 0.1 --T 0", "'--T'"),
        ("prune --example --min-p 0.1 --figure a.png", "--figure needs --sweep"),
        ("prune --example --sweep --figure a.gif", "found suffix '.gif'"),
        ("prune --example --sweep --figure no/a.png", "the folder does not exist"),
        ("prune nothing.npz --min-p 0.1", "nothing.npz"),
        ("prune --min-p 0.1", "give a logits file, or --example"),
        ("divergences", "give a logits file, or --example"),
        ("divergences nothing.npz -o a.parquet", "nothing.npz"),
        ("divergences --example -o no/a.parquet", "no such folder"),
        ("divergences --example -o .", "found a folder"),
        ("divergences --example -o a.csv", "found suffix '.csv', expected .parquet"),
        ("divergences --example --precision float16", "'--precision'"),
        ("divergences --example --device tpu", "'--device'"),
    ],
)
def test_bad_usage_is_one_line(run: Run, tmp_path: Path, words: str, message: str) -> None:
    run(*words.split()).assert_refused(message)
    assert list(tmp_path.iterdir()) == []


def test_summaries_hold_no_tokens(run: Run) -> None:
    summarize(example_path()).save("run.tbs")
    run("mismatch", "run.tbs").assert_refused("holds a summary, expected a trace with its tokens")


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def replaced(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        data[name] = change(data[name])

    return apply


def poked(name: str, where: Any, value: float) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        data[name][where] = value

    return apply


BAD_FILES = {
    "rows differ": (replaced("train_logits", lambda x: x[:-1]), "'train_logits': found shape (99"),
    "vocabularies differ": (
        replaced("train_logits", lambda x: x[:, :-1]),
        "'train_logits': found shape (100, 256), expected (100, 257)",
    ),
    "NaN": (poked("train_logits", (7, 3), np.nan), "record 7, field 'train_logits'"),
    "plus infinity": (poked("rollout_logits", (5, 0), np.inf), "record 5, field 'rollout_logits'"),
    "all minus infinity": (
        poked("rollout_logits", 9, -np.inf),
        "record 9, field 'rollout_logits'",
    ),
    "id out of range": (poked("token_ids", 4, 257), "record 4, field 'token_ids': found token id"),
    "negative id": (poked("token_ids", 4, -1), "record 4, field 'token_ids': found token id -1"),
    "missing logits": (without("train_logits"), "field 'train_logits': missing"),
    "unknown dtype": (replaced("train_logits", lambda x: x.astype(int)), "found dtype int64"),
    "one axis": (replaced("rollout_logits", lambda x: x[0]), "field 'rollout_logits': found shape"),
    "no rows": (
        lambda data: data.update({name: array[:0] for name, array in data.items()}),
        "holds no rows",
    ),
}
COMMANDS = (("divergences", "-o", "trace.parquet"), ("prune", "--min-p", "0.1"))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_with_their_place(
    run: Run, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    change, message = BAD_FILES[name]
    data = example()
    change(data)
    np.savez("bad.npz", **data)
    outcome = run(words[0], "bad.npz", *words[1:])
    outcome.assert_refused(message)
    assert "bad.npz" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_damaged_and_foreign_files_are_refused(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    whole = Path(example_logits_path()).read_bytes()
    eighths = {
        name: np.zeros((2, 8), dtype=ml_dtypes.float8_e4m3fn)
        for name in ("rollout_logits", "train_logits")
    }
    save_file({name: array.view(np.uint8) for name, array in eighths.items()}, "u8.safetensors")
    header = Path("u8.safetensors").read_bytes().replace(b'"U8"', b'"F8_E4M3"')
    length = int.from_bytes(header[:8], "little")
    grown = (length + header.count(b"F8_E4M3") * 5).to_bytes(8, "little")
    files = {
        "cut.npz": whole[: len(whole) // 2],
        "text.npz": b"not an archive",
        "empty.npz": b"",
        "float8.safetensors": grown + header[8:],
    }
    Path("u8.safetensors").unlink()
    for name, content in files.items():
        Path(name).write_bytes(content)
        run(words[0], name, *words[1:]).assert_refused(name)
    assert {path.name for path in tmp_path.iterdir()} == set(files)


def test_a_trace_needs_tokens_and_full_logits(run: Run, tmp_path: Path) -> None:
    data = example()
    del data["token_ids"]
    np.savez("anonymous.npz", **data)
    save_top_k("top.npz")
    run("divergences", "anonymous.npz", "-o", "a.parquet").assert_refused(
        "needs the sampled tokens"
    )
    run("divergences", "top.npz", "-o", "a.parquet").assert_refused("a trace needs full logits")
    run("prune", "top.npz", "--min-p", "0.1").assert_refused("expected full logits")
    assert not (tmp_path / "a.parquet").exists()
    assert run("divergences", "anonymous.npz").code == 0


def test_pickles_are_never_opened(run: Run) -> None:
    data = dict(example())
    data["rollout_logits"] = np.array([{"an": "object"}] * 100, dtype=object)
    np.savez("pickle.npz", **data, allow_pickle=True)
    run("divergences", "pickle.npz", "-o", "a.parquet").assert_refused("pickle.npz")


def test_traces_of_several_files_merge_and_bad_records_can_be_left_out(run: Run) -> None:
    import gzip

    with gzip.open(example_path(), "rt") as stream:
        rows = [json.loads(line) for line in stream]
    rows[3]["train_logprobs"][0] = 0.5
    for name, part in (("a.jsonl", rows[:60]), ("b.jsonl", rows[60:])):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in part))
    run("mismatch", "a.jsonl", "b.jsonl").assert_refused("a.jsonl, record 3")
    outcome = run("mismatch", "a.jsonl", "b.jsonl", "--on-error", "skip", "--json")
    assert outcome.code == 0
    assert outcome.err.startswith("left out: a.jsonl, record 3")
    found = json.loads(outcome.out)
    assert found["sequences"] == 127
    assert found["tokens"] == 12538 - len(rows[3]["train_logprobs"])
    assert found["largest"][0]["file"] == "b.jsonl"
