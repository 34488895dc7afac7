"""Running the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from trbounds_cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def trbounds(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``trbounds WORDS`` and return exit code, stdout and stderr."""

    def run(*words: str) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main(words)
        captured = capsys.readouterr()
        return Outcome(stop.value.code or 0, captured.out, captured.err)

    return run
