"""Apply masking rules to logged traces: what they accept, at which lengths, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trbounds.errors import InputError
from trbounds_cli.options import AsJson, OnError, RewardRange, TraceFormat, Traces
from trbounds_cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from trbounds.masking import MaskEffect
    from trbounds.traces import TraceSummary

RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="NAME=X",
        help="Accept sequences that score at most X; repeat to combine rules. See --list.",
    ),
]


def command(
    traces: Traces = None,
    rules: RuleOption = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try thresholds that accept 10 % to 100 %.")
    ] = False,
    show_rules: Annotated[bool, typer.Option("--list", help="List the rules.")] = False,
    kl_max: Annotated[
        float | None,
        typer.Option(metavar="X", help="Largest token KL, for LN-TRM; by default as observed."),
    ] = None,
    tv_max: Annotated[
        float | None,
        typer.Option(metavar="X", help="Largest token TV, for LN-TRM; by default as observed."),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Use the small real trace that ships with trbounds.")
    ] = False,
    form: TraceFormat = None,
    reward_range: RewardRange = (0.0, 1.0),
    on_error: OnError = "fail",
    json: AsJson = False,
) -> None:
    """Accept or mask whole sequences by a rule, and show what that does.

    Share accepted, by length, the masked surrogate (divided by the batch size), and for a cap on
    a path sum what it proves of the error.

    Example: `trbounds mask --example --rule trm_max=0.005`

    Example: `trbounds mask run.parquet --rule path_sum_chi2 --sweep`
    """
    from trbounds.masking import RULES, mask
    from trbounds.masking import sweep as sweep_rule
    from trbounds_cli.tracing import read_summary

    if show_rules:
        _list(as_json=json)
        return
    wanted = _parse(rules, sweep=sweep)
    reading: dict[str, Any] = {
        "form": form,
        "reward_range": reward_range,
        "on_error": on_error,
    }
    summary = read_summary(traces, example=example, **reading)
    scores = {
        key: _token_scores(traces, summary, key, kl_max, tv_max, example=example, **reading)
        for key in wanted
        if RULES[key].score is None
    }
    if sweep:
        (key,) = wanted
        effects = sweep_rule(summary, key, scores=scores)
    else:
        given = {key: threshold for key, threshold in wanted.items() if threshold is not None}
        effects = [mask(summary, given, scores=scores)]
    if json:
        documents = [effect.to_dict() for effect in effects]
        print_json({"sweep": documents} if sweep else documents[0])
    elif sweep:
        _show_sweep(effects)
    else:
        _show(effects[0])


def _parse(rules: list[str] | None, *, sweep: bool) -> dict[str, float | None]:
    from trbounds.masking import get_rule

    wanted: dict[str, float | None] = {}
    for text in rules or []:
        key, equals, value = text.partition("=")
        get_rule(key)
        if bool(equals) == sweep:
            raise InputError(
                f"found {text!r}, expected {'a name alone' if sweep else 'NAME=X'}", field="--rule"
            )
        try:
            wanted[key] = float(value) if equals else None
        except ValueError:
            raise InputError(f"found {value!r}, expected a number", field="--rule") from None
    if not wanted or (sweep and len(wanted) > 1):
        raise InputError(f"expected {'one rule' if sweep else 'a rule'}", field="--rule")
    return wanted


def _token_scores(
    traces: list[str] | None,
    summary: TraceSummary,
    key: str,
    kl_max: float | None,
    tv_max: float | None,
    *,
    example: bool,
    form: str | None,
    reward_range: tuple[float, float],
    on_error: str,
) -> Any:
    """Score by LN-TRM, which reads the tokens once more."""
    from trbounds.masking import length_neutral_scores
    from trbounds.traces import example_path, expand_paths, open_trace

    paths = [example_path()] if example else expand_paths(traces or [])
    if any(path == "-" or path.endswith(".tbs") for path in paths):
        raise InputError(f"rule '{key}' reads the tokens twice, expected files of tokens")
    limits = []
    for name, given in (("kl", kl_max), ("tv", tv_max)):
        observed = summary.extremes.get(f"{name}_max") if summary.has(name) else None
        if given is None and observed is None and (name == "kl" or key == "ln_trm_tv"):
            raise InputError("not logged, and not given", field=f"--{name}-max")
        limits.append(given if given is not None else observed.value if observed else None)
    batches = open_trace(paths, form, reward_range=reward_range, on_error=on_error)
    return length_neutral_scores(
        batches,
        T=summary.T,
        kl_max=limits[0] or 0.0,
        tv_max=limits[1] if key == "ln_trm_tv" else None,
    )


def _list(*, as_json: bool) -> None:
    from trbounds.masking import RULES

    if as_json:
        print_json(
            {
                "rules": [
                    {"key": r.key, "score": r.title, "source": r.source, "needs": list(r.needs)}
                    for r in RULES.values()
                ]
            }
        )
        return
    print_table(
        "Masking rules: a sequence is accepted when its score is at most the threshold",
        ["rule", "score", "needs", "source"],
        [[r.key, r.title, ", ".join(r.needs) or "-", r.source] for r in RULES.values()],
    )


def _show(effect: MaskEffect) -> None:
    rules = ", ".join(f"{key} <= {threshold:g}" for key, threshold in effect.thresholds.items())
    notes = [
        f"accepted: {effect.accepted_share:.2%} of {effect.accept.size} sequences, "
        f"{effect.accepted_token_share:.2%} of their tokens",
        f"PPL gap: {number(effect.ppl_gap)} nats of all, {number(effect.accepted_ppl_gap)} of "
        "accepted sequences",
    ]
    for title, estimate in (
        ("masked surrogate", effect.surrogate),
        ("surrogate of all", effect.unmasked_surrogate),
    ):
        if estimate is not None:
            notes.append(f"{title} = {number(estimate.value)}, s.e. {number(estimate.error)}")
    if effect.guarantee is not None:
        proved = effect.guarantee
        notes.append(
            f"proved: |Error| <= {number(proved.value)} for any reward"
            + (
                ""
                if proved.value_for_reward is None
                else f", {number(proved.value_for_reward)} at this reward's variance (plug-in)"
            )
            + f" ({proved.bound}), of {proved.covers}"
        )
    print_table(
        f"Mask by {rules}",
        ["length", "sequences>", "accepted>"],
        [
            [f"{b.shortest} to {b.longest}", str(b.n_sequences), f"{b.accepted_share:.1%}"]
            for b in effect.by_length
        ],
        notes,
    )


def _show_sweep(effects: list[MaskEffect]) -> None:
    proved = effects[0].guarantee is not None
    rows = []
    for effect in effects:
        (threshold,) = effect.thresholds.values()
        surrogate = effect.surrogate
        row = [
            number(threshold),
            f"{effect.accepted_share:.1%}",
            f"{effect.by_length[0].accepted_share:.1%}",
            f"{effect.by_length[-1].accepted_share:.1%}",
            number(None if surrogate is None else surrogate.value),
            number(None if surrogate is None else surrogate.error),
        ]
        rows.append([*row, number(effect.guarantee.value)] if effect.guarantee else row)
    (rule,) = effects[0].thresholds
    shortest, longest = effects[0].by_length[0], effects[0].by_length[-1]
    columns = ["threshold>", "accepted>", "of shortest>", "of longest>", "surrogate>", "s.e.>"]
    notes = [
        f"shortest: {shortest.shortest} to {shortest.longest} tokens; longest: "
        f"{longest.shortest} to {longest.longest}; surrogate divided by the batch size"
    ]
    if proved:
        columns.append("proved>")
        notes.append("proved: bound on |Error| for any reward, of the policy stopped at the cap")
    print_table(f"Thresholds of {rule}", columns, rows, notes)
