"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from trbounds.profile import FIELDS, POSITION_FIELDS, Conversion, DivergenceProfile

Horizon = Annotated[int, typer.Option("--T", metavar="N", help="Horizon: the longest response.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ConversionOption = Annotated[
    Conversion,
    typer.Option(help="How a KL becomes a TV: Pinsker's inequality, or the exact largest TV."),
]
Example = Annotated[
    bool, typer.Option("--example", help="Use the small real trace that ships with trbounds.")
]
RewardRange = Annotated[
    tuple[float, float],
    typer.Option(metavar="LOW HIGH", help="Smallest and largest reward; bounds scale with it."),
]
Traces = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TRACE",
        help="Files, directories or patterns of logged sequences, or saved summaries (.tbs).",
        show_default=False,
    ),
]
TokenTraces = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TRACE",
        help="Files, directories or patterns of logged sequences.",
        show_default=False,
    ),
]
TraceFormat = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Format of the traces; by default detected."),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="Stop at the first bad record, or leave it out and say so."),
]


def profile_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per scalar field of a profile, and pass it the known ones.

    The command's parameter ``known`` is replaced by the options ``--kl-max``, ``--kl-seq`` and so
    on, each with the meaning of its field as help, and receives a dict of those that were given.
    """
    names = [name for name in FIELDS if name not in POSITION_FIELDS]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        known = {name: given.pop(name) for name in names}
        command(known={k: v for k, v in known.items() if v is not None}, **given)

    own = inspect.signature(command, eval_str=True).parameters
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                float | None,
                typer.Option(
                    metavar="X",
                    help=f"{FIELDS[name][0].upper()}{FIELDS[name][1:]}.",
                    rich_help_panel="What is known of the policies (nats)",
                ),
            ],
        )
        for name in names
    ]
    rest = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values() if p.name != "known"
    ]
    parameters = [*rest[:1], *fields, *rest[1:]]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def make_profile(
    T: int,
    known: dict[str, Any],
    reward_range: tuple[float, float] = (0.0, 1.0),
    conversion: Conversion = "pinsker",
) -> DivergenceProfile:
    """Return the profile that a command's options describe."""
    return DivergenceProfile(T=T, **known, reward_range=reward_range, conversion=conversion)
