"""Running the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from trbounds_cli import main


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    def assert_refused(self, *parts: str) -> None:
        """One line on stderr that names the place; nothing on stdout; no traceback."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("trbounds: error: ")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err


@pytest.fixture
def trbounds(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``trbounds WORDS`` and return exit code, stdout and stderr."""

    def run(*words: str) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main(words)
        captured = capsys.readouterr()
        return Outcome(stop.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def run(
    trbounds: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """The same in an empty folder, so that what is written is seen; words may be any objects."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: trbounds(*map(str, words))
