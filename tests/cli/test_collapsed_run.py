"""``trbounds steps``: when the policies of a run drifted apart, as text, JSON and picture."""

import json
import math

import numpy as np
import pytest

from trbounds.traces import example_path

DRIFT, COLLAPSE, STEPS, EACH = 9, 14, 20, 6


def log_of(number, **changes):
    """One step of a run that drifts apart at one step and collapses at a later one."""
    random = np.random.default_rng(number)
    apart = 0.02 if number < DRIFT else 0.4
    for prompt in range(EACH):
        rollout = random.uniform(-5, -3, 10)
        record = {
            "rollout_logprobs": rollout.tolist(),
            "train_logprobs": (rollout + random.normal(0, apart, 10)).tolist(),
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
def run(trbounds):
    def call(*words):
        outcome = trbounds(*words)
        return outcome.code, outcome.out, outcome.err

    return call


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
