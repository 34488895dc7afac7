"""A right trace passes every check; each kind of damage is caught, and says where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trbounds.bounds import all_bounds, get_bound
from trbounds.divergences import divergences
from trbounds.errors import InputError
from trbounds.oracle import KINDS, exact, random_pair
from trbounds.oracle.profiles import profile_of as exact_profile_of
from trbounds.oracle.sampling import sample_trace
from trbounds.traces import TraceBatch, TraceSummary, example_path, open_trace, summarize, validate
from trbounds.verify import ORDERINGS, verify
from trbounds.verify.verdict import within_errors

DATA = Path(__file__).parent / "data"
MOE, STALE = str(DATA / "moe.parquet"), str(DATA / "stale_k16.parquet")


def make_batch(seed: int = 0, *, sequences: int = 4000, **rest: object) -> TraceBatch:
    rng = np.random.default_rng(seed)
    settings = {"prompts": 2, "closeness": 0.5} | rest
    return sample_trace(random_pair(rng, 4, 3, **settings), sequences // 4, 4, rng)


def check(batch: TraceBatch):
    validate(batch)
    return verify(TraceSummary.of(batch))


def caught(batch: TraceBatch) -> set[str]:
    return {verdict.check for verdict in check(batch).violations}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eos", [True, False])
def test_true_traces_pass(kind, eos):
    rng = np.random.default_rng(len(kind))
    pair = random_pair(rng, 4, 3, prompts=2, kind=kind, eos=eos, closeness=0.3)
    # 'degenerate' pairs may forbid tokens to the training policy alone: those are not logged.
    if kind == "degenerate" and not np.isfinite(exact(pair).kl_seq):
        with pytest.raises(InputError, match="probability 0"):
            sample_trace(pair, 500, 4, rng)
        return
    report = check(sample_trace(pair, 500, 4, rng))
    assert not report.violations
    assert report.holds


@pytest.mark.parametrize(
    ("T", "prompts", "samples", "kind"),
    [(1, 2, 1, "near"), (1, 4, 2, "near"), (4, 1, 2, "far"), (4, 4, 1, "near"), (4, 8, 4, "heavy")],
)
def test_true_traces_of_few_sequences_pass(T, prompts, samples, kind):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pair = random_pair(rng, T, 3, prompts=3, kind=kind, closeness=0.3)
        report = check(sample_trace(pair, prompts, samples, rng))
        assert report.holds, (seed, report.violations, report.findings)


def test_tokens_too_rare_to_be_sampled_are_no_violation():
    found = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        # Tokens of rollout probability 1e-6 to 1e-2, up to 1000 times likelier in training.
        report = check(sample_trace(random_pair(rng, 4, 3, prompts=4, kind="heavy"), 64, 8, rng))
        assert report.holds, (seed, report.violations, report.findings)
        found |= {finding.name for finding in report.findings}
        if report["square_chi2"].holds is None:
            assert "unsampled" in report["square_chi2"].note
    assert "unsampled_chi2" in found


@pytest.mark.parametrize("logged", [True, False])
def test_nearly_certain_tokens_are_no_violation(logged):
    # The other token is never sampled: every surprise is below the entropy, every ratio below 1.
    rare = np.linspace(1e-5, 1e-4, 200)
    mu, pi = np.log([rare, 1 - rare]).T, np.log([1.2 * rare, 1 - 1.2 * rare]).T
    rows = divergences(mu, pi)
    columns = {name: getattr(rows, name) for name in ("kl", "tv", "chi2", "entropy")}
    batch = TraceBatch(
        offsets=np.arange(201),
        rollout_logprobs=mu[:, 1],
        train_logprobs=pi[:, 1],
        **(columns if logged else {}),
    )
    report = check(batch)
    assert report.holds, (report.violations, report.findings)
    assert report["mean_ratio"].left < 1
    if logged:
        assert report["surprise_entropy"].left < report["surprise_entropy"].right / 5
        assert "surprise_entropy" in caught(replace(batch, entropy=batch.entropy + 3.0))


def test_uniform_rollouts_are_not_taken_for_one_sequence():
    rollout = np.full(400 * 16, -np.log(32))
    train = rollout + np.random.default_rng(0).normal(0.05, 0.2, rollout.size)
    batch = TraceBatch(offsets=np.arange(401) * 16, rollout_logprobs=rollout, train_logprobs=train)
    report = check(batch)
    assert "mean_ratio" in {verdict.check for verdict in report.violations}
    assert "ratio_above_one" in {finding.name for finding in report.findings}


def test_many_sequences_of_one_of_two_tokens_decide():
    first = np.random.default_rng(0).random(5000) < 0.5
    batch = TraceBatch(
        offsets=np.arange(5001),
        rollout_logprobs=np.log(np.where(first, 0.5, 0.4999)),
        train_logprobs=np.log(np.where(first, 0.58, 0.5)),
    )
    assert "mean_ratio" in caught(batch)


@pytest.mark.parametrize("share", [3e-4, 3e-3, 0.03])
def test_true_traces_of_one_of_two_tokens_pass(share):
    for seed in range(20):
        rare = np.random.default_rng(seed).random(2000) < share
        batch = TraceBatch(
            offsets=np.arange(2001),
            rollout_logprobs=np.log(np.where(rare, share, 1 - share)),
            train_logprobs=np.log(np.where(rare, 5 * share, 1 - 5 * share)),
        )
        report = check(batch)
        assert report.holds, (seed, report.violations, report.findings)


def test_sequences_that_are_all_the_same_decide_nothing():
    batch = make_batch(sequences=4)
    same = batch.select(np.array([True, False, False, False]))
    twice = TraceSummary.of(same)
    twice.add(replace(same, records=np.array([1])))
    report = verify(twice)
    assert report.holds
    assert all(v.holds is None for v in report.verdicts if v.family == "samples")


def test_the_shipped_and_the_real_traces_pass():
    for path in (example_path(), MOE, STALE):
        report = verify(summarize(path))
        assert report.holds, report.violations
        assert {v.check for v in report.verdicts} >= {f"error<={key}" for key in all_bounds()}


def test_heavy_weights_are_warned_about():
    rng = np.random.default_rng(1)
    report = check(sample_trace(random_pair(rng, 6, 3, kind="far"), 500, 4, rng))
    assert any("too heavy to trust" in warning for warning in report.warnings)


def test_a_path_sum_of_any_size_is_compared():
    batch = make_batch(sequences=40)
    chi2 = np.where(np.arange(batch.n_tokens) == 3, 800.0, batch.chi2)
    report = check(replace(batch, chi2=chi2))
    assert report["residual_path_sum"].right == np.inf
    assert report["residual_path_sum"].holds


def test_report_names_its_parts():
    report = check(make_batch())
    document = report.to_dict()
    assert document["holds"] is True
    assert document["trace"]["sequences"] == 4000
    assert [v["check"] for v in document["verdicts"]] == [v.check for v in report.verdicts]
    assert len({v.check for v in report.verdicts}) == len(report.verdicts)
    families = {v.family for v in report.verdicts}
    assert families == {
        "tokens",
        "samples",
        "profile",
        "orderings",
        "error",
        "sup",
        "gain",
        "acceptance",
    }
    assert {v.status for v in report.verdicts} == {"exact", "plug-in", "estimated"}
    assert report["pinsker"].slack >= 0
    assert report["chain_rule"].slack <= 0


# -- damage ------------------------------------------------------------------------------------


def test_swapped_policies_are_caught():
    batch = make_batch()
    swapped = replace(
        batch, rollout_logprobs=batch.train_logprobs, train_logprobs=batch.rollout_logprobs
    )
    assert {"mean_ratio", "chain_rule"} <= caught(swapped)
    report = verify(TraceSummary.of(swapped))
    assert "do not belong" in report["mean_ratio"].note


def test_shifted_train_logprobs_are_caught():
    batch = make_batch()
    assert {"k3_kl", "mean_ratio"} <= caught(
        replace(batch, train_logprobs=np.roll(batch.train_logprobs, 1))
    )


def test_missing_first_token_of_one_column_is_caught():
    batch = make_batch()
    train = batch.train_logprobs.copy()
    train[batch.offsets[:-1]] = batch.rollout_logprobs[batch.offsets[:-1]]
    kept = verify(TraceSummary.of(replace(batch, train_logprobs=train)))
    assert {"k3_kl", "abs_ratio_tv"} <= {v.check for v in kept.violations}


def test_scaled_divergences_are_caught_at_their_place():
    batch = make_batch()
    halved = batch.kl.copy()
    halved[777] = batch.kl[777] / 100
    report = check(replace(batch, kl=halved))
    assert report["pinsker"].holds is False
    assert report["pinsker"].place == batch.place(777)
    assert "k3_kl" in caught(replace(batch, kl=batch.kl / 2))
    assert "abs_ratio_tv" in caught(replace(batch, tv=batch.tv * 0.8))
    assert "tv_chi2" in caught(replace(batch, chi2=batch.chi2 / 5))


def test_wrong_temperature_is_caught():
    batch = make_batch()
    cooler = replace(batch, train_logprobs=batch.train_logprobs * 1.2)
    assert "mean_ratio" in caught(cooler)


def test_truncated_sampling_is_caught():
    rng = np.random.default_rng(3)
    pair = random_pair(rng, 4, 3, prompts=2, kind="truncated", closeness=0.3)
    batch = sample_trace(pair, 1000, 4, rng)
    finite = replace(batch, chi2=None, kl=None, tv=None)
    report = check(finite)
    assert report["mean_ratio"].holds is False
    assert "never sampled" in report["mean_ratio"].note
    logged = check(replace(make_batch(), top_p=np.full(4000, 0.95)))
    assert [v.check for v in logged.violations] == ["full_sampling"]


@pytest.mark.parametrize("field", ["rollout_logprobs", "train_logprobs", "kl", "tv", "chi2"])
def test_a_flipped_sign_is_bad_input(field):
    batch = make_batch()
    values = getattr(batch, field).copy()
    values[5] = -values[5]
    with pytest.raises(InputError, match=f"record 1, field '{field}'"):
        validate(replace(batch, **{field: values}))


def test_equal_columns_are_a_fault_of_the_log():
    batch = make_batch()
    report = verify(
        TraceSummary.of(
            replace(batch, train_logprobs=batch.rollout_logprobs, kl=None, tv=None, chi2=None)
        )
    )
    assert not report.violations
    assert not report.holds
    assert [finding.name for finding in report.findings] == ["identical_logprobs"]
    assert "copy" in report.to_dict()["findings"][0]["advice"]


def test_an_error_above_a_bound_is_caught(monkeypatch):
    bound = get_bound("entropy_dual")
    wrong = replace(bound, formula=lambda p: bound.formula(p) * 1e-3)
    monkeypatch.setattr("trbounds.bounds.all_bounds", lambda: {bound.key: wrong})
    rng = np.random.default_rng(4)
    pair = random_pair(rng, 4, 3, kind="far", reward="worst")
    report = check(sample_trace(pair, 1000, 4, rng))
    assert [v.check for v in report.violations] == ["error<=entropy_dual"]
    assert report.violations[0].z > 3


# -- columns that are absent -------------------------------------------------------------------


def test_without_divergences_only_ratios_are_checked():
    batch = replace(make_batch(), kl=None, tv=None, chi2=None, entropy=None, reward=None)
    report = check(batch)
    assert report.holds
    assert report["pinsker"].holds is None
    assert report["chain_rule"].holds is None
    assert "not logged" in report["k3_kl"].note
    assert report["mean_ratio"].holds
    assert all(v.holds is None for v in report.verdicts if v.family == "error")
    assert any(v.holds for v in report.verdicts if v.family == "sup")


def test_one_sequence_decides_nothing_statistical():
    report = check(make_batch(sequences=4).select(np.array([True, False, False, False])))
    assert report.holds
    assert all(
        v.holds is None
        for v in report.verdicts
        if v.status == "estimated" and v.family == "samples"
    )


# -- pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("conversion", ["pinsker", "sharp"])
@pytest.mark.parametrize("kind", ["near", "far", "sparse", "two_valued"])
def test_proved_orders_hold_for_exact_profiles(kind, conversion):
    rng = np.random.default_rng(len(kind))
    for _ in range(20 if conversion == "pinsker" else 3):
        pair = random_pair(rng, 4, 3, kind=kind, eos=bool(rng.integers(2)), prompts=2)
        profile = exact_profile_of(exact(pair), conversion=conversion).complete()
        values = {
            key: bound.evaluate(profile)
            for key, bound in all_bounds().items()
            if not bound.missing(profile)
        }
        for order in ORDERINGS:
            left, right = order.factor * values[order.smaller], values[order.larger]
            assert left <= right * (1 + 1e-9) + 1e-12, order


def test_comparison_within_errors():
    equal = within_errors("c", "s", 1.0, 1.5, error=0.1, limit=4, equality=True)
    assert (equal.z, equal.holds, equal.slack) == (-5.0, False, -0.5)
    below = within_errors("c", "s", 1.0, 1.5, error=0.1, limit=4)
    assert (below.z, below.holds, below.slack) == (-5.0, True, 0.5)
    assert within_errors("c", "s", 1.0, 1.0, error=0.0, limit=4).z == 0.0
    assert within_errors("c", "s", 2.0, 1.0, error=0.0, limit=4).holds is False
    assert within_errors("c", "s", 2.0, 1.0, error=float("nan"), limit=4).holds is None


def test_masked_tokens_do_not_count():
    batch = next(iter(open_trace(MOE)))
    mask = np.ones(batch.n_tokens, dtype=bool)
    mask[::3] = False
    broken = batch.kl.copy()
    broken[::3] = 0.0
    report = verify(TraceSummary.of(replace(batch, mask=mask, kl=broken)))
    assert report["pinsker"].holds


def test_a_report_is_read_by_check_and_shown_in_a_line() -> None:
    report = verify(summarize(example_path()))
    assert list(report) == list(report.verdicts)
    assert len(report) == len(report.verdicts)
    assert report["pinsker"].check == "pinsker"
    with pytest.raises(InputError, match="did you mean 'pinsker'"):
        report["pinskr"]
    assert repr(report) == (
        f"Report({len(report)} checks of 128 sequences; violated: none; findings: none)"
    )
