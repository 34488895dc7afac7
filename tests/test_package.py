"""The package as a whole: what it exports, what importing it loads, who may import what."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import walk_packages
from shutil import copy

import pytest

import trbounds
from trbounds.traces import example_path

ROOT = Path(trbounds.__file__).parent
REPOSITORY = ROOT.parent
PACKAGES = {
    "trbounds": ROOT,
    "trbounds_cli": REPOSITORY / "cli" / "trbounds_cli",
    "trbounds_figures": REPOSITORY / "figures" / "trbounds_figures",
    "trbounds_paper_checks": REPOSITORY / "paper_checks" / "trbounds_paper_checks",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


def test_exported_names_exist_once() -> None:
    for module in [
        trbounds,
        *(
            import_module(m.name)
            for m in walk_packages(trbounds.__path__, "trbounds.")
            if not m.name.rpartition(".")[2].startswith("_")
        ),
    ]:
        names = getattr(module, "__all__", [])
        assert all(hasattr(module, name) for name in names), module.__name__
        assert len(set(names)) == len(names), module.__name__


def test_import_is_light() -> None:
    code = (
        "import sys, trbounds, trbounds.traces, trbounds.oracle\n"
        "heavy = {'sympy', 'mpmath', 'matplotlib', 'pyarrow', 'numba', 'dask', 'torch', 'cupy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "trbounds.all_bounds()\n"
        "assert 'sympy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def test_one_file_imports_the_array_dispatch() -> None:
    users = {p for p in SOURCES if any(m.startswith("array_api_compat") for m in _imports(p))}
    assert users == {ROOT / "arrays.py"}


@pytest.mark.parametrize("name", ["trbounds", "trbounds_figures", "trbounds_paper_checks"])
def test_nothing_imports_what_lies_to_its_right(name: str) -> None:
    order = ["trbounds", "trbounds_figures", "trbounds_paper_checks", "trbounds_cli"]
    right = set(order[1:]) - {name} if name == "trbounds" else {"trbounds_cli"}
    for path in PACKAGES[name].rglob("*.py"):
        assert not {m.split(".")[0] for m in _imports(path)} & right, path


def test_no_framework_and_no_unpickling() -> None:
    for path in SOURCES:
        imported = {m.split(".")[0] for m in _imports(path)}
        assert not imported & {"torch", "jax", "pandas"}, path
        assert not re.search(r"allow_pickle=True|pickle\.loads?\(", path.read_text("utf-8")), path


def test_lock_file_pins_by_hash_and_names_no_host() -> None:
    text = (REPOSITORY / "requirements.lock").read_text("utf-8")
    assert "://" not in text
    blocks = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 40
    assert all("--hash=sha256:" in block for block in blocks)


def test_a_wheel_holds_the_four_packages_and_their_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if "dist-info" not in name}
    assert tops == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert "trbounds/data/example.jsonl.gz" in names
    assert "trbounds_figures/trbounds.mplstyle" in names
    # Summaries that only tests read.
    assert not any(name.startswith("trbounds_figures/data/") for name in names)


def test_a_source_distribution_holds_what_make_and_the_tests_need(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        names = {name.partition("/")[2] for name in members.getnames()}
    assert {"Makefile", "requirements.lock", "tests/conftest.py", "docs/generate.py"} <= names
    assert "figures/trbounds_figures/data/truth.json" in names
    assert not any("__pycache__" in name or name.startswith(".venv") for name in names)


def test_every_package_that_is_imported_is_declared() -> None:
    """A name that is only there because another package needs it may go with that package."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in wanted}
    names = {"flint": "python_flint", "cupy": "cupy_cuda12x"}
    imported = {module.split(".")[0] for path in SOURCES for module in _imports(path)}
    others = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {names.get(name, name) for name in others} <= declared


@pytest.fixture
def beside_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a folder of logs in it."""
    (tmp_path / "logs").mkdir()
    copy(example_path(), tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("beside_logs")
def test_the_readme_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "README.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "classical 1677.31" in printed
    assert "nothing is violated: True\nl2 0.0037" in printed
    commands = re.findall(r"^trbounds (.+)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for words in commands:
        with pytest.raises(SystemExit) as stop:
            import_module("trbounds_cli").main(shlex.split(words, comments=True))
        assert not stop.value.code, words


JSON_ROWS = re.findall(
    r"^\| `trbounds (.+?)` \| (.+) \|$", (REPOSITORY / "docs/json.md").read_text("utf-8"), re.M
)


def test_every_command_has_its_json_documented() -> None:
    from trbounds_cli.overview import command_names

    assert {words.split()[0] for words, _ in JSON_ROWS} == set(command_names())


@pytest.mark.usefixtures("beside_logs")
@pytest.mark.parametrize(("words", "keys"), JSON_ROWS, ids=[words for words, _ in JSON_ROWS])
def test_json_has_the_keys_that_are_documented(
    capsys: pytest.CaptureFixture[str], words: str, keys: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        import_module("trbounds_cli").main([*shlex.split(words), "--json"])
    assert not stop.value.code
    assert list(json.loads(capsys.readouterr().out)) == re.findall(r"`(\w+)`", keys)
