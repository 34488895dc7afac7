"""Rules on tokens, against the frameworks' published formulas read one token at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from trbounds.errors import InputError
from trbounds.masking import compute_statistics, keep_tokens, mask, parse_rule
from trbounds.masking.output import write_masks
from trbounds.masking.token_masks import token_masks
from trbounds.traces import TraceBatch, TraceSummary, open_trace

LENGTHS = (40, 0, 1, 25, 60, 33, 0, 18, 50, 7)


def make(seed: int, *, far: bool, masked: bool) -> TraceBatch:
    """Sequences of which some have no token, and log-ratios to beyond the clamp of 20."""
    rng = np.random.default_rng(seed)
    n = sum(LENGTHS)
    log_ratio = 0.2 * rng.standard_normal(n)
    if far:
        log_ratio[rng.random(n) < 0.05] = 28.0
        log_ratio[rng.random(n) < 0.05] = -28.0
    rollout = -30.0 - rng.exponential(size=n)
    flags = rng.random(n) < 0.8
    flags[40:41] = False
    return TraceBatch(
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        rollout_logprobs=rollout,
        train_logprobs=rollout + log_ratio,
        reward=rng.random(len(LENGTHS)),
        prompt_id=np.arange(len(LENGTHS)) // 2,
        mask=flags if masked else None,
    )


def rows_of(batch: TraceBatch) -> list[tuple[list[float], list[bool]]]:
    """Log-ratios and loss mask of every sequence, as plain lists."""
    flags = np.ones(batch.n_tokens, bool) if batch.mask is None else batch.mask
    log_ratio = batch.train_logprobs - batch.rollout_logprobs
    cuts = batch.offsets[1:-1]
    pairs = zip(np.split(log_ratio, cuts), np.split(flags, cuts), strict=True)
    return [(x.tolist(), m.tolist()) for x, m in pairs]


def verl(batch: TraceBatch, options: dict[str, tuple[float, float]]) -> list[list[bool]]:
    """verl's response mask after rollout_rs, by its formulas, one token at a time."""
    out = []
    for log_ratios, loss_mask in rows_of(batch):
        safe = [min(max(x, -20.0), 20.0) for x in log_ratios]
        term = {
            "k1": [-x for x in safe],
            "k2": [0.5 * x * x for x in safe],
            "k3": [math.exp(x) - 1 - x for x in safe],
        }
        keep = list(loss_mask)
        for option, (low, high) in options.items():
            values = term[option[-2:]]
            if option.startswith("seq_"):
                counted = [v for v, m in zip(values, loss_mask, strict=True) if m]
                if option.startswith("seq_max"):
                    statistic = max(counted, default=0.0)
                else:
                    statistic = sum(counted)
                    statistic /= max(len(counted), 1) if "mean" in option else 1
                values = [statistic] * len(values)
            bottom, top = -math.inf, high
            if option.endswith("k1"):
                bottom, top = math.log(low), math.log(high)
            keep = [k and bottom <= v <= top for k, v in zip(keep, values, strict=True)]
        out.append(keep)
    return out


def keep_where(batch: TraceBatch, decide) -> list[list[bool]]:
    """Keep the tokens that count where a function of their ratio says so."""
    return [
        [m and decide(math.exp(x)) for x, m in zip(log_ratios, loss_mask, strict=True)]
        for log_ratios, loss_mask in rows_of(batch)
    ]


def masks_of(batch: TraceBatch, text: str) -> list[list[bool]]:
    """The masks that the library makes, aligned with the record."""
    summary, rule = TraceSummary.of(batch), parse_rule(text)
    statistics = compute_statistics(summary, rule.statistics, [batch])
    (masks,) = token_masks(summary, [rule], [batch], statistics)
    flat = masks.in_record(masks.keep[0])
    return [part.tolist() for part in np.split(flat, batch.offsets[1:-1])]


