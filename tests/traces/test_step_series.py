"""Series by training step, their standard errors, and where their level changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from trbounds.traces import TraceBatch, TraceSummary
from trbounds.traces.trends import FEWEST_STEPS, bend, largest_change, trend


def batch_of(log_ratios, **fields):
    """A batch with one list of log-ratios per sequence."""
    lengths = [len(values) for values in log_ratios]
    rollout = np.full(sum(lengths), -3.0)
    return TraceBatch(
        file="a.jsonl",
        first_record=0,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=rollout,
        train_logprobs=rollout + np.concatenate([np.asarray(v, float) for v in log_ratios]),
        **fields,
    )


def random_batch(seed, n=240, prompts=12):
    random = np.random.default_rng(seed)
    ratios = [random.normal(0, 0.1, random.integers(1, 9)) for _ in range(n)]
    prompt = random.integers(0, prompts, n)
    return batch_of(
        ratios,
        step=random.integers(3, 7, n),
        prompt_id=prompt,
        # Rewards of a prompt are alike, so that prompts decide the standard error.
        reward=np.clip(prompt / prompts + random.normal(0, 0.05, n), 0, 1),
        kl=random.uniform(0, 0.1, sum(map(len, ratios))),
    )


@pytest.mark.parametrize("seed", range(3))
def test_every_step_is_what_its_sequences_alone_say(seed):
    batch = random_batch(seed)
    series = TraceSummary.of(batch).steps()
    assert series.step.tolist() == [3, 4, 5, 6]
    for i, step in enumerate(series.step):
        table = TraceSummary.of(batch).sequences
        rows = table["step"] == step
        n = rows.sum()
        reward, weight = table["reward"][rows], np.exp(table["log_weight"][rows])
        assert series.n_sequences[i] == n
        assert series.reward_mean[i] == pytest.approx(reward.mean())
        assert series.kl_seq[i] == pytest.approx(table["kl_sum"][rows].mean())
        assert series.k3_seq[i] == pytest.approx(table["k3_sum"][rows].mean())
        assert series.effective_share[i] == pytest.approx(weight.sum() ** 2 / (weight @ weight) / n)
        largest = max(
            abs(batch.log_ratio[batch.offsets[s] : batch.offsets[s + 1]]).max()
            for s in np.flatnonzero(rows)
        )
        assert series.log_ratio_max[i] == pytest.approx(largest, rel=1e-6)
        groups = table["group"][rows]
        names = np.unique(groups)
        sums = np.array([(reward - reward.mean())[groups == name].sum() for name in names])
        by_prompt = math.sqrt(names.size / (names.size - 1) * (sums @ sums)) / n
        by_sequence = reward.std(ddof=1) / math.sqrt(n)
        assert by_prompt > by_sequence
        assert series.reward_error[i] == pytest.approx(by_prompt)
    assert series.has_kl
    assert series.sequence_kl == (series.kl_seq, series.kl_seq_error)


def test_standard_errors_cover_the_truth():
    """D of a step is within two of its standard errors in about 95 of 100 steps."""
    random = np.random.default_rng(5)
    steps, each, length, spread = 200, 40, 5, 0.1
    size = steps * each * length
    noise = random.normal(-(spread**2) / 2, spread, (steps * each, length))
    series = TraceSummary.of(batch_of(noise, step=np.repeat(np.arange(steps), each))).steps()
    assert size == series.n_sequences.sum() * length
    # rho is log-normal with mean 1, so that E k3 = E[-log rho] = spread^2/2.
    z = (series.k3_seq - length * spread**2 / 2) / series.k3_seq_error
    assert 0.88 < np.mean(np.abs(z) < 2) < 0.99


def test_what_is_not_logged_is_nan_and_what_is_alike_has_no_error():
    batch = batch_of([[0.1], [0.2, 0.3], []], step=np.array([1, 1, 2]), reward=np.full(3, 0.3))
    series = TraceSummary.of(batch).steps()
    assert np.isnan(series.kl_seq).all()
    assert not series.has_kl
    assert series.sequence_kl == (series.k3_seq, series.k3_seq_error)
    assert series.reward_error[0] == 0.0
    assert np.isnan(series.reward_error[1])
    assert series.ratio_mean[1] == 1.0
    assert series.length_mean.tolist() == [1.5, 0.0]
    assert TraceSummary.of(replace(batch, step=None)).steps().step.tolist() == [-1]


def test_huge_weights_do_not_overflow():
    series = TraceSummary.of(batch_of([[99.0] * 20, [-99.0] * 20], step=np.array([1, 2]))).steps()
    assert series.effective_share.tolist() == [1.0, 1.0]


def test_a_change_of_level_is_found_where_it_is():
    random = np.random.default_rng(2)
    for at in (1, 7, 39):
        values = random.normal(0, 0.1, 40)
        values[at:] += 2.0
        change = largest_change(np.arange(100, 140), values)
        assert change is not None
        assert change.step == 100 + at
        assert change.before == pytest.approx(values[:at].mean())
        assert change.after == pytest.approx(values[at:].mean())
        assert change.z > 5
        down = largest_change(np.arange(100, 140), -values)
        assert down is not None
        assert (down.step, down.z) == (change.step, pytest.approx(-change.z))


def test_noise_hardly_ever_passes_for_a_change():
    random = np.random.default_rng(3)
    found = sum(
        largest_change(np.arange(n), random.normal(size=n)) is not None
        for n in (FEWEST_STEPS, 20, 100)
        for _ in range(300)
    )
    assert found <= 9


@pytest.mark.parametrize(
    "values", [[0.1] * 30, [0.0, 1.0], [0.0] * 10 + [math.nan], [0.0] * 10 + [math.inf], []]
)
def test_where_there_is_no_change_to_speak_of(values):
    assert largest_change(np.arange(len(values)), np.array(values)) is None


def test_a_trend_is_no_change_of_level():
    random = np.random.default_rng(4)
    steps = np.arange(50)
    trend = 0.1 * steps + random.normal(0, 0.2, 50)
    assert largest_change(steps, trend) is None
    # Steps that are missing count: in time this is a line, by its entries a bend.
    uneven = np.concatenate([np.arange(25), np.arange(100, 1100, 40)])
    assert largest_change(uneven, 0.01 * uneven + random.normal(0, 0.05, 50)) is None
    flat_then_down = np.concatenate([np.zeros(40), -0.3 * np.arange(1, 11)])
    change = largest_change(steps, flat_then_down + random.normal(0, 0.05, 50))
    assert change is not None
    assert 41 <= change.step <= 46


def test_a_trend_is_the_slope_of_a_regression_in_its_standard_errors():
    random = np.random.default_rng(5)
    steps = np.sort(random.choice(200, 40, replace=False))
    values = 0.02 * steps + random.normal(0, 0.3, 40)
    fit = scipy.stats.linregress(steps, values)
    assert trend(steps, values) == pytest.approx(fit.slope / fit.stderr)
    assert trend(steps, -values) == pytest.approx(-fit.slope / fit.stderr)
    assert trend(steps, 0.5 * steps) == math.inf or trend(steps, 0.5 * steps) > 1e12


def test_noise_hardly_ever_passes_for_a_trend():
    random = np.random.default_rng(6)
    found = sum(
        trend(np.arange(n), random.normal(size=n)) is not None
        for n in (FEWEST_STEPS, 20, 100)
        for _ in range(300)
    )
    assert found <= 3


@pytest.mark.parametrize(
    "values", [[0.1] * 30, [0.0, 1.0], [0.0] * 10 + [math.nan], [0.0] * 10 + [math.inf], []]
)
def test_where_there_is_no_trend_to_speak_of(values):
    assert trend(np.arange(len(values)), np.array(values)) is None


def test_a_rise_and_a_fall_bend_where_they_meet():
    random = np.random.default_rng(7)
    steps = np.arange(100, 160, 2)
    peak = np.minimum(0.02 * (steps - 140), -0.05 * (steps - 140))
    found = bend(steps, peak + 0.9 + random.normal(0, 0.05, steps.size))
    assert abs(found.step - 140) <= 4
    assert found.value == pytest.approx(0.9, abs=0.1)
    assert found.z_before > 5
    assert found.z_after < -5
    valley = bend(steps, -peak)
    assert (valley.step, valley.value) == (140, pytest.approx(0.0, abs=1e-9))
    assert valley.z_before < -1e6
    assert valley.z_after > 1e6


def test_a_bend_is_where_the_best_two_lines_meet():
    random = np.random.default_rng(8)
    steps = np.arange(15)
    values = -0.1 * np.abs(steps - 8) + random.normal(0, 0.02, 15)

    def variation(knot):
        def fitted(x, at_knot, before, after):
            return at_knot + np.where(x < knot, before, after) * (x - knot)

        best, _ = scipy.optimize.curve_fit(fitted, steps, values)
        return np.sum((values - fitted(steps, *best)) ** 2)

    assert bend(steps, values).step == min(range(2, 13), key=variation)


@pytest.mark.parametrize("direction", [1, -1])
def test_what_begins_or_ceases_to_move_bends_there(direction):
    random = np.random.default_rng(10)
    steps = np.arange(40)
    begins = direction * 0.3 * np.maximum(steps - 15, 0) + random.normal(0, 0.2, 40)
    found = bend(steps, begins)
    assert found.directions == (0, direction)
    assert abs(found.step - 15) <= 2
    ceases = bend(steps, direction * 0.3 * np.minimum(steps - 15, 0) + random.normal(0, 0.2, 40))
    assert ceases.directions == (direction, 0)
    assert abs(ceases.step - 15) <= 2
    # Faster from a step on is no bend: that is hard to tell from a curve.
    assert bend(steps, begins + direction * 0.2 * steps) is None


@pytest.mark.parametrize("shape", ["noise", "line", "levels", "curve"])
def test_what_does_not_bend_hardly_ever_passes_for_it(shape):
    random = np.random.default_rng(9)
    found = 0
    for n in (FEWEST_STEPS, 30, 200):
        steps = np.arange(n)
        mean = {
            "noise": 0.0 * steps,
            "line": 10.0 * steps / n,
            "levels": 10.0 * (steps > n // 3),
            "curve": 10.0 * np.expm1(steps / n),
        }[shape]
        values = mean + random.normal(size=(60, n))
        found += sum(bend(steps, row) is not None for row in values)
    assert found <= 2


@pytest.mark.parametrize(
    "values",
    [
        [0.1] * 30,
        [0.3, 0.3, 0.3] * 10,
        [0.0, 1.0, 0.0],
        [0.0] * 10 + [math.nan],
        [math.inf] * 20,
        [],
    ],
)
def test_where_there_is_no_bend_to_speak_of(values):
    assert bend(np.arange(len(values)), np.array(values)) is None


def test_changes_of_a_run_leave_out_sequences_without_a_step():
    n = 24
    drift = [[0.01 if i < 15 else 0.5] * 4 for i in range(n)]
    reward = np.where(np.arange(n) < 18, 0.75, 0.25)
    step = np.arange(n)
    step[0] = -1
    series = TraceSummary.of(batch_of(drift, step=step, reward=reward)).steps()
    changes = series.changes()
    assert (changes["kl_seq"].step, changes["reward"].step) == (15, 18)
    assert changes["kl_seq"].before == pytest.approx(4 * (math.expm1(0.01) - 0.01))
    assert changes["kl_seq"].after == pytest.approx(4 * (math.expm1(0.5) - 0.5))
    assert (changes["reward"].before, changes["reward"].after) == (0.75, 0.25)
    none = TraceSummary.of(batch_of([[0.0]] * n, step=step, reward=reward)).steps()
    assert list(none.changes()) == ["reward"]
