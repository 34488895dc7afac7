"""What the commands on masks share: statistics of a command line's traces, and tables."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.output import number

if TYPE_CHECKING:
    from trbounds.masking import Bin, Guarantee
    from trbounds.traces import TraceSummary

LENGTH_COLUMNS = ["length", "sequences>", "accepted>", "s.e.>", "expected>", "tokens kept>"]

KlMax = Annotated[
    float | None,
    typer.Option(metavar="X", help="Largest token KL, for LN-TRM; by default as observed."),
]
TvMax = Annotated[
    float | None,
    typer.Option(metavar="X", help="Largest token TV, for LN-TRM; by default as observed."),
]


def check_tokens(
    names: Iterable[str], traces: list[str] | None, summary: TraceSummary | None = None
) -> None:
    """Refuse what cannot be read twice where the tokens are needed.

    Before anything is read, and with its summary again: whether clamped statistics need the
    tokens depends on the trace.

    Raises
    ------
    InputError
        For standard input or a saved summary.
    """
    from trbounds.masking import needs_tokens

    once = read_once(traces)
    if once is not None and needs_tokens(names, summary):
        raise InputError("this rule reads the tokens twice, expected a trace file", file=once)


def read_once(traces: list[str] | None) -> str | None:
    """Return the first path whose tokens cannot be read again, if any: stdin, or a summary."""
    return next((path for path in traces or [] if path == "-" or path.endswith(".tbs")), None)


def statistics_of(
    summary: TraceSummary,
    names: Iterable[str],
    traces: list[str] | None,
    *,
    kl_max: float | None,
    tv_max: float | None,
    example: bool,
    **reading: Any,
) -> dict[str, Any]:
    """Compute statistics of the sequences; read the tokens once more only where they are needed."""
    from trbounds.masking import compute_statistics, needs_tokens
    from trbounds_cli.tracing import read_batches

    names = list(names)
    check_tokens(names, traces, summary)
    batches = None
    if needs_tokens(names, summary):
        batches = read_batches(traces, example=example, **reading)
    try:
        return compute_statistics(summary, names, batches, kl_max=kl_max, tv_max=tv_max)
    except InputError as error:
        if error.field in ("kl_max", "tv_max"):
            raise InputError(error.problem, field=f"--{error.field.replace('_', '-')}") from None
        raise


def percent(share: float) -> str:
    """Format a share; that of no token is none."""
    return "-" if isnan(share) else f"{share:.1%}"


def length_rows(bins: Iterable[Bin]) -> list[list[str]]:
    """Rows of a table of acceptance by length."""
    return [
        [
            f"{part.lowest:.0f} to {part.highest:.0f}",
            str(part.n_sequences),
            f"{part.share.value:.1%}",
            f"{part.share.error:.1%}",
            "-" if part.expected is None else f"{part.expected:.1%}",
            percent(part.kept.value),
        ]
        for part in bins
    ]


def guarantee_note(found: Guarantee, summary: TraceSummary, at_variance: str = "") -> str:
    """Say what a rule proves of the error, or that it proves nothing."""
    word = "plug-in, nothing is proved" if found.plug_in else "proved"
    low, high = summary.reward_range
    # Two mean rewards are never further apart.
    nothing = ", no less than the reward range: it says nothing" * (found.value >= high - low)
    return (
        f"{word}: |Error| <= {number(found.value)} for any reward{at_variance} ({found.bound})"
        f"{nothing}, of {found.covers}"
    )
