"""verl's rejection metrics against a reading of its formulas, one padded matrix at a time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.masking import compute_statistics, keep_tokens, parse_rule
from trbounds.metrics import framework_metrics
from trbounds.metrics.verl_rejection import OPTIONS, parse
from trbounds.traces import TraceBatch, TraceSummary, example_path

PREFIX = "rollout_corr/rollout_rs_"


def make_batch(seed: int, spread: float, lengths=(7, 0, 1, 12, 3, 5)) -> TraceBatch:
    rng = np.random.default_rng(seed)
    rollout = -rng.exponential(1.0, sum(lengths))
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=rollout,
        train_logprobs=rollout + spread * rng.standard_normal(rollout.size),
    )


def by_hand(batch, settings):
    """Every metric from its sentence in the table, with loops."""
    cuts = list(zip(batch.offsets[:-1], batch.offsets[1:], strict=True))
    d = np.clip(batch.train_logprobs - batch.rollout_logprobs, -20, 20)
    estimators = {"k1": -d, "k2": d * d / 2, "k3": np.expm1(d) - d}
    lengths = batch.lengths
    filled = lengths > 0
    everything, found = np.ones(d.size, dtype=bool), {}
    for option, (low, high) in settings.items():
        term = estimators[option[-2:]]
        if option.startswith("token"):
            tokens = term
            each = np.array([term[a:b].mean() if b > a else 0.0 for a, b in cuts])
            whole = tokens
        else:
            how = {"sum": np.sum, "mean": np.mean, "max": np.max}[option.split("_")[1]]
            each = np.array([how(term[a:b]) if b > a else 0.0 for a, b in cuts])
            tokens = np.repeat(each, lengths)
            whole = each[filled]
        keep = (tokens >= low) & (tokens <= high)
        clipped = np.clip(tokens, 0.0 if math.isinf(low) else low, high)
        touched = np.array([not keep[a:b].all() for a, b in cuts])
        part = {
            "mean": tokens.mean(),
            "max": whole.max(),
            "min": whole.min(),
            "fraction_high": np.mean(whole > high),
            "fraction_low": np.mean(whole < low),
            "std": clipped.std(),
            "masked_fraction": np.mean(~keep),
            "seq_masked_fraction": touched[filled].mean(),
            "seq_mean": each[filled].mean(),
            "seq_std": each[filled].std(ddof=1) if filled.sum() > 1 else 0.0,
            "seq_max": each[filled].max(),
            "seq_min": each[filled].min(),
            "seq_max_deviation": np.abs(each[filled]).max(),
            "seq_fraction_high": np.mean(each[filled] > high),
        }
        if option.endswith("k1"):
            part["seq_fraction_low"] = np.mean(each[filled] < low)
        found |= {f"{option}_{name}": value for name, value in part.items()}
        everything &= keep
    found["masked_fraction"] = np.mean(~everything)
    found["seq_masked_fraction"] = np.mean([not everything[a:b].all() for a, b in cuts])
    return {PREFIX + name: value for name, value in found.items()}


def thresholds(rng, option):
    """A text as verl reads it, and the interval it stands for."""
    high = float(f"{10 ** rng.uniform(-3, 1):.4g}")
    if not option.endswith("k1"):
        return f"{high}", (-math.inf, high)
    high = 1 + high
    if rng.random() < 0.5:
        return f"{high}", (-math.log(high), math.log(high))
    return f"0.75_{high}", (math.log(0.75), math.log(high))


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("seed", range(12))
def test_metrics_of_one_rule_and_of_several(seed, kernel):
    rng = np.random.default_rng(seed)
    batch = make_batch(seed, spread=(0.02, 0.5, 15.0)[seed % 3])
    for options in (*((option,) for option in OPTIONS), tuple(rng.permutation(list(OPTIONS))[:4])):
        texts, limits = zip(*(thresholds(rng, option) for option in options), strict=True)
        (found,) = framework_metrics(
            [batch],
            "verl",
            level="none",
            rejection=",".join(options),
            rejection_threshold=",".join(texts),
            standard_errors=False,
            kernel=kernel,
        )
        rejected = {name: value for name, value in found.values.items() if "_rs_" in name}
        expected = by_hand(batch, dict(zip(options, limits, strict=True)))
        # The spread of tokens is a root of a difference.
        assert rejected == pytest.approx(expected, rel=1e-9, abs=2e-7)
        assert not any("rollout_is" in name for name in found.values)


@pytest.mark.parametrize(
    ("option", "numbers"),
    [("seq_max_k2", "0.01"), ("seq_sum_k1", "0.9, 1.2"), ("token_k3", "0.002")],
)
def test_masked_fractions_are_those_of_the_masks(option, numbers):
    batch = make_batch(3, spread=0.1)
    rule = parse_rule(f"{option}({numbers})")
    (found,) = framework_metrics(
        [batch],
        "verl",
        rejection=option,
        rejection_threshold=numbers.replace(", ", "_"),
        standard_errors=False,
    )
    summary = TraceSummary.of(batch)
    if rule.token_statistics:
        kept = keep_tokens(summary, [rule], [batch])[rule].count
    else:
        kept = batch.lengths[rule.accept(compute_statistics(summary, rule.names, [batch]))]
    masked = 1 - kept.sum() / batch.n_tokens
    assert 0 < masked < 1
    assert found.values[PREFIX + "masked_fraction"] == pytest.approx(masked)


def test_steps_and_standard_errors():
    batch = make_batch(1, 0.3, lengths=[9] * 24)
    settings = {"rejection": "seq_mean_k1,token_k2", "rejection_threshold": "1.1,0.05"}
    (found,) = framework_metrics([batch], "verl", **settings)
    error = found.standard_errors[PREFIX + "seq_mean_k1_mean"]
    means = (batch.rollout_logprobs - batch.train_logprobs).reshape(24, 9).mean(axis=1)
    assert error == pytest.approx(means.std(ddof=1) / math.sqrt(24))
    assert math.isnan(found.standard_errors[PREFIX + "token_k2_max"])
    assert found.to_dict()["metrics"][PREFIX + "token_k2_max"]["value"] > 0


def test_settings_are_read_as_verl_reads_them():
    (first, second) = parse(" token_k1 , seq_max_k2,token_k1", "2,0.05")
    assert (first.option, first.low, first.high) == ("token_k1", -math.log(2), math.log(2))
    assert (second.option, second.low, second.high) == ("seq_max_k2", -math.inf, 0.05)
    assert parse("token_k2,token_k3", 0.5)[1].high == 0.5


@pytest.mark.parametrize(
    ("options", "threshold", "message"),
    [
        ("", "1", "found no rule"),
        ("seq_max_k1", "1", "did you mean"),
        ("token_k2", "0.5_2", "one number for token_k2"),
        ("token_k2", "", "found 0 thresholds"),
        ("token_k2", "1,2", "found 2 thresholds, expected one for all rules or for each: 1"),
        ("token_k1,token_k2", "1,2,3", "found 3 thresholds, expected one for all .*: 2"),
        ("token_k2", "-1", "finite numbers above 0"),
        ("token_k2", "inf", "finite numbers above 0"),
        ("token_k2", "nan", "finite numbers above 0"),
        ("token_k2", "1e-310", "finite numbers above 0"),
        ("token_k2", "many", "expected numbers"),
        ("token_k1", "0_2", "finite numbers above 0"),
        ("token_k1", "0.5", "of at least 1 for token_k1"),
        ("token_k1", "2_1", "lower_upper"),
        ("token_k1", "1_2_3", "lower_upper"),
    ],
)
def test_bad_settings_are_refused(options, threshold, message):
    with pytest.raises(InputError, match=message):
        parse(options, threshold)


def test_command(capsys):
    from trbounds_cli import main

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(("metrics", str(example_path()), "--as", *words))
        return stop.value.code or 0, *capsys.readouterr()

    words = ("--rejection", "seq_max_k2", "--rejection-threshold", "0.01")
    code, out, _ = run("verl", "--level", "none", *words, "--json")
    found = json.loads(out)["results"][0]["metrics"]
    assert code == 0
    assert 0 < found[PREFIX + "seq_max_k2_masked_fraction"]["value"] < 1
    assert found[PREFIX + "seq_max_k2_masked_fraction"]["standard_error"] > 0
    for settings, message in (
        (("trl", *words), "'--rejection': trl has no such setting"),
        (("trbounds", *words), "'--rejection': goes with a framework's metrics alone"),
        (("verl", *words[:2]), "'--rejection-threshold': missing"),
        (("verl", *words[2:]), "'--rejection': missing"),
        (("verl", *words[:3], "0.5_1"), "'--rejection-threshold': found '0.5_1'"),
    ):
        code, out, err = run(*settings)
        assert (code, out) == (2, "")
        assert message in err
