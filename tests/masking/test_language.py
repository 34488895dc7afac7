"""The rule language: what it means, and what it refuses."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trbounds.errors import InputError
from trbounds.masking import (
    PRESETS,
    STATISTICS,
    TOKEN_STATISTICS,
    And,
    Interval,
    Not,
    Or,
    parse_family,
    parse_rule,
)

NUMBERS = st.floats(-1e6, 1e6)
INTERVALS = st.builds(
    lambda name, low, width, ends, opened: Interval(
        name,
        -math.inf if ends == "high" else low,
        math.inf if ends == "low" else low + width,
        opened[0] and ends != "high",
        opened[1] and ends != "low",
    ),
    st.sampled_from(sorted([*STATISTICS, *TOKEN_STATISTICS])),
    NUMBERS,
    st.floats(0, 1e6),
    st.sampled_from(["low", "high", "both"]),
    st.tuples(st.booleans(), st.booleans()),
)
RULES = st.recursive(
    INTERVALS,
    lambda rules: st.one_of(
        st.builds(Not, rules),
        st.lists(rules, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(rules, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=8,
)


def columns(rule, seed=0, n=40):
    rng = np.random.default_rng(seed)
    return {name: rng.choice([-1e5, -1.0, 0.0, 0.5, 2.0, 1e5], n) for name in rule.names}


@given(RULES)
def test_text_of_a_rule_parses_to_the_same_rule(rule):
    assert parse_rule(str(rule)) == rule


@given(RULES)
def test_accepted_sequences_keep_the_caps(rule):
    values = columns(rule)
    accept = rule.accept(values)
    assert accept.dtype == bool
    for name, cap in rule.caps().items():
        assert (values[name][accept] <= cap).all()


@given(RULES)
def test_not_turns_every_decision(rule):
    values = columns(rule)
    assert (Not(rule).accept(values) == ~rule.accept(values)).all()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("max k2 <= 0.5", lambda v: v["max k2"] <= 0.5),
        ("max k2 < .5", lambda v: v["max k2"] < 0.5),
        ("5e-1 > max k2", lambda v: v["max k2"] < 0.5),
        ("-1 <= max k2 < 2", lambda v: (v["max k2"] >= -1) & (v["max k2"] < 2)),
        ("2 >= max k2 > -1.0", lambda v: (v["max k2"] > -1) & (v["max k2"] <= 2)),
        # "and" binds before "or", "not" before both.
        (
            "max k2 > 0 or mean k3 > 0 and ser > 0",
            lambda v: (v["max k2"] > 0) | ((v["mean k3"] > 0) & (v["ser"] > 0)),
        ),
        (
            "(max k2 > 0 or mean k3 > 0) and ser > 0",
            lambda v: ((v["max k2"] > 0) | (v["mean k3"] > 0)) & (v["ser"] > 0),
        ),
        (
            "not max k2 > 0 and ser > 0",
            lambda v: ~(v["max k2"] > 0) & (v["ser"] > 0),
        ),
        ("not not max k2>0", lambda v: v["max k2"] > 0),
        ("max | rho - 1 |<=0", lambda v: v["max |rho-1|"] <= 0),
        ("sum (rho - 1) ^ 2 <= 0", lambda v: v["sum (rho-1)^2"] <= 0),
        ("((ln_trm <= 0))", lambda v: v["ln_trm"] <= 0),
    ],
)
def test_meaning(text, meaning):
    rule = parse_rule(text)
    values = columns(rule, n=300)
    assert (rule.accept(values) == meaning(values)).all()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("TRM-Max(0.05)", "max kl <= 0.05"),
        ("trm-avg(0.001)", "mean kl <= 0.001"),
        ("TRM-Max&Avg(0.05, 0.001)", "max kl <= 0.05 and mean kl <= 0.001"),
        ("TRM-Max-k2&Avg-k3(0.05, 0.001)", "max k2 <= 0.05 and mean k3 <= 0.001"),
        ("LN-TRM(0.01)", "ln_trm <= 0.01"),
        ("SER(0.01)", "ser <= 0.01"),
        ("seq_max_k2(2.5)", "max clamped_k2 <= 2.5"),
        ("seq_mean_k3(0.001)", "mean clamped_k3 <= 0.001"),
        ("seq_sum_k2(1)", "sum clamped_k2 <= 1"),
        ("token_k2(1)", "token clamped_k2 <= 1"),
        ("token_k3(1) and seq_max_k3(2)", "token clamped_k3 <= 1 and max clamped_k3 <= 2"),
        ("sequence_mask", "product ratio <= 3.0"),
        ("sequence_mask(2)", "product ratio <= 2"),
        ("sequence_mask(2, 0.5)", "0.5 <= product ratio <= 2"),
        ("token_mask", "token ratio <= 3.0"),
        ("token_mask(2, 0.5)", "0.5 <= token ratio <= 2"),
        ("IcePop", "0.5 <= token ratio <= 5"),
        ("IcePop(0.9)", "0.9 <= token ratio <= 5"),
        ("geometric", "0.999 <= geomean ratio <= 1.001"),
        ("geometric(0.9, 1.2)", "0.9 <= geomean ratio <= 1.2"),
        ("seq-mask-tis", "0.999 <= geomean ratio <= 1.002"),
        ("seq-mask-tis(0.99, 1.01)", "0.99 <= geomean ratio <= 1.01"),
        ("seq_logprob_error_threshold(2)", "mean mult_prob_error <= 2"),
        ("IPO", "-0.1 <= token prob_delta <= 0.1"),
        (
            "DPPO(0.1, 0.2)",
            "(token advantages > 0 and token prob_delta <= 0.2) or "
            "(token advantages <= 0 and token prob_delta >= -0.1)",
        ),
        ("not SER(1) or ser < 2", "not ser <= 1 or ser < 2"),
    ],
)
def test_presets(text, same):
    assert parse_rule(text) == parse_rule(same)


@pytest.mark.parametrize("option", ["seq_sum_k1", "seq_mean_k1", "token_k1"])
@pytest.mark.parametrize(("numbers", "low", "high"), [("0.5, 4", 0.5, 4.0), ("4", 0.25, 4.0)])
def test_bounds_of_verl_on_k1_keep_the_ratio_between_their_inverses(option, numbers, low, high):
    rule = parse_rule(f"{option}({numbers})")
    ratio = np.exp(np.linspace(-3, 3, 601))
    accept = rule.accept({rule.names[0]: -np.log(ratio)})
    assert (accept == ((ratio >= 1 / high) & (ratio <= 1 / low))).all()


def test_caps_of_combinations():
    assert parse_rule("max kl <= 2 and (max kl < 1 or ser > 3)").caps() == {"max kl": 2.0}
    assert parse_rule("max kl <= 2 or max kl <= 3").caps() == {"max kl": 3.0}
    assert parse_rule("max kl <= 2 and max kl <= 3").caps() == {"max kl": 2.0}
    assert parse_rule("max kl <= 3 and max kl <= 2").caps() == {"max kl": 2.0}
    assert parse_rule("max kl <= 2 or ser <= 3").caps() == {}
    assert parse_rule("not max kl > 2").caps() == {}
    assert parse_rule("1 < max kl < 2").caps() == {"max kl": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the end, expected a statistic .*, at ^ in '^'"),
        ("max k2 =< 0.05", "unexpected character '=', at ^ in 'max k2 ^=< 0.05'"),
        ("max k2 <= ", "found the end, expected a finite number, at ^ in 'max k2 <= ^'"),
        ("max k2 <= much", "found 'much', expected a finite number"),
        ("max k2 <= 1e999", "expected a finite number, at ^ in 'max k2 <= ^1e999'"),
        ("max k2 <= nan", "expected a finite number"),
        ("max k2", "found the end, expected '<='"),
        ("max k9 < 1", "found 'k9', expected max of one of k1, k2"),
        ("min kl < 1", "found 'kl', expected min of one of k1, ratio"),
        ("product k1 < 1", "expected product of one of ratio"),
        ("median k2 < 1", "unknown 'median', expected max, mean"),
        ("token k9 < 1", "found 'k9', expected token of one of k1, k2"),
        ("token_mask(1, 2)", "found bounds 2 and 1, expected lower <= upper"),
        ("max < 1", "found '<', expected what the max is of"),
        ("1 < 2", "found '2', expected a statistic"),
        ("1 <= max k2 >= 3", "both comparisons of a range point the same way"),
        ("3 <= max k2 <= 1", "nothing lies in this range"),
        ("max k2 < 1 max k3 < 1", "found 'max', expected 'and', 'or' or the end"),
        ("(max k2 < 1", "found the end, expected ')'"),
        ("max k2 < 1)", "found ')', expected 'and'"),
        ("and max k2 < 1", "found 'and', expected a statistic"),
        ("TRM-Max", "'TRM-Max' takes 1 number (delta), found 0, at ^ in '^TRM-Max'"),
        ("TRM-Max(1, 2)", "takes 1 number (delta), found 2"),
        ("TRM-Max(max)", "found 'max', expected a finite number"),
        ("seq_mean_k1(0, 2)", "expected 0 < lower <= upper"),
        ("seq_mean_k1(-1)", "expected 0 < lower <= upper"),
        ("geometric(2, 1)", "expected lower <= upper"),
        ("IPO(-1)", "found -1, expected a threshold of at least 0"),
        ("DPPO(0.2, -1)", "found -1, expected a threshold of at least 0"),
        ("DPPO", "'DPPO' takes 2 numbers (low, high), found 0"),
        ("__import__('os')", "unknown '__import__'"),
        ("max k2 <= 0x10", "unexpected character '0'"),
        ("max k2 <= 1_000", "unexpected character '1'"),
        ("(" * 60 + "max k2 < 1" + ")" * 60, "nested more than 50 deep"),
        ("not " * 60 + "max k2 < 1", "nested more than 50 deep"),
        ("max k2 < 1 and " * 200, "characters, expected at most 2000"),
    ],
)
def test_refusals_name_the_place(text, message):
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(InputError, match=pattern):
        parse_rule(text)


def test_refusals_are_one_short_line():
    with pytest.raises(InputError) as caught:
        parse_rule("ser < 1 and\n" * 100 + "&")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    assert message.endswith("and\\n^&'")


@given(st.text(max_size=80) | st.text("maxk2k3 <=>()|rho-1^.,and not", max_size=60))
def test_any_text_is_a_rule_or_one_clear_error(text):
    try:
        rule = parse_rule(text)
    except InputError:
        return
    assert parse_rule(str(rule)) == rule


def test_near_names_are_suggested():
    with pytest.raises(InputError, match=r"did you mean 'TRM-Max'\?"):
        parse_rule("TRM-Mx <= 1")
    with pytest.raises(InputError, match=r"did you mean 'max k\w'\?") as error:
        parse_family("max-k9")
    # Those that mask single tokens make no family.
    assert "token_" not in str(error.value)
    with pytest.raises(InputError, match=r"did you mean 'seq_mean_k3'\?"):
        parse_family("seq_mean_kk3")


def test_families():
    assert parse_family("max-k2") == "max k2"
    assert parse_family("mean k3") == "mean k3"
    assert parse_family("sum-(rho-1)^2") == "sum (rho-1)^2"
    assert parse_family("mean-|rho-1|") == "mean |rho-1|"
    assert parse_family("ln_trm") == "ln_trm"
    assert parse_family("LN-TRM") == "ln_trm"
    assert parse_family("TRM-Max") == "max kl"
    assert parse_family("seq_mean_k3") == "mean clamped_k3"
    for bad in ("TRM-Max&Avg", "geometric", "max-k9", ""):
        with pytest.raises(InputError, match="expected a statistic"):
            parse_family(bad)
    for family, whole in (("token-k2", "max k2"), ("token_k3", "max clamped_k3")):
        with pytest.raises(InputError, match=f"masks single tokens, .*'{whole} <= x'"):
            parse_family(family)


def test_rules_know_whether_they_act_on_tokens():
    rule = parse_rule("token k2 <= 1 and not (max k2 > 2 or token ratio > 5) and max k2 < 3")
    assert rule.names == ("token k2", "max k2", "token ratio")
    assert rule.statistics == ("max k2",)
    assert rule.token_statistics == ("token k2", "token ratio")
    assert parse_rule("max ratio <= 5").token_statistics == ()


def test_every_preset_says_where_it_is_from():
    for key, preset in PRESETS.items():
        assert key == preset.name.lower()
        assert preset.source
        assert parse_rule(preset.name + "(" + ", ".join("1" for _ in preset.parameters) + ")").names


def test_rules_of_frameworks_say_of_which_version_they_are():
    nameless = re.compile(r"\b(verl|TRL|NeMo-RL|prime-rl|slime)\b(?! \d+\.\d+\.\d)")
    assert [p.name for p in PRESETS.values() if nameless.search(p.source)] == []
