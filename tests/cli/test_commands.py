"""The commands on bounds and papers: output, exit codes, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import trbounds_cli
from trbounds import rendering
from trbounds.bounds import all_bounds
from trbounds_cli.overview import command_names, overview, summary
from trbounds_paper_checks import Verdict, run_checks

Run = Callable[..., object]
COMMANDS = Path(trbounds_cli.__file__).parent / "commands"


def test_overview_lists_every_command() -> None:
    files = {p.stem for p in COMMANDS.glob("*.py") if p.stem != "__init__"}
    assert set(command_names()) == files
    assert all(summary(name) in overview() for name in files)


def test_overview_fits_a_terminal() -> None:
    assert max(map(len, overview().splitlines())) <= 80


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_overview_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom trbounds_cli import main\n"
        f"try: main({list(words)!r})\nexcept SystemExit as stop: code = stop.code\n"
        "assert code == 0\n"
        "heavy = {'typer', 'numpy', 'sympy', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trbounds plot --T 8192" in done.stdout


def test_bound_imports_neither_sympy_nor_matplotlib() -> None:
    code = (
        "import sys\nfrom trbounds_cli import main\n"
        "try: main(['bound', '--T', '64', '--kl-max', '1e-4'])\nexcept SystemExit: pass\n"
        "assert not {'sympy', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "entropy_dual" in done.stdout


@pytest.mark.parametrize("name", command_names())
def test_help_teaches_by_example(trbounds: Run, name: str) -> None:
    outcome = trbounds(name, "--help")
    assert outcome.code == 0
    assert f"trbounds {name}" in outcome.out
    assert "Example" in outcome.out


def test_version(trbounds: Run) -> None:
    assert trbounds("--version").out.startswith("trbounds 0.")


def test_unknown_command_suggests(trbounds: Run) -> None:
    outcome = trbounds("bond")
    assert outcome.code == 2
    assert outcome.err == "trbounds: error: no command 'bond'; did you mean 'bound'?\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bound", "--T", "0", "--kl-max", "1e-4"), "field '--T': found 0"),
        (("bound", "--T", "x", "--kl-max", "1e-4"), "'--T'"),
        (("bound", "--kl-max", "1e-4"), "--T"),
        (("bound", "--T", "8", "--kl-max", "-1"), "field '--kl-max': found -1"),
        (("bound", "--T", "8", "--kl-max", "nan"), "expected a finite number"),
        (("bound", "--T", "8", "--kl-max", "inf"), "expected a finite number"),
        (("bound", "--T", "8", "--tv-max", "2"), "at most 1"),
        (("bound", "--T", "8"), "give at least one"),
        (("bound", "--T", "8", "--kl-max", "1", "--reward-range", "1", "0"), "--reward-range"),
        (("verify", "--example", "--reward-range", "0", "1e200"), "'--reward-range': found (0, 1"),
        (("bound", "--T", "8", "--kl-max", "1", "--conversion", "best"), "'--conversion'"),
        (("bound", "--T", "8", "--log-ratio-max", "1"), "no bound can be evaluated"),
        (("derive", "clasical"), "no bound or law 'clasical'"),
        (("derive",), "give one bound's or law's KEY, or --all"),
        (("solve", "--T", "8"), "either --budget"),
        (("solve", "--T", "8", "--budget", "-1"), "expected a positive number"),
        (("solve", "--T", "8", "--budget", "1", "--for", "entropy"), "expected one of kl_max"),
        (("plot", "--T", "1"), "field '--T'"),
        (("plot", "--T", "64", "--only", "nothing"), "no bound 'nothing'"),
        (("plot", "--T", "64", "--out", "picture.bmp"), "picture.bmp"),
        (("figures", "nothing"), "no figure 'nothing'"),
        (("table", "--paper", "trm-v9"), "no paper 'trm-v9'"),
        (("check", "--paper", "trm-v9"), "no paper 'trm-v9'"),
    ],
)
def test_bad_usage_is_one_line(
    run: Run, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    run(*words).assert_refused(message)
    assert list(tmp_path.iterdir()) == []


def test_bound_json_at_the_headline_point(trbounds: Run) -> None:
    outcome = trbounds("bound", "--T", "4096", "--kl-max", "1e-4", "--kl-seq", "0.01", "--json")
    document = json.loads(outcome.out)
    found = {row["key"]: row for row in document["bounds"]}
    for key, value in {
        "classical": 1677.312,
        "pinsker_marginal": 34.946,
        "mixed": 8.192,
        "coupling": 113.838,
        "cauchy_schwarz": 2.89596,
        "entropy_dual": 0.148239,
    }.items():
        assert found[key]["value"] == pytest.approx(value, rel=2e-5)
    assert found["pinsker_marginal"]["relaxed_value"] == pytest.approx(34.95253, rel=1e-6)
    assert found["mixed"]["centred_value"] == pytest.approx(4.096)
    smallest = min(document["bounds"], key=lambda row: row["value"])
    assert document["best"] == {"key": smallest["key"], "value": smallest["value"]}
    assert smallest["value"] < 0.1
    assert document["profile"]["kl_max"] == {"value": 1e-4, "kind": "given", "plug_in": False}
    assert document["profile"]["tv_max"]["kind"] == "derived"
    assert {"key", "value", "source", "kind", "informative", "can_certify"} <= set(found["mixed"])
    assert not found["mixed"]["informative"]
    assert found["entropy_dual"]["informative"]
    assert not found["entropy_dual"]["can_certify"]


def test_bound_with_a_negative_reward_range(trbounds: Run) -> None:
    words = ("bound", "--T", "64", "--kl-max", "1e-4", "--json")
    unit = json.loads(trbounds(*words).out)["best"]["value"]
    wide = json.loads(trbounds(*words, "--reward-range", "-1", "3").out)["best"]["value"]
    assert wide == pytest.approx(4 * unit)


def test_sharp_conversion_is_smaller(trbounds: Run) -> None:
    words = ("bound", "--T", "64", "--kl-max", "0.5", "--json")
    pinsker, sharp = (
        {row["key"]: row["value"] for row in json.loads(trbounds(*words, *more).out)["bounds"]}
        for more in ((), ("--conversion", "sharp"))
    )
    assert sharp["mixed"] < pinsker["mixed"]


def test_bounds_lists_all(trbounds: Run) -> None:
    rows = json.loads(trbounds("bounds", "--json").out)["bounds"]
    assert [row["key"] for row in rows] == list(all_bounds())
    assert all(row["statement"] and row["order"] and row["source"] for row in rows)
    assert "pinsker_marginal" in trbounds("bounds").out


def test_derive(trbounds: Run) -> None:
    outcome = trbounds("derive", "mixed")
    assert outcome.code == 0
    assert "because" in outcome.out
    assert "Lemma pinsker" in outcome.out
    assert trbounds("derive", "mixed", "--check").out.startswith("holds  mixed")
    assert r"\begin{enumerate}" in trbounds("derive", "mixed", "--format", "latex").out
    assert json.loads(trbounds("derive", "mixed", "--json").out)["derivations"][0]["holds"]


@pytest.mark.parametrize(
    ("key", "claim"),
    [
        ("envelope", "-Delta <= log(p + (1 - p) exp(2 a))"),
        ("sequence_tv", "TV(P_pruned,P_full) = 1 - E_pruned[prod Z]"),
    ],
)
def test_derive_a_law(trbounds: Run, key: str, claim: str) -> None:
    out = trbounds("derive", key).out
    assert claim in out
    assert "Error" not in out
    assert trbounds("derive", key, "--check").out.startswith(f"holds  {key}")


def test_derive_exits_1_when_a_step_fails(trbounds: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original = rendering.as_document
    monkeypatch.setattr(rendering, "as_document", lambda bound: {**original(bound), "holds": False})
    assert trbounds("derive", "linear", "--check").code == 1


def test_solve(trbounds: Run) -> None:
    document = json.loads(trbounds("solve", "--T", "8192", "--budget", "0.1", "--json").out)
    found = {row["key"]: row["kl_max"] for row in document["bounds"]}
    assert 0 < found["classical"] < found["pinsker_marginal"] < found["entropy_dual"]
    certify = json.loads(trbounds("solve", "--T", "4096", "--certify", "--json").out)
    radii = {row["key"]: row["certifiable_radius"] for row in certify["bounds"]}
    assert radii["pinsker_marginal"] == pytest.approx(1.7036e-8, rel=1e-4)
    assert radii["entropy_dual"] == 0
    assert "7.52" in trbounds("solve", "--T", "4096", "--certify").out


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--certify", "--kl-max", "1e-3"), "--kl-max"),
        (("--certify", "--tv-seq", "0.1", "--reward-var", "0.1"), "--tv-seq"),
        (("--budget", "0.1", "--kl-max", "1e-3"), "--kl-max"),
        (("--budget", "0.1", "--for", "tv_max", "--tv-max", "0.1"), "--tv-max"),
    ],
)
def test_solve_takes_nothing_that_it_would_not_use(
    trbounds: Run, arguments: tuple[str, ...], option: str
) -> None:
    outcome = trbounds("solve", "--T", "100", *arguments)
    assert outcome.code == 2
    assert not outcome.out
    assert f"field '{option}'" in outcome.err


def test_plot_writes_the_file_and_a_table(trbounds: Run, tmp_path: Path) -> None:
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"bounds.{suffix}"
        outcome = trbounds("plot", "--T", "8192", "--out", str(path))
        assert outcome.code == 0
        assert outcome.out.startswith(str(path))
        assert "classical" in outcome.out
        assert path.read_bytes().startswith(start)
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".svg", ".pdf"}


def test_figures(trbounds: Run, tmp_path: Path) -> None:
    outcome = trbounds("figures", "estimators", "acceptance", "--out", str(tmp_path / "made"))
    assert outcome.code == 0
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "acceptance.png",
        "estimators.png",
    ]
    assert "horizon" in trbounds("figures", "--list").out


def test_table_and_check(trbounds: Run) -> None:
    assert "1677" in trbounds("table", "--paper", "trm-v2").out
    without = trbounds("table", "--paper", "dvp").out
    assert without == "dvp prints no number; its claims: trbounds check --paper dvp\n"
    outcome = trbounds("check", "--paper", "trm-v2", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["as_recorded"]
    assert {claim["verdict"] for claim in document["claims"]} == {"holds", "rounding", "refuted"}


def test_check_for_people_fails_where_a_verdict_differs(
    trbounds: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = trbounds("check", "--paper", "dvp")
    assert outcome.code == 0
    assert "6 claims; 0 verdicts differ" in outcome.out
    judged = run_checks(["dvp"])
    judged[0] = replace(judged[0], verdict=Verdict.REFUTED)
    monkeypatch.setattr("trbounds_paper_checks.run_checks", lambda paper: judged)
    outcome = trbounds("check")
    assert outcome.code == 1
    assert "6 claims; 1 verdicts differ" in outcome.out
    assert "(recorded:" in outcome.out
