"""What commands print in a narrow terminal, and into a pipe."""

from __future__ import annotations

import io
import re
import sys

import pytest

from trbounds_cli import main
from trbounds_cli.output import print_table

NUMBERS = [f"-1.2345{i}e-05" for i in range(12)]
NAME = "a_row_with_a_long_name_that_says_what_it_is_of"


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Print into a terminal of some width."""

    def show(width: int, *table) -> list[str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        print_table(*table)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return show


@pytest.mark.parametrize("width", [30, 80, 120, 300])
def test_no_number_is_cut_whatever_the_width(terminal, width):
    columns = ["check", *(f"number {i}>" for i in range(12))]
    lines = terminal(width, "Title", columns, [[NAME, *NUMBERS]])
    words = [word for line in lines for word in line.split()]
    for number in NUMBERS:
        assert words.count(number) == 1
    assert max(map(len, lines)) <= max(width, 24 + max(map(len, NUMBERS)) + 5)
    # Every part of the table names its rows.
    tables = sum(line.strip().startswith("─") for line in lines)
    assert "".join(words).count(NAME[:24]) == tables
    assert (tables == 1) == (width == 300)


def test_a_table_that_fits_is_one_table_and_its_text_folds(terminal):
    words = "some words that take more than the columns that are left for them beside two numbers"
    lines = terminal(60, "Title", ["check", "first>", "second>"], [[words, "1.5", "-2.5"]])
    assert sum(line.strip().startswith("─") for line in lines) == 1
    assert max(map(len, lines)) <= 60
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    assert all(word in text for word in words.split())


def test_headings_fold_before_columns_move(terminal):
    columns = ["rule", "tokens kept by length>", "sequences that are accepted>"]
    lines = terminal(40, "Title", columns, [["a", "0.5", "0.25"]])
    assert sum(line.strip().startswith("─") for line in lines) == 1
    assert [line.split() for line in lines[2:6]] == [
        ["tokens"],
        ["kept", "sequences"],
        ["by", "that", "are"],
        ["rule", "length", "accepted"],
    ]


def test_a_pipe_gets_the_width_that_the_table_needs(capsys):
    columns = ["check", *(f"number {i}>" for i in range(8))]
    print_table("Title", columns, [[NAME, *NUMBERS[:8]]])
    row = next(line for line in capsys.readouterr().out.splitlines() if NAME in line)
    assert row.split() == [NAME, *NUMBERS[:8]]


def test_a_table_without_rows_has_its_headings(terminal):
    assert terminal(80, "Title", ["check", "value>"], [])[2].split() == ["check", "value"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_stream_that_lacks_a_letter_gets_its_number(monkeypatch, encoding):
    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as stop:
        main(["divergences", "--example"])
    stream.flush()
    assert not stop.value.code
    assert r"KL(rollout\u2016train)" in printed.getvalue().decode(encoding)