CASES = {
    "token_k1(0.8, 1.3)": {"token_k1": (0.8, 1.3)},
    "token_k1(1.2)": {"token_k1": (1 / 1.2, 1.2)},
    "token_k2(0.02)": {"token_k2": (0, 0.02)},
    "token_k2(199)": {"token_k2": (0, 199)},
    "token_k2(200)": {"token_k2": (0, 200)},
    "token_k3(0.02)": {"token_k3": (0, 0.02)},
    "token_k3(19.5)": {"token_k3": (0, 19.5)},
    "token_k2(0.05) and seq_mean_k1(0.97, 1.1)": {
        "token_k2": (0, 0.05),
        "seq_mean_k1": (0.97, 1.1),
    },
    "token_k3(0.1) and seq_sum_k1(0.3, 2.5)": {"token_k3": (0, 0.1), "seq_sum_k1": (0.3, 2.5)},
    "token_k1(0.5, 2) and seq_max_k2(0.12)": {"token_k1": (0.5, 2), "seq_max_k2": (0, 0.12)},
    "token_k1(0.5, 2) and seq_max_k3(0.12)": {"token_k1": (0.5, 2), "seq_max_k3": (0, 0.12)},
    "token_k2(0.1) and seq_sum_k2(0.7)": {"token_k2": (0, 0.1), "seq_sum_k2": (0, 0.7)},
    "token_k2(0.1) and seq_mean_k2(0.02)": {"token_k2": (0, 0.1), "seq_mean_k2": (0, 0.02)},
    "token_k2(0.1) and seq_sum_k3(0.7)": {"token_k2": (0, 0.1), "seq_sum_k3": (0, 0.7)},
    "token_k2(0.1) and seq_mean_k3(0.02)": {"token_k2": (0, 0.1), "seq_mean_k3": (0, 0.02)},
}


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("far", [False, True])
def test_named_rules_on_tokens_mask_as_verl_does(text, far, masked):
    batch = make(1, far=far, masked=masked)
    assert masks_of(batch, text) == verl(batch, CASES[text])


@pytest.mark.parametrize(
    ("option", "low", "high"),
    [
        ("seq_sum_k1", 0.6, 1.6),
        ("seq_sum_k1", 1e-13, 1e13),
        ("seq_mean_k1", 0.97, 1.03),
        ("seq_sum_k2", 0, 0.9),
        ("seq_sum_k2", 0, 500),
        ("seq_mean_k2", 0, 0.021),
        ("seq_max_k2", 0, 0.15),
        ("seq_max_k2", 0, 250),
        ("seq_sum_k3", 0, 0.9),
        ("seq_sum_k3", 0, 45),
        ("seq_mean_k3", 0, 0.021),
        ("seq_max_k3", 0, 0.15),
    ],
)
@pytest.mark.parametrize("far", [False, True])
def test_named_rules_on_sequences_decide_as_verl_does(option, low, high, far):
    batch = make(2, far=far, masked=True)
    numbers = f"{low}, {high}" if option.endswith("k1") else f"{high}"
    rule, summary = parse_rule(f"{option}({numbers})"), TraceSummary.of(batch)
    accept = rule.accept(compute_statistics(summary, rule.statistics, [batch]))
    found = [
        [bool(a) and m for m in loss_mask]
        for a, (_, loss_mask) in zip(accept, rows_of(batch), strict=True)
    ]
    assert found == verl(batch, {option: (low, high)})


@pytest.mark.parametrize("far", [False, True])
def test_icepop_and_trl_mask_tokens_by_their_ratio(far):
    batch = make(3, far=far, masked=True)
    assert masks_of(batch, "IcePop") == keep_where(batch, lambda rho: 0.5 <= rho <= 5.0)
    assert masks_of(batch, "IcePop(0.9, 1.2)") == keep_where(batch, lambda rho: 0.9 <= rho <= 1.2)
    assert masks_of(batch, "token_mask(1.1)") == keep_where(batch, lambda rho: not rho > 1.1)
    expected = keep_where(batch, lambda rho: not (rho < 0.7 or rho > 1.1))
    assert masks_of(batch, "token_mask(1.1, 0.7)") == expected


def of_prime_rl(batch: TraceBatch, decide) -> list[list[bool]]:
    """Keep the tokens that count where a function of the advantage and the difference says so."""
    flags = np.ones(batch.n_tokens, bool) if batch.mask is None else batch.mask
    delta = np.exp(batch.train_logprobs) - np.exp(batch.rollout_logprobs)
    keep = [
        bool(m) and decide(a, x) for m, a, x in zip(flags, batch.advantages, delta, strict=True)
    ]
    return [part.tolist() for part in np.split(np.array(keep), batch.offsets[1:-1])]


