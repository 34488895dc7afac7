"""Turn logits of two policies into exact divergences and a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds_cli.logits import Logits, UseExampleLogits, open_logits
from trbounds_cli.options import AsJson
from trbounds_cli.output import check_output, number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.logits import LogitsFile

Columns = dict[str, NDArray[np.float64]]

_TITLES = {
    "kl": "KL(rollout‖train)",
    "kl_reverse": "KL(train‖rollout)",
    "tv": "total variation",
    "chi2": "chi2(train‖rollout)",
    "entropy": "entropy of rollout",
    "max_abs_log_ratio": "largest |log ratio|",
    "unsupported_mass": "train mass where rollout has none",
}
_INTERVALS = (
    "Only the top k were logged, so these are intervals. Lower ends: the other tokens merged, into "
    "one or, where the policies logged different ones, two (data processing). Upper ends exist for "
    "the total variation only: an unlogged token may have any ratio. Both allow for the rounding "
    "of the logged numbers."
)


def command(
    logits: Logits = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a trace here; .parquet."),
    ] = None,
    precision: Annotated[
        Literal["float64", "float32"],
        typer.Option(help="Of the exponentials: divergences to 1e-10 or 1e-5 relative."),
    ] = "float64",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where to compute; auto takes a CUDA device where CuPy finds one."),
    ] = "auto",
    example: UseExampleLogits = False,
    json: AsJson = False,
) -> None:
    """Compute the divergences of two policies from logged logits, row by row.

    With `-o`, writes a canonical trace: log-probabilities of the sampled tokens, both KL
    directions, TV, chi2, entropy and the largest log-ratio. Top-k logs give intervals, and no
    trace.

    Example: `trbounds divergences logits.safetensors -o trace.parquet`

    Example: `trbounds divergences --example --json`
    """
    file = open_logits(logits, example=example)
    if not file.n:
        raise InputError("holds no rows, expected at least one", file=file.path)
    if file.is_top_k:
        _show_intervals(file, output, as_json=json)
        return
    columns = _compute(file, output, precision, device)
    facts = {name: _facts(columns[name]) for name in _TITLES}
    if json:
        print_json(
            {
                "logits": file.path,
                "rows": file.n,
                "vocabulary": file.vocabulary,
                "precision": precision,
                "trace": output,
                "left_out": [] if output is None else _left_out(columns),
                "divergences": facts,
            }
        )
        return
    print_table(
        f"{file.path}: {file.n} rows of {file.vocabulary} tokens (nats)",
        ["divergence", "mean>", "median>", "99 %>", "largest>", "in row>"],
        [
            [
                _TITLES[name],
                *(number(found[key]) for key in ("mean", "median", "quantile_99", "largest")),
                str(found["row"]),
            ]
            for name, found in facts.items()
        ],
        _notes(facts, columns, output),
    )


def _compute(file: LogitsFile, output: str | None, precision: Any, device: Any) -> Columns:
    from trbounds.logits import divergences_to_trace, file_divergences
    from trbounds_cli.progress import counting_progress

    if output is not None:
        check_output(output, ".parquet")
    with counting_progress("rows", file.n) as show:
        settings: dict[str, Any] = {
            "precision": precision,
            "device": device,
            "on_progress": show,
        }
        if output is None:
            return file_divergences(file, **settings)
        return divergences_to_trace(file, output, **settings)


def _facts(values: NDArray[np.float64]) -> dict[str, Any]:
    finite = np.isfinite(values)
    median, most = (float(np.quantile(values, q, method="inverted_cdf")) for q in (0.5, 0.99))
    return {
        "mean": float(values.mean()),
        "median": median,
        "quantile_99": most,
        "largest": float(values.max()),
        "row": int(values.argmax()),
        "infinite_rows": int(values.size - np.count_nonzero(finite)),
    }


def _notes(facts: dict[str, dict[str, Any]], columns: Columns, output: str | None) -> list[str]:
    notes = [
        f"{_TITLES[name]} is infinite in {found['infinite_rows']} rows: one policy excludes a "
        "token of the other"
        for name, found in facts.items()
        if found["infinite_rows"]
    ]
    if output is None:
        return notes
    if left_out := _left_out(columns):
        notes.append(f"left out of the trace, which holds finite numbers: {', '.join(left_out)}")
    return [*notes, f"trace: {output}"]


def _left_out(columns: Columns) -> list[str]:
    from trbounds.logits.trace import fits_trace

    return [name for name, values in columns.items() if not fits_trace(name, values)]


def _show_intervals(file: LogitsFile, output: str | None, *, as_json: bool) -> None:
    from trbounds.logits import top_k_divergences

    if output is not None:
        raise InputError(
            "holds top-k log-probabilities, which give intervals; a trace needs full logits",
            file=file.path,
        )
    parts = list(top_k_divergences(file))
    found = {
        name: {
            f"{end}_{what}": float(reduce(values))
            for end in ("lower", "upper")
            for values in [np.concatenate([getattr(getattr(p, end), name) for p in parts])]
            for what, reduce in (("mean", np.mean), ("largest", np.max))
        }
        for name in _TITLES
    }
    if as_json:
        print_json(
            {"logits": file.path, "rows": file.n, "intervals": True, "note": _INTERVALS}
            | {"divergences": found}
        )
        return
    print_table(
        f"{file.path}: {file.n} rows of top-k log-probabilities (nats)",
        ["divergence", "mean is at least>", "at most>", "largest is at least>", "at most>"],
        [
            [
                _TITLES[name],
                *(
                    number(ends[key])
                    for key in ("lower_mean", "upper_mean", "lower_largest", "upper_largest")
                ),
            ]
            for name, ends in found.items()
        ],
        [_INTERVALS],
    )
