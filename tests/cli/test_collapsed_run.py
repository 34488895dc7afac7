"""A run that drifted apart and collapsed: what the commands say of it, and how to go on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trbounds.traces import example_path

DRIFT, COLLAPSE, STEPS, EACH = 9, 14, 20, 6
PAIR = {"rollout_logprobs": [-4.0], "train_logprobs": [-4.1]}


def log_of(number, **changes):
    """One step of a run that drifts apart at one step and collapses at a later one."""
    random = np.random.default_rng(number)
    apart = 0.02 if number < DRIFT else 0.4
    for prompt in range(EACH):
        rollout = random.uniform(-5, -3, 10)
        record = {
            "rollout_logprobs": rollout.tolist(),
            "train_logprobs": (rollout + random.normal(-(apart**2) / 2, apart, 10)).tolist(),
            "reward": float(random.uniform(0.6, 0.8) if number < COLLAPSE else 0.1),
            "prompt_id": prompt,
            "step": number,
        }
        yield {**record, **changes}


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    for step in range(STEPS):
        lines = (json.dumps(record) + "\n" for record in log_of(step, **changes))
        (folder / f"step {step:03d}.jsonl").write_text("".join(lines))
    return str(folder)


@pytest.fixture
def logs(tmp_path):
    return write(tmp_path / "a collapsed rün")


def test_the_step_of_the_drift_is_named(run, logs):
    code, out, err = run("steps", logs)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "20 training steps, 120 sequences" in text
    assert "D: clearest change at step 9: 0.00" in text
    assert "up to step 8," in text
    assert "reward: clearest change at step 14: 0.6" in text
    assert "0.1 from there on" in text
    assert "k3 = rho - 1 - log rho of the sampled tokens" in text
    assert "D (nats)" in text


def test_json_holds_every_step(run, logs):
    code, out, _ = run("steps", logs, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["kl_seq_by"] == "k3"
    assert [row["step"] for row in document["steps"]] == list(range(STEPS))
    assert all(row["sequences"] == EACH and row["length"] == 10 for row in document["steps"])
    for step, row in enumerate(document["steps"]):
        ratios = [
            np.array(record["train_logprobs"]) - record["rollout_logprobs"]
            for record in log_of(step)
        ]
        k3 = [(np.expm1(r) - r).sum() for r in ratios]
        assert row["kl_seq"]["value"] == pytest.approx(np.mean(k3))
        assert row["kl_seq"]["standard_error"] == pytest.approx(np.std(k3, ddof=1) / EACH**0.5)
        assert row["abs_log_ratio_max"] == pytest.approx(np.abs(ratios).max(), rel=1e-6)
    assert {name: change["step"] for name, change in document["changes"].items()} == {
        "kl_seq": DRIFT,
        "reward": COLLAPSE,
    }
    assert document["figure"] is None


def test_a_summary_says_the_same_and_the_figure_is_drawn(run, logs, tmp_path):
    summary, picture = str(tmp_path / "run.tbs"), tmp_path / "steps.svg"
    assert run("summarize", logs, "-o", summary)[0] == 0
    code, out, _ = run("steps", summary, "--figure", str(picture), "--json")
    assert code == 0
    document = json.loads(out)
    assert document.pop("figure") == str(picture)
    assert picture.read_text().startswith("<?xml")
    direct = json.loads(run("steps", logs, "--json")[1])
    direct.pop("figure")
    assert document == direct


def test_rewards_need_not_be_logged(run, tmp_path):
    logs = write(tmp_path / "logs", reward=None)
    code, out, _ = run("steps", logs, "--figure", str(tmp_path / "steps.png"))
    assert code == 0
    assert "reward: clearest" not in out
    assert (tmp_path / "steps.png").exists()
    assert json.loads(run("steps", logs, "--json")[1])["steps"][0]["reward"]["value"] is None


def test_steps_that_are_not_logged_are_an_error(run, tmp_path):
    logs = write(tmp_path / "logs", step=None)
    picture = tmp_path / "steps.png"
    code, out, err = run("steps", logs, "--figure", str(picture))
    assert (code, out) == (2, "")
    assert "field 'step': not logged: there is nothing to show by step" in err
    assert not picture.exists()


def test_a_figure_that_cannot_be_written_is_refused_before_reading(run, tmp_path):
    code, _, err = run("steps", "nothing", "--figure", str(tmp_path / "steps.gif"))
    assert code == 2
    assert "found suffix '.gif', expected .png, .svg, .pdf" in err


def test_where_the_bound_says_nothing_is_said(run, tmp_path):
    path = tmp_path / "far.jsonl"
    far = {"rollout_logprobs": [-5.0], "train_logprobs": [-3.0], "reward": 0.5, "step": 3}
    near = {**far, "train_logprobs": [-5.0], "step": 2}
    path.write_text("".join(json.dumps(record) + "\n" for record in (near, far)))
    out = " ".join(run("steps", str(path))[1].split())
    assert f"{math.exp(2) - 3:.3f}" in out
    assert "|Error| <= D times 1 says nothing at 1 steps (D >= 1 nat), first at 3" in out
    assert "change of level" not in out


def test_what_is_pooled_over_steps_says_so(run, logs):
    for words in (("verify", logs), ("bound", "--trace", logs), ("metrics", logs)):
        out = " ".join(run(*words)[1].split())
        assert "pooled over 20 training steps, as if they were one: D is 0.00" in out, words
        assert "(estimated); see trbounds steps" in out
    assert "pooled" not in run("verify", example_path())[1]


def test_a_gradual_drift_is_shown_by_its_ends(run, tmp_path):
    path = tmp_path / "gradual.jsonl"
    rows = [
        {"rollout_logprobs": [-4.0], "train_logprobs": [-4.0 + 0.1 * 1.1**step], "step": step}
        for step in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = " ".join(run("steps", str(path))[1].split())
    ends = [
        np.mean([math.expm1(x) - x for x in 0.1 * 1.1 ** np.array(s)]) for s in ([0, 1], [18, 19])
    ]
    assert (
        "D: rises gradually, with no one step at which its level changes; mean of the first tenth "
        f"of the steps {ends[0]:.4g}, of the last {ends[1]:.4g}; smallest 0.00"
    ) in out
    assert "largest 0.2" in out
    assert "reward:" not in out
    document = json.loads(run("steps", str(path), "--json")[1])
    assert document["changes"] == {}
    assert list(document["trends"]) == ["kl_seq"]
    assert document["trends"]["kl_seq"] > 50


def test_a_reward_that_rises_and_falls_is_said_to_turn(run, tmp_path):
    path = tmp_path / "peak.jsonl"
    rows = [
        {**PAIR, "reward": min(0.3 + 0.05 * step, 1.8 - 0.1 * step), "step": step}
        for step in range(17)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = " ".join(run("steps", str(path))[1].split())
    assert "reward: rises until about step 10 and falls from there on" in out
    bend = json.loads(run("steps", str(path), "--json")[1])["bends"]["reward"]
    assert bend["step"] == 10
    assert bend["value"] == pytest.approx(0.8)
    assert (bend["slope_before"], bend["slope_after"]) == pytest.approx((0.05, -0.1))
    assert bend["z_before"] > 100 > -100 > bend["z_after"]
    assert "smallest 0.2 at step 16, largest 0.8 at step 10" in out
    assert "D: " not in out.split("(nats)")[-1]  # it is constant


def test_steps_at_which_one_list_copies_the_other_are_counted(run, tmp_path):
    path = tmp_path / "copied.jsonl"
    rows = [
        {**PAIR, "train_logprobs": [-4.1 - 0.01 * step] if step < 8 else [-4.0], "step": step}
        for step in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = " ".join(run("steps", str(path))[1].split())
    assert (
        "D is 0 at 4 steps, first at 8: there the two policies are the same, or one list is a "
        "copy of the other"
    ) in out


def test_steps_that_are_all_alike_are_pooled_without_a_range(run, tmp_path):
    path = tmp_path / "alike.jsonl"
    rows = [
        {"rollout_logprobs": [-1.0], "train_logprobs": [-1.5], "reward": 0.5, "step": step}
        for step in (1, 2, 1, 2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = run("bound", "--trace", str(path))[1]
    assert "pooled over 2 training steps, as if they were one\n" in out


def test_framework_options_lead_to_this_command(run, logs):
    code, _, err = run("metrics", logs, "--by-step")
    assert code == 2
    assert "see trbounds steps" in err


def test_places_name_the_file_where_there_are_several(run, logs, tmp_path):
    out = run("verify", logs)[1]
    assert "worst file:record:position" in " ".join(out.split())
    assert "step 0" in out
    (single,) = [path for path in (tmp_path / "a collapsed rün").iterdir() if "019" in path.name]
    assert "worst record:position" in " ".join(run("verify", str(single))[1].split())


def test_checks_that_decide_nothing_share_a_line(run, logs):
    out = run("verify", logs)[1]
    assert out.count("not logged") == 1
    assert "pinsker, tv_chi2," in out


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bad_record_says_how_to_go_on(run, logs, tmp_path, jobs):
    last = tmp_path / "a collapsed rün" / "step 019.jsonl"
    last.write_bytes(last.read_bytes()[:-40])
    words = ("summarize", logs, "-o", str(tmp_path / "run.tbs"), "--jobs", jobs)
    code, _, err = run(*words)
    assert code == 2
    assert "step 019.jsonl, record 5: line 6 is not valid JSON" in err
    assert err.endswith("(--on-error skip leaves it out)\n")
    assert run(*words, "--on-error", "skip")[0] == 0
    assert "--on-error" not in run("verify", "nothing-here")[2]


def test_metrics_by_step_go_down_the_page(run, logs):
    code, out, _ = run("metrics", logs, "--as", "verl", "--by-step")
    assert code == 0
    document = json.loads(run("metrics", logs, "--as", "verl", "--by-step", "--json")[1])
    heading, *lines = [line.split() for line in out.splitlines() if line.strip()][1:]
    values = document["results"][7]["metrics"]
    assert heading[:2] == ["step", "sequences"]
    rows = [line for line in lines if line[0] == "7"]
    printed = [word for row in rows for word in row]
    for name, estimate in values.items():
        assert name in out
        assert f"{estimate['value']:.4g}" in printed, name
    assert "+-: standard error" in out


def test_a_trace_logged_wrongly_is_named_by_every_command(run, tmp_path):
    logs = tmp_path / "logs.jsonl"
    rows = [json.dumps({**r, "train_logprobs": [0.0] * 10}) for s in range(9) for r in log_of(s)]
    logs.write_text("\n".join(rows) + "\n")
    converted = ("convert", "-o", str(tmp_path / "a.parquet"))
    dashboard = ("metrics", "--as", "verl")
    summarised = (("bound", "--trace"), ("metrics",), ("steps",), ("mask", "--compare"))
    for words in (*summarised, dashboard, ("mismatch",), converted):
        err = run(*words, str(logs))[2]
        assert "warning: the trace was logged WRONGLY:" in err, words
        assert "zero_train_logprobs" in err
    saved = run("summarize", str(logs), "-o", str(tmp_path / "a.tbs"))
    assert "WRONGLY" in saved[2]
    assert run("verify", str(logs))[2] == ""
    assert run("steps", "--example")[2] == ""


def test_a_copy_of_a_file_is_named_by_every_command(run, tmp_path):
    """Two paths to one file are read once; a copy can only be seen by its numbers."""
    copy = str(tmp_path / "copy.jsonl.gz")
    Path(copy).write_bytes(Path(example_path()).read_bytes())
    traces = (example_path(), copy)
    for words in (
        ("metrics", *traces),
        ("steps", *traces),
        ("mask", *traces, "--rule", "max k2 <= 0.05"),
        ("threshold", *traces, "--target-acceptance", "0.9"),
        ("bound", "--trace", traces[0], "--trace", traces[1]),
        ("summarize", *traces, "-o", str(tmp_path / "both.tbs")),
    ):
        code, _, err = run(*words)
        assert (code, err) == (
            0,
            "warning: the trace shows repeated_sequences; see trbounds verify\n",
        ), words
    assert "warning: repeated_sequences: 123 sequences" in run("verify", *traces)[1]


def test_many_steps_do_not_flood_the_tables_of_masks(run, tmp_path):
    logs = tmp_path / "logs.jsonl"
    rows = [json.dumps(r) for s in range(70) for r in log_of(s)]
    logs.write_text("\n".join(rows) + "\n")
    for words in (("--rule", "max k2 <= 0.1"), ("--compare", "--rule", "SER(0.1)")):
        out = run("mask", str(logs), *words)[1]
        assert "by step: 70 rows, with --json" in out
        assert "y step\n" not in out
    assert len(json.loads(run("mask", str(logs), *words, "--json")[1])["rules"][0]["by_step"]) == 70


def test_a_guarantee_above_the_reward_range_is_called_nothing(run, logs):
    words = ("threshold", logs, "--rule-family", "sum-k3", "--target-acceptance", "0.99")
    out = " ".join(run(*words)[1].split())
    assert "no less than the reward range: it says nothing, of the policy" in out
    small = " ".join(run(*words[:2], "--rule-family", "sum-k3", "--budget", "0.2")[1].split())
    assert "says nothing" not in small


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("threshold LOGS --target-acceptance 90", "field '--target-acceptance': found 90"),
        ("threshold LOGS --rule-family mx --budget 1", "field '--rule-family': found 'mx'"),
        ("verify LOGS --format prquet", "field '--format': found 'prquet'"),
        ("solve --T 64 --budget -1", "field '--budget': found -1"),
        ("table --paper trm-2", "field '--paper': no paper 'trm-2'"),
        ("derive mixd", "; did you mean 'mixed'?"),
        ("figures horizn", "; did you mean 'horizon'?"),
        ("verify LOGS --example", "besides --example, expected one of the two"),
        ("plot --T 64 -o /proc/x.png", "/proc/x.png: cannot be written"),
    ],
)
def test_settings_are_named_by_their_options(run, logs, words, problem):
    code, out, err = run(*(logs if word == "LOGS" else word for word in words.split()))
    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["verify", "bound", "derive", "steps"])
def test_flags_show_no_value(run, name):
    out = run(name, "--help")[1]
    assert "<bool>" not in out
    assert "--json" in out


def test_an_interrupt_while_modules_load_leaves_no_traceback(run, monkeypatch):
    def interrupted(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("trbounds_cli.app.run", interrupted)
    assert run("bounds") == (130, "", "")