@pytest.mark.parametrize("masked", [False, True])
def test_prime_rl_masks_tokens_by_the_difference_of_probabilities(masked):
    """Restated from prime-rl 0.8.0 and commit 559b447: the losses "ipo" and "default".

    A token is dropped if its probability moved by more than the threshold: in either direction
    ("ipo"), or upwards where the advantage is positive and downwards where it is not ("default").
    """
    batch = make(7, far=False, masked=masked)
    rng = np.random.default_rng(7)
    n = batch.n_tokens
    batch = replace(
        batch,
        rollout_logprobs=np.log(rng.uniform(0.01, 1, n)),
        train_logprobs=np.log(rng.uniform(0.01, 1, n)),
        advantages=rng.integers(-1, 2, n).astype(float),
    )
    assert masks_of(batch, "IPO") == of_prime_rl(batch, lambda a, x: not abs(x) > 0.1)
    assert masks_of(batch, "IPO(0.4)") == of_prime_rl(batch, lambda a, x: not abs(x) > 0.4)
    for low, high in ((0.2, 0.2), (0.1, 0.5)):
        kept = of_prime_rl(batch, lambda a, x, lo=low, hi=high: not (x > hi if a > 0 else x < -lo))
        assert masks_of(batch, f"DPPO({low}, {high})") == kept
    with pytest.raises(InputError, match="needs advantages"):
        masks_of(replace(batch, advantages=None), "DPPO(0.2, 0.2)")


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("threshold", [1.0, 1.16, 2.0, 1e9])
def test_nemo_rl_masks_sequences_by_their_error(threshold, far):
    """Restated from NeMo-RL 0.7.0 and commit 7ea279a: ``seq_logprob_error_threshold``.

    A sequence is kept if the mean of ``exp |d|`` over its tokens is at most the threshold; without
    a token it counts as 0.
    """
    batch = make(8, far=far, masked=True)
    expected = []
    for log_ratios, loss_mask in rows_of(batch):
        errors = [math.exp(abs(x)) for x, m in zip(log_ratios, loss_mask, strict=True) if m]
        expected.append(sum(errors) / max(len(errors), 1) <= threshold)
    summary, rule = TraceSummary.of(batch), parse_rule(f"seq_logprob_error_threshold({threshold})")
    accept = rule.accept(compute_statistics(summary, rule.statistics, [batch]))
    assert accept.tolist() == expected


def test_trl_masks_sequences_by_their_ratio():
    batch = make(4, far=False, masked=True)
    ratios = [math.exp(sum(x for x, m in zip(*row, strict=True) if m)) for row in rows_of(batch)]
    found = mask(TraceSummary.of(batch), "sequence_mask(1.5, 0.5)").accept.tolist()
    assert found == [0.5 <= ratio <= 1.5 for ratio in ratios]
    assert 0 < sum(found) < len(found)


def test_conditions_on_sequences_and_tokens_join_token_by_token():
    batch = make(5, far=False, masked=False)
    whole = [max((x * x / 2 for x in row), default=0.0) <= 0.1 for row, _ in rows_of(batch)]
    either = [
        [w or abs(math.exp(x) - 1) < 0.2 for x in row]
        for w, (row, _) in zip(whole, rows_of(batch), strict=True)
    ]
    assert masks_of(batch, "max k2 <= 0.1 or token |rho-1| < 0.2") == either
    neither = [[not keep for keep in row] for row in either]
    assert masks_of(batch, "not (max k2 <= 0.1 or token |rho-1| < 0.2)") == neither


# -- what a mask on tokens does ----------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_effect_of_a_mask_on_tokens(masked):
    batch = make(6, far=False, masked=masked)
    summary, rule = TraceSummary.of(batch), parse_rule("IcePop(0.9, 1.2)")
    kept = keep_tokens(summary, [rule], batch.slices(50))
    found = mask(summary, rule, kept=kept)
    keep = keep_where(batch, lambda rho: 0.9 <= rho <= 1.2)
    rows = rows_of(batch)
    counts = [sum(row) for row in keep]
    lengths = [sum(loss_mask) for _, loss_mask in rows]
    assert found.on_tokens
    assert found.kept.count.tolist() == counts
    assert found.accept.tolist() == [a == b for a, b in zip(counts, lengths, strict=True)]
    # A sequence without tokens has none that is masked.
    assert found.accept[1]
    assert found.kept_token_share.value == pytest.approx(sum(counts) / sum(lengths))
    sums = [
        sum(math.expm1(x) for x, k in zip(log_ratios, kept_row, strict=True) if k)
        for (log_ratios, _), kept_row in zip(rows, keep, strict=True)
    ]
    # Two sequences to a prompt: the mean reward of the others is that of the other.
    reward = batch.reward.reshape(-1, 2)
    centred = (reward - reward[:, ::-1]).ravel()
    assert found.surrogate.value == pytest.approx(float(centred @ sums) / len(sums), rel=1e-9)
    assert sum(part.n_sequences for part in found.by_length) == len(rows)
    for part in found.by_length:
        inside = [i for i, n in enumerate(lengths) if part.lowest <= n <= part.highest]
        tokens = sum(lengths[i] for i in inside)
        share = sum(counts[i] for i in inside) / tokens if tokens else math.nan
        assert part.kept.value == pytest.approx(share, nan_ok=True)


