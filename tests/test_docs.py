"""The documentation says what the library does: generated parts are fresh, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from trbounds.bounds import all_bounds
from trbounds.traces import open_trace
from trbounds.traces.batch import SEQUENCE_FIELDS, TOKEN_FIELDS
from trbounds.traces.columns import ALIASES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
THEORY = ROOT / "docs" / "theory.md"
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("trbounds/**/*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_up_to_date(generator: ModuleType) -> None:
    text = THEORY.read_text(encoding="utf-8")
    assert generator.fill(text) == text, "run: make docs"


def test_derivations_are_up_to_date(generator: ModuleType) -> None:
    written = (ROOT / "docs" / "derivations.md").read_text(encoding="utf-8")
    assert generator.derivations() == written, "run: make docs"
    assert "FAILS" not in written


def test_every_table_has_its_place(generator: ModuleType) -> None:
    markers = re.findall(r"<!-- generated: ([\w-]+) -->", THEORY.read_text(encoding="utf-8"))
    assert sorted(markers) == sorted(generator.TABLES)


def test_a_stale_table_is_replaced_and_the_rest_kept(generator: ModuleType) -> None:
    stale = "a\n<!-- generated: paper-bounds -->\n| old |\n<!-- end -->\nb\n"
    fresh = generator.fill(stale)
    assert "old" not in fresh
    assert fresh.startswith("a\n<!-- generated: paper-bounds -->\n| bound |")
    assert fresh.endswith("<!-- end -->\nb\n")
    assert generator.fill(fresh) == fresh


def test_the_file_format_is_as_the_recipes_say(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (records,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "own.jsonl"
    file.write_text(records, encoding="utf-8")
    (batch,) = open_trace(str(file))
    assert batch.lengths.tolist() == [3, 2]
    assert batch.reward is not None
    assert batch.reward.tolist() == [1.0, 0.0]
    table = text[text.index("| field | entries |") :]
    kinds = {
        name: kind
        for names, kind in re.findall(r"^\| (`.*?) \| (tokens|one) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    expected = dict.fromkeys((*TOKEN_FIELDS, *ALIASES), "tokens")
    assert kinds == expected | dict.fromkeys(SEQUENCE_FIELDS, "one")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_bound_of_ours_is_explained() -> None:
    prose = re.sub(r"<!-- generated.*?<!-- end -->", "", THEORY.read_text("utf-8"), flags=re.DOTALL)
    ours = [key for key, bound in all_bounds().items() if not bound.source.is_paper]
    missing = [key for key in ours if f"**`{key}`**" not in prose]
    assert not missing, f"docs/theory.md lacks a line '- **`KEY`**: ...' for {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)", text)
    local = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []
