"""What commands print in a narrow terminal, and into a pipe."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import subprocess
import sys

import pytest

from trbounds.bounds import all_bounds
from trbounds.traces import example_path
from trbounds_cli import main
from trbounds_cli.output import number, print_table

NUMBERS = [f"-1.2345{i}e-05" for i in range(12)]
KEYS = list(all_bounds())
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
    for cell in NUMBERS:
        assert words.count(cell) == 1
    assert max(map(len, lines)) <= max(width, 28 + max(map(len, NUMBERS)) + 5)
    # Every part of the table names its rows.
    tables = sum(line.strip().startswith("─") for line in lines)
    assert "".join(words).count(NAME[:28]) == tables
    assert (tables == 1) == (width == 300)


def test_a_table_that_fits_is_one_table_and_its_text_folds(terminal):
    words = "some words that take more than the columns that are left for them beside two numbers"
    lines = terminal(60, "Title", ["check", "first>", "second>"], [[words, "1.5", "-2.5"]])
    assert sum(line.strip().startswith("─") for line in lines) == 1
    assert max(map(len, lines)) <= 60
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    assert all(word in text for word in words.split())


def test_keys_are_never_folded(terminal):
    columns = ["bound", "value>", "s.e.>", "informative"]
    rows = [[key, "1.50000", "1.5e-06", "yes"] for key in KEYS]
    lines = terminal(60, "Title", columns, rows)
    assert {line.split()[0] for line in lines if line.strip()} >= set(KEYS)


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


RUN = [sys.executable, "-c", "from trbounds_cli import main; main()"]


@pytest.fixture
def no_reader():
    """A pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("bound --help", 0),
        ("bound --T 8 --kl-max 1", 0),
        ("bound --T 8 --kl-max 1 --json", 0),
        ("bound --T 0", 2),
        ("verify fault.jsonl", 1),
    ],
)
def test_a_pipe_that_closes_early_changes_no_exit_code(tmp_path, no_reader, words, code):
    with gzip.open(example_path(), "rt") as stream:
        rows = [json.loads(line) for line in stream][:16]
    for row in rows:
        row["train_logprobs"] = row["rollout_logprobs"]
    (tmp_path / "fault.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [*RUN, *words.split()]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=no_reader, stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count(b"\n") == (code == 2)


def test_output_that_finds_no_room_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    command = [*RUN, "bound", "--T", "8", "--kl-max", "1", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("trbounds: error: ")
    assert done.stderr.count(b"\n") == 1


def test_numbers_have_their_sign_unless_they_are_zero():
    found = [number(value) for value in (-0.0, 0.0, -math.inf, math.inf, -1.25, math.nan, None)]
    assert found == ["0", "0", "-inf", "inf", "-1.25", "-", "-"]


@pytest.mark.parametrize(("words", "code"), [("bound --T 8 --kl-max 1", 0), ("bound --T 0", 2)])
def test_without_streams_the_exit_code_is_the_same(monkeypatch, words, code):
    # What Python makes of `>&-`.
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    sys.stdout.close()
    sys.stderr.close()
    assert (stop.value.code or 0) == code
