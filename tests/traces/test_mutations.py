"""A real trace, damaged in every way we could think of: caught, harmless, or plainly not visible.

The table in docs/robustness.md is made by this file (``python tests/traces/test_mutations.py``)
and held by its last test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import TraceBatch, TraceSummary, open_trace, validate
from trbounds.verify import verify

ROOT = Path(__file__).parents[2]
DIVERGENCES = ("kl", "tv", "chi2", "entropy")
TOKENS = ("rollout_logprobs", "train_logprobs", *DIVERGENCES)
SEQUENCES = ("reward", "prompt_id", "step", "length", "finished")
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def load() -> TraceBatch:
    batches = list(open_trace(ROOT / "tests" / "data" / "stale_k16.parquet"))
    columns = {n: np.concatenate([getattr(b, n) for b in batches]) for n in (*TOKENS, *SEQUENCES)}
    lengths = np.concatenate([b.lengths for b in batches])
    return TraceBatch(offsets=edges(lengths), file="stale_k16.parquet", **columns)


def edges(lengths: Any) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def column(name: str, change: Callable[[Any], Any]) -> Callable[[TraceBatch], TraceBatch]:
    return lambda b: replace(b, **{name: change(getattr(b, name))})


def tokens_at(b: TraceBatch, index: Any) -> TraceBatch:
    """The tokens of an index, in order, each in its own sequence."""
    owner = np.repeat(np.arange(b.n_sequences), b.lengths)[index]
    lengths = np.bincount(owner, minlength=b.n_sequences)
    columns = {n: getattr(b, n)[index] for n in TOKENS if getattr(b, n) is not None}
    return replace(b, offsets=edges(lengths), **columns)


def sequences_at(b: TraceBatch, order: Any) -> TraceBatch:
    index = np.concatenate([np.arange(b.offsets[i], b.offsets[i + 1]) for i in order])
    columns = {n: getattr(b, n)[index] for n in TOKENS if getattr(b, n) is not None}
    columns |= {n: getattr(b, n)[order] for n in SEQUENCES if getattr(b, n) is not None}
    return replace(b, offsets=edges(b.lengths[order]), **columns)


def by_sequence(b: TraceBatch, values: Any, change: Callable[[Any], Any]) -> Any:
    return np.concatenate([change(part) for part in np.split(values, b.offsets[1:-1])])


def shifted(*names: str) -> Callable[[TraceBatch], TraceBatch]:
    def change(b: TraceBatch) -> TraceBatch:
        roll = {n: by_sequence(b, getattr(b, n), lambda v: np.roll(v, 1)) for n in names}
        return replace(b, **roll)

    return change


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def filled(value: float, share: float) -> Callable[[Any], Any]:
    return lambda v: np.where(rng().random(v.size) < share, value, v)


def size(b: TraceBatch) -> Any:
    return np.abs(b.train_logprobs - b.rollout_logprobs)


def worst(b: TraceBatch) -> Any:
    return np.maximum.reduceat(size(b), b.offsets[:-1])


def swap_two(b: TraceBatch) -> TraceBatch:
    lengths, counts = np.unique(b.lengths, return_counts=True)
    i, j = np.flatnonzero(b.lengths == lengths[counts > 1].max())[:2]
    train = b.train_logprobs.copy()
    one, two = (slice(b.offsets[k], b.offsets[k + 1]) for k in (i, j))
    train[one], train[two] = b.train_logprobs[two], b.train_logprobs[one]
    return replace(b, train_logprobs=train)


def exchanged(first: str, second: str) -> Callable[[TraceBatch], TraceBatch]:
    return lambda b: replace(b, **{first: getattr(b, second), second: getattr(b, first)})


def rounded(kind: str) -> Callable[[Any], Any]:
    def change(v: Any) -> Any:
        if kind == "float16":
            return v.astype(np.float16).astype(np.float64)
        bits = v.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32).astype(np.float64)

    return change


def every(step: int, change: Callable[[TraceBatch], TraceBatch]) -> Callable[..., TraceBatch]:
    """The change in the log-probs of every so many sequences alone."""

    def some(b: TraceBatch) -> TraceBatch:
        changed, hit = change(b), np.repeat(np.arange(b.n_sequences) % step == 0, b.lengths)
        both = {n: np.where(hit, getattr(changed, n), getattr(b, n)) for n in (R, P)}
        return replace(b, **both)

    return some


def averaged(v: Any) -> Any:
    return np.convolve(v, np.ones(3), "same") / np.convolve(np.ones(v.size), np.ones(3), "same")


def zero_tail(v: Any) -> Any:
    return np.where(np.arange(v.size) < 0.8 * v.size, v, 0.0)


def joined(b: TraceBatch) -> TraceBatch:
    first = {n: getattr(b, n)[::2] for n in SEQUENCES if getattr(b, n) is not None}
    return replace(b, offsets=b.offsets[::2], **first)


@dataclass(frozen=True)
class Fault:
    """A fault, and what it does where nothing catches it."""

    name: str
    change: Callable[[TraceBatch], TraceBatch]
    harmless: str = ""
    invisible: str = ""


R, P = "rollout_logprobs", "train_logprobs"

FAULTS = (
    Fault("the two columns exchanged", exchanged(R, P)),
    Fault("training log-probs shifted by one token", shifted(P)),
    Fault("rollout log-probs shifted by one token", shifted(R)),
    Fault("training log-probs shuffled within sequences",
          lambda b: replace(b, train_logprobs=by_sequence(b, b.train_logprobs, rng().permutation))),
    Fault("training log-probs shuffled over the trace", column(P, lambda v: rng().permutation(v))),
    Fault("training lists of two sequences exchanged", swap_two),
    Fault("training log-probs negated", column(P, np.negative)),
    Fault("training log-probs to base 2", column(P, lambda v: v / np.log(2))),
    Fault("both log-probs to base 10",
          lambda b: replace(b, **{n: getattr(b, n) / np.log(10) for n in (R, P)}),
          invisible="divergences come out 5 times too small; only the logged ones, or a trace long "
          "enough for the mean of rho to fall below 1, show it"),
    Fault("training probabilities instead of logs", column(P, np.exp)),
    Fault("training log-probs times 0.9 (temperature)", column(P, lambda v: 0.9 * v)),
    Fault("training log-probs copied from the rollout",
          lambda b: replace(b, train_logprobs=b.rollout_logprobs)),
    Fault("training log-probs all zero", column(P, np.zeros_like)),
    Fault("1 % of the rollout log-probs zero", column(R, filled(0.0, 0.01))),
    Fault("one NaN", column(P, lambda v: np.where(np.arange(v.size) == 777, np.nan, v))),
    Fault("one minus infinity",
          column(P, lambda v: np.where(np.arange(v.size) == 777, -np.inf, v))),
    Fault("both log-probs rounded to bfloat16",
          lambda b: replace(b, **{n: rounded("bfloat16")(getattr(b, n)) for n in (R, P)})),
    Fault("both log-probs rounded to float16",
          lambda b: replace(b, **{n: rounded("float16")(getattr(b, n)) for n in (R, P)}),
          harmless="D from k3 moves by less than its standard error"),
    Fault("the two columns exchanged in one sequence of ten", every(10, exchanged(R, P)),
          harmless="D moves by less than its standard error"),
    Fault("training log-probs copied in half of the sequences",
          every(2, lambda b: replace(b, train_logprobs=b.rollout_logprobs))),
    Fault("training log-probs shifted by one token in one sequence of ten",
          every(10, shifted(P))),
    Fault("rollout log-probs times 0.9 in half of the sequences",
          every(2, column(R, lambda v: 0.9 * v))),
    Fault("log rho halved in half of the sequences (other weights)",
          every(2, lambda b: replace(
              b, train_logprobs=(b.rollout_logprobs + b.train_logprobs) / 2)),
          invisible="a right trace of a mixture of policies, as far as sampled tokens tell"),
    Fault("training log-probs averaged over three tokens",
          lambda b: replace(b, train_logprobs=by_sequence(b, b.train_logprobs, averaged))),
    Fault("both log-probs clipped at -2",
          lambda b: replace(b, **{n: np.maximum(getattr(b, n), -2) for n in (R, P)}),
          invisible="divergences come out too small: both policies look surer than they are"),
    Fault("the last fifth of both log-probs zero",
          lambda b: replace(b, **{n: by_sequence(b, getattr(b, n), zero_tail) for n in (R, P)}),
          invisible="sums over sequences come out a fifth too small: certain tokens look the same"),
    Fault("tokens sorted by their log-prob",
          lambda b: tokens_at(b, np.lexsort((b.rollout_logprobs,
                                             np.repeat(np.arange(b.n_sequences), b.lengths))))),
    Fault("responses joined in pairs", joined,
          invisible="sums over sequences are those of two: D comes out twice as large"),
    Fault("the first token masked (a mask off by one)",
          lambda b: replace(b, mask=~np.isin(np.arange(b.n_tokens), b.offsets)),
          harmless="D moves by less than its standard error"),
    Fault("kl negated", column("kl", np.negative)),
    Fault("kl doubled", column("kl", lambda v: 2 * v)),
    Fault("kl halved", column("kl", lambda v: v / 2)),
    Fault("kl shifted by one token", shifted("kl")),
    Fault("tv doubled", column("tv", lambda v: np.minimum(2 * v, 1))),
    Fault("tv halved", column("tv", lambda v: v / 2)),
    Fault("tv shifted by one token", shifted("tv")),
    Fault("chi2 doubled", column("chi2", lambda v: 2 * v)),
    Fault("chi2 halved", column("chi2", lambda v: v / 2)),
    Fault("chi2 shifted by one token", shifted("chi2")),
    Fault("kl and chi2 exchanged", exchanged("kl", "chi2")),
    Fault("tv and kl exchanged",
          lambda b: replace(b, tv=np.minimum(b.kl, 1), kl=b.tv)),
    Fault("entropy in bits", column("entropy", lambda v: v / np.log(2))),
    Fault("all divergences shifted by one token", shifted(*DIVERGENCES),
          harmless="every sequence keeps its sums and maxima; position means move by one"),
    Fault("one token dropped from every column",
          lambda b: tokens_at(b, np.arange(b.n_tokens) != 1000),
          harmless="D moves by less than its standard error"),
    Fault("10 % of the tokens dropped at random",
          lambda b: tokens_at(b, rng().random(b.n_tokens) > 0.1),
          invisible="sums over sequences come out 10 % too small"),
    Fault("tokens with the largest ratios dropped",
          lambda b: tokens_at(b, size(b) < np.quantile(size(b), 0.95)),
          invisible="divergences come out too small; only the logged ones show it"),
    Fault("tokens with the largest ratios masked",
          lambda b: replace(b, mask=size(b) < np.quantile(size(b), 0.95))),
    Fault("every token twice", lambda b: tokens_at(b, np.repeat(np.arange(b.n_tokens), 2))),
    Fault("the second half of every response cut off",
          lambda b: tokens_at(b, np.concatenate([np.arange(n) < (n + 1) // 2 for n in b.lengths])),
          invisible="a right trace of the first halves: bounds hold for those, rewards belong to "
          "the whole"),
    Fault("half of the sequences dropped at random",
          lambda b: sequences_at(b, np.flatnonzero(rng().random(b.n_sequences) < 0.5)),
          harmless="a smaller sample: D stays within its standard error"),
    Fault("sequences with the largest ratios dropped",
          lambda b: sequences_at(b, np.flatnonzero(worst(b) < np.median(worst(b)))),
          invisible="divergences come out too small: a trace cannot show what was never written"),
    Fault("sequences with the largest ratios masked",
          lambda b: replace(b, mask=np.repeat(worst(b) < np.median(worst(b)), b.lengths))),
    Fault("every sequence twice",
          lambda b: sequences_at(b, np.repeat(np.arange(b.n_sequences), 2))),
    Fault("rewards negated", column("reward", lambda v: -0.5 - v)),
    Fault("rewards divided by 100", column("reward", lambda v: v / 100),
          invisible="the error comes out 100 times too small beside bounds for rewards in [0, 1]"),
    Fault("prompts shuffled", column("prompt_id", lambda v: rng().permutation(v)),
          invisible="standard errors by prompt, and the variance of the reward within prompts, are "
          "those of other prompts"),
    Fault("rewards exchanged for 1 - reward", column("reward", lambda v: 1 - v),
          harmless="the estimated error changes its sign alone"),
    Fault("rewards shuffled", column("reward", lambda v: rng().permutation(v)),
          harmless="bounds and divergences do not look at it; the error is that of another reward"),
)  # fmt: skip

PARTS = {
    "all columns": lambda b: b,
    "log-probs only": lambda b: replace(b, **dict.fromkeys((*DIVERGENCES, "length"))),
}


def touches(fault: Fault, part: str, batch: TraceBatch) -> bool:
    """Whether the fault concerns a column that this part of the trace has."""
    try:
        changed = fault.change(PARTS[part](batch))
    except (TypeError, AttributeError):
        return False
    return part == "all columns" or any(
        getattr(changed, n) is not getattr(batch, n)
        for n in (R, P, "reward", "prompt_id", "mask", "offsets")
    )


def caught(batch: TraceBatch) -> tuple[str, str]:
    """What catches a batch, and what only notes something, in words; empty if nothing does."""
    try:
        validate(batch)
    except InputError as error:
        return f"refused: `{error.field}`", ""
    with np.errstate(over="ignore"):
        report = verify(TraceSummary.of(batch))
    found = [item.name for item in report.findings if item.severity != "info"]
    found += [v.check for v in report.violations if v.family in ("tokens", "samples", "profile")]
    noted = [item.name for item in report.findings if item.severity == "info"]
    outcome = "warned" if report.holds else "caught"
    return f"{outcome}: {listed(found)}" if found else "", listed(noted)


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:4])


@pytest.fixture(scope="module")
def batch() -> TraceBatch:
    return load()


def test_nothing_is_caught_without_a_fault(batch):
    for part in PARTS.values():
        assert caught(part(batch)) == ("", "")


def outcome(fault: Fault, part: str, batch: TraceBatch) -> str:
    if not touches(fault, part, batch):
        return "-"
    found, noted = caught(fault.change(PARTS[part](batch)))
    if found:
        return found
    if fault.harmless:
        return f"harmless: {fault.harmless}"
    if not fault.invisible:
        return "MISSED"
    return f"{f'noted: {noted}' if noted else 'not visible'}: {fault.invisible}"


def kl_seq(batch):
    values = TraceSummary.of(batch).sequences["k3_sum"]
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.harmless], ids=lambda f: f.name)
def test_harmless_faults_are(fault, batch):
    changed = fault.change(batch)
    before, after = verify(TraceSummary.of(batch)), verify(TraceSummary.of(changed))
    assert after.holds
    value, error = kl_seq(batch)
    assert abs(kl_seq(changed)[0] - value) < error
    if "sign alone" in fault.harmless:
        assert after.estimates.error.value == pytest.approx(-before.estimates.error.value)
    if "sums and maxima" in fault.harmless:
        one, two = TraceSummary.of(batch), TraceSummary.of(changed)
        for name in ("kl_sum", "tv_sum", "chi2_sum", "kl_max"):
            assert np.allclose(one.sequences[name], two.sequences[name], rtol=1e-12)
    if "do not look at it" in fault.harmless:
        for name in ("sup_error", "tv_seq", "residual_square"):
            assert getattr(after.estimates, name) == pytest.approx(getattr(before.estimates, name))


def test_no_fault_is_missed(batch):
    rows = [(fault, outcome(fault, part, batch)) for fault in FAULTS for part in PARTS]
    assert [fault.name for fault, found in rows if found == "MISSED"] == []
    seen = {fault.name for fault, found in rows if found.startswith(("not visible", "noted"))}
    assert seen == {fault.name for fault in FAULTS if fault.invisible}


def table(batch: TraceBatch) -> str:
    lines = [f"| fault | {' | '.join(PARTS)} |", "|---|---|---|"]
    for fault in FAULTS:
        cells = [outcome(fault, part, batch) for part in PARTS]
        lines.append(f"| {fault.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_in_the_documentation(batch):
    text = (ROOT / "docs" / "robustness.md").read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == table(batch)


if __name__ == "__main__":
    path = ROOT / "docs" / "robustness.md"
    head, rest = path.read_text().split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{table(load())}\n{END}{rest.split(END)[1]}")
