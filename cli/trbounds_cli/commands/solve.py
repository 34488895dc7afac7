"""Invert the bounds: the divergence that a budget allows."""

from __future__ import annotations

from typing import Annotated

import typer

from trbounds.bounds import all_bounds
from trbounds.errors import InputError, MissingField
from trbounds.solve import SOLVABLE, certifiable_radius, largest_divergence, solvable_profile
from trbounds_cli.options import AsJson, ConversionOption, Horizon, profile_options
from trbounds_cli.output import number, print_json, print_table


@profile_options
def command(
    T: Horizon,
    known: dict[str, float],
    budget: Annotated[
        float | None, typer.Option(metavar="X", help="Largest tolerated |Error|.")
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Largest token KL at which a bound can certify.")
    ] = False,
    field: Annotated[
        str, typer.Option("--for", metavar="FIELD", help=f"One of {', '.join(SOLVABLE)}.")
    ] = "kl_max",
    chi2_per_kl: Annotated[
        float,
        typer.Option(metavar="C", help="With --certify: assume chi2_max = C kl_max (2 if small)."),
    ] = 2.0,
    conversion: ConversionOption = "pinsker",
    json: AsJson = False,
) -> None:
    """Find, for each bound, the largest divergence that a budget allows.

    The divergence is spread evenly over the positions. With `--certify` it is the token KL below
    which the bound can certify improvement, at sequence KL = T times it.

    Example: `trbounds solve --T 8192 --budget 0.1`

    Example: `trbounds solve --T 8192 --certify`
    """
    if certify == (budget is not None):
        raise InputError("give either --budget X or --certify")
    _refuse_unused(known, certify, field)
    rows: list[tuple[str, float | None, str]] = []
    for bound in all_bounds().values():
        try:
            if budget is None:
                value = certifiable_radius(
                    bound,
                    T,
                    chi2_per_kl=chi2_per_kl,
                    reward_var=known.get("reward_var"),
                    conversion=conversion,
                )
            else:
                value = largest_divergence(
                    bound,
                    lambda x: solvable_profile(T, field, x, known, conversion),
                    budget,
                    largest=1.0 if field.startswith("tv") else 1e3,
                )
            rows.append((bound.key, value, str(bound.source)))
        except MissingField:
            rows.append((bound.key, None, str(bound.source)))
    solved = "certifiable_radius" if certify else field
    if json:
        question = {"certify": True, "chi2_per_kl": chi2_per_kl} if certify else {"budget": budget}
        print_json(
            {
                "T": T,
                **question,
                "for": "kl_max" if certify else field,
                "bounds": [{"key": k, solved: v, "source": s} for k, v, s in rows],
            }
        )
        return
    title = (
        f"Largest token KL at which a bound can certify, T = {T}, chi2_max = {chi2_per_kl:g} kl_max"
        if certify
        else f"Largest {field} that keeps |Error| within {budget:g}, T = {T}"
    )
    print_table(
        title,
        ["bound", f"{field}>", "source"],
        [[k, number(v), s] for k, v, s in sorted(rows, key=lambda r: -(r[1] or -1.0))],
        [
            "-: the bound needs a quantity that is not given.   "
            + (
                "inf: it can certify at every token KL.   0: it never can."
                if certify
                else "inf: the budget is never exceeded."
            )
        ],
    )


def _refuse_unused(known: dict[str, float], certify: bool, field: str) -> None:
    for name in known:
        if certify and name != "reward_var":
            raise InputError(
                "not used with --certify, which takes --reward-var alone and the rest from the "
                "token KL",
                field=name,
            )
        if not certify and name == field:
            raise InputError(f"not used: --for {field} asks for its largest value", field=name)
