"""The Typer application, made of the one command that is asked for."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from trbounds.errors import InputError, TrboundsError
from trbounds_cli.overview import command_names

_HELP = ["-h", "--help"]

_OPTIONS = {"target": "--target-acceptance", "family": "--rule-family", "out": "--output"}
"""Options with another name than the setting of the library."""


def make_app(names: Sequence[str]) -> typer.Typer:
    """Return an application with the given commands; each file's ``command`` is registered."""
    app = typer.Typer(
        name="trbounds",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": _HELP},
    )

    @app.callback()
    def trbounds() -> None:
        """Bounds on the error of an RL surrogate under two policies."""

    for name in names:
        module = import_module(f"trbounds_cli.commands.{name}")
        app.command(name)(module.command)
    return app


def run(words: Sequence[str], *, everything: bool = False) -> int:
    """Run one command line.

    Parameters
    ----------
    words : sequence of str
        The words after ``trbounds``.
    everything : bool
        Register all commands (for shell completion) instead of the one asked for.

    Returns
    -------
    int
        The exit code: 0, 1 or 2.
    """
    names = command_names()
    if not everything and (not words or words[0] not in names):
        return _refuse(f"no command '{words[0]}'" + _suggestion(words[0], names))
    group: Any = get_command(make_app(names if everything else [words[0]]))
    command = None if everything else group.commands[words[0]]
    try:
        if command is not None:
            _plain_flags(command)
        code = group(args=list(words), prog_name="trbounds", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as usage:
        return _refuse(f"{usage.format_message()} (see 'trbounds {words[0]} --help')")
    except InputError as problem:
        return _refuse(f"{_by_option(problem, command)}{_way_on(problem)}")
    except TrboundsError as problem:
        return _refuse(str(problem))
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        return _refuse(f"{place}{problem.strerror or problem}")
    return code if isinstance(code, int) else 0


def _refuse(problem: str) -> int:
    sys.stderr.write(f"trbounds: error: {problem}\n")
    return 2


def _plain_flags(command: Any) -> None:
    """Take the type from the help of flags: they take no value."""
    context = typer.Context(command, help_option_names=_HELP)
    for option in (*command.params, command.get_help_option(context)):
        if getattr(option, "is_flag", False):
            option.metavar = " "


def _by_option(problem: InputError, command: Any) -> InputError:
    """Name a setting as the command line does, by its option."""
    name = problem.field or ""
    option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
    known = () if command is None else (name for p in command.params for name in p.opts)
    if problem.file is not None or option not in known:
        return problem
    return InputError(problem.problem, field=option)


def _way_on(problem: InputError) -> str:
    # Rewards, by the name that the format has for them.
    if problem.field in ("reward", "rewards") and "expected a number in" in problem.problem:
        return " (see --reward-range)"
    # Notes are on faults of records and files that reading can go on after.
    return " (--on-error skip leaves it out)" if getattr(problem, "__notes__", ()) else ""


def _suggestion(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; see 'trbounds --help'"