def test_rules_on_tokens_prove_nothing(summary, moe_path):
    rule = parse_rule("token k2 <= 0.001 and sum chi2 <= 0.1 and LN-TRM(1)")
    statistics = compute_statistics(summary, rule.statistics, open_trace(moe_path))
    kept = keep_tokens(summary, [rule], open_trace(moe_path), statistics)
    found = mask(summary, rule, statistics, kept)
    assert found.guarantee is None
    assert found.length_neutral is None
    assert found.to_dict()["on_tokens"]
    assert mask(summary, "sum chi2 <= 0.1").guarantee is not None


def test_masking_no_token_is_the_rule_on_the_largest(summary, moe_path):
    rule = parse_rule("token k3 <= 0.001")
    found = mask(summary, rule, kept=keep_tokens(summary, [rule], open_trace(moe_path)))
    largest = compute_statistics(summary, ["max k3"], open_trace(moe_path))
    whole = mask(summary, "max k3 <= 0.001", largest)
    assert (found.accept == whole.accept).all()
    assert found.accepted == whole.accepted
    assert found.token_exclusion == whole.token_exclusion
    assert found.kept_token_share.value > whole.kept_token_share.value


def test_share_of_tokens_kept_has_the_standard_error_of_a_ratio():
    """Against the spread over many traces of the same kind."""
    rng = np.random.default_rng(7)
    shares, errors = [], []
    for _ in range(300):
        lengths = rng.integers(1, 40, 60)
        x = rng.normal(0, 0.1, lengths.sum()) * np.repeat(rng.uniform(0.5, 2, 60), lengths)
        batch = TraceBatch(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            rollout_logprobs=np.full(x.size, -3.0),
            train_logprobs=x - 3.0,
        )
        summary, rule = TraceSummary.of(batch), parse_rule("token k2 <= 0.01")
        share = mask(summary, rule, kept=keep_tokens(summary, [rule], [batch])).kept_token_share
        shares.append(share.value)
        errors.append((share.standard_error, share.jackknife_error))
    assert np.mean(errors, axis=0) == pytest.approx(np.std(shares), rel=0.15)


def test_what_a_rule_on_tokens_needs_is_asked_for(batch, summary):
    with pytest.raises(InputError, match=r"'token k2 <= 1\.0' needs the tokens"):
        mask(summary, "token k2 <= 1")
    bare = replace(batch, kl=None)
    rule = parse_rule("token kl <= 1")
    with pytest.raises(InputError, match="'token kl' needs kl"):
        keep_tokens(TraceSummary.of(bare), [rule], [bare])
    with pytest.raises(InputError, match="the trace changed"):
        keep_tokens(summary, [parse_rule("token k2 <= 1")], [replace(batch, file="other")])


# -- files -------------------------------------------------------------------------------------


def test_masks_are_written_as_the_trace_is_read(tmp_path):
    batch = make(8, far=True, masked=True)
    summary = TraceSummary.of(batch)
    rules = [parse_rule(text) for text in ("token_k2(0.02)", "max k2 <= 0.5", "IcePop")]
    statistics = compute_statistics(summary, ["max k2"])
    kept = keep_tokens(summary, [rules[0], rules[2]], [batch], statistics)
    effects = [mask(summary, rule, statistics, kept) for rule in rules]
    path = tmp_path / "masks.parquet"
    with pytest.raises(InputError, match="needs the tokens"):
        write_masks(path, summary, effects, statistics)
    assert not list(tmp_path.iterdir())
    write_masks(path, summary, effects, statistics, batch.slices(45))
    assert [p.name for p in tmp_path.iterdir()] == ["masks.parquet"]
    table = pq.read_table(path)
    assert table.column_names == [
        "file",
        "record",
        "length",
        *("accepted_1", "kept_tokens_1", "keep_1"),
        "accepted_2",
        *("accepted_3", "kept_tokens_3", "keep_3"),
        "max k2",
    ]
    assert pq.ParquetFile(path).num_row_groups > 1
    assert table["keep_1"].to_pylist() == verl(batch, {"token_k2": (0, 0.02)})
    assert table["keep_3"].to_pylist() == keep_where(batch, lambda rho: 0.5 <= rho <= 5)
    for number in (1, 3):
        flags = table[f"keep_{number}"].to_pylist()
        counts = table[f"kept_tokens_{number}"].to_pylist()
        assert counts == [sum(row) for row in flags]
        whole = [a == b for a, b in zip(counts, table["length"].to_pylist(), strict=True)]
        assert table[f"accepted_{number}"].to_pylist() == whole
        assert table.schema.field(f"keep_{number}").metadata == {
            b"rule": str(rules[number - 1]).encode()
        }
    assert table["max k2"].to_pylist() == statistics["max k2"].tolist()
    assert table["accepted_2"].to_pylist() == effects[1].accept.tolist()
