"""``trbounds tightness``: searches, stored instances, and what happens when a bound is beaten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trbounds.bounds import all_bounds, get_bound
from trbounds.oracle import exact, profile_of
from trbounds.oracle import tightness as library
from trbounds_cli import progress
from trbounds_cli.commands import tightness as command

Run = Callable[..., Any]
QUICK = ("--evaluations", "150", "--T-max", "3")


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound a quarter of the right one: wrong even with the reward centred."""
    right = get_bound("classical")
    wrong = replace(right, formula=lambda profile: 0.25 * right.formula(profile))
    monkeypatch.setattr(command, "get_bound", lambda key: wrong)


def test_search_reports_the_ratio_of_the_instance_it_saves(run: Run) -> None:
    outcome = run("tightness", "classical", *QUICK, "--seed", 3, "--save", "found.json", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    (row,) = document["results"]
    assert (row["key"], row["seed"], row["evaluations"]) == ("classical", 3, 150)
    assert 2 <= row["T"] <= 3
    assert document["violated"] == document["changed"] == []
    (kept,) = library.load_tightness("found.json")
    truth = exact(kept.pair)
    value = get_bound("classical").evaluate(profile_of(truth))
    assert row["ratio"] == pytest.approx(abs(truth.error) / value, rel=1e-12)
    assert 0 < row["centred_ratio"] <= 1
    assert row["instance"]["reward"] == kept.pair.reward.tolist()
    again = run("tightness", "classical", *QUICK, "--seed", 3, "--json")
    assert json.loads(again.out)["results"] == document["results"]


def test_search_for_people(run: Run) -> None:
    outcome = run("tightness", "triangle", *QUICK)
    assert outcome.code == 0
    assert "holds" in outcome.out
    assert "VIOLATED" not in outcome.out


def test_a_beaten_bound_is_shouted(run: Run, halved: None) -> None:
    outcome = run("tightness", "classical", *QUICK)
    assert outcome.code == 1
    assert "VIOLATED" in outcome.out
    assert outcome.err.startswith("classical: VIOLATED, |Error| is ")
    assert outcome.err.rstrip().endswith("the bound is wrong")
    shown = run("tightness", "classical", *QUICK, "--json")
    assert shown.code == 1
    assert json.loads(shown.out)["violated"] == ["classical"]


def test_stored_instances_give_their_ratios_again(run: Run) -> None:
    outcome = run("tightness", "--stored", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(outcome.out)["results"]
    stored = {result.key: result for result in library.best_known()}
    assert [row["key"] for row in rows] == [key for key in all_bounds() if key in stored]
    for row in rows:
        known = stored[row["key"]]
        assert row["centred_ratio"] == pytest.approx(known.centred_ratio, rel=1e-9)
        assert not row["violates"]
    (one,) = json.loads(run("tightness", "classical", "--stored", "--json").out)["results"]
    assert one["centred_ratio"] == pytest.approx(1, abs=1e-9)


def test_a_changed_ratio_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [replace(r, centred_ratio=0.9 * r.centred_ratio) for r in library.best_known()[:1]]
    monkeypatch.setattr(library, "best_known", lambda: old)
    outcome = run("tightness", "--stored")
    assert outcome.code == 1
    assert f"CHANGED: {old[0].key}" in outcome.out


def test_progress_counts_every_instance(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        def __init__(self) -> None:
            self.steps: list[tuple[int, str]] = []

        def __enter__(self) -> Callable[[int, str], None]:
            return lambda done, what: self.steps.append((done, what))

        def __exit__(self, *stop: object) -> None:
            return None

    bar = Bar()
    monkeypatch.setattr(progress, "counting_progress", lambda what, total: bar)
    assert run("tightness", "triangle", "--evaluations", 100, "--T-max", 2).code == 0
    assert [done for done, _ in bar.steps] == list(range(1, 101))
    assert bar.steps[-1][1].startswith("triangle: 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tightness clasical", "no bound 'clasical'"),
        ("tightness --evaluations 10", "'--evaluations'"),
        ("tightness --T-max 1", "'--T-max'"),
        ("tightness --T-max x", "'--T-max'"),
        ("tightness --seed -1", "'--seed'"),
        ("tightness classical --save no/found.json", "no such folder"),
        ("tightness --stored --save found.json", "nothing to save"),
    ],
)
def test_bad_usage_is_one_line(run: Run, tmp_path: Path, words: str, message: str) -> None:
    outcome = run(*words.split())
    outcome.assert_refused(message)
    assert list(tmp_path.iterdir()) == []
