r"""verl: ``rollout_corr/rollout_rs_*``, the metrics of its rejection rules.

``rollout_rs`` names one rule or several, joined by commas: ``token_k1``, ``_k2``, ``_k3``, and
``seq_sum_k1``, ``_k2``, ``_k3``, ``seq_mean_k1``, ``_k2``, ``_k3``, ``seq_max_k2``, ``_k3``, of
``-d``, ``d^2 / 2`` and ``e^d - 1 - d`` with d clamped to [-20, 20]. A token counts if every rule
keeps it. ``rollout_rs_threshold`` has one threshold for all, or one for each: ``upper``; for k1
``lower_upper`` or ``upper``, the lower then being its inverse, whose logarithms bound ``-d``.

With x the statistic, of each token or of the sequence (then at each of its tokens), "mean" over the
tokens of the batch, "mean_i" over sequences that have a token:

============================== ================================================================
``mean``                       mean of x
``max``, ``min``               largest and smallest x, of tokens ("seq_": of sequences)
``fraction_high``, ``_low``    share of tokens ("seq_": of sequences) with x above the upper, below
                               the lower threshold; ``_low`` is 0 but for k1
``std``                        standard deviation over tokens of x, cut at the thresholds
``seq_mean``, ``seq_std``,     of ``x_i``, x of the sequence or the mean of x over its tokens:
``seq_max``, ``seq_min``       mean_i, standard deviation (n - 1), largest, smallest
``seq_max_deviation``          largest ``|x_i|``
``seq_fraction_high``,         share of sequences with ``x_i`` above the upper, below the lower
``seq_fraction_low``           threshold; ``_low`` for k1 alone
``masked_fraction``            share of tokens that the rule masks
``seq_masked_fraction``        share of sequences with such a token
============================== ================================================================

each with ``rollout_rs_`` and the name of the rule in front. ``rollout_rs_masked_fraction`` and
``rollout_rs_seq_masked_fraction`` are of all rules together, the latter over all sequences.

Held against the code of verl 0.9.1, executed: ``verl/trainer/ppo/rollout_corr_helper.py``. verl
computes k3 and compares in the dtype of the log-probabilities, here it is float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, no_such
from trbounds.metrics.sums import SequenceSums
from trbounds.metrics.terms import Block, Column
from trbounds.traces.token_terms import LOG_RATIO_CLAMP

__all__ = ["OPTIONS", "Rejection", "columns", "extra_columns", "kept_tokens", "metrics", "parse"]

Floats = NDArray[np.float64]

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        **{f"token_{k}": f"clamped_{k}" for k in ("k1", "k2", "k3")},
        **{f"seq_sum_{k}": f"clamped_{k}" for k in ("k1", "k2", "k3")},
        **{f"seq_mean_{k}": f"clamped_{k}" for k in ("k1", "k2", "k3")},
        "seq_max_k2": "absolute_max",
        "seq_max_k3": "clamped_k3_max",
    }
)
"""Rules, and the column from which their statistic is made."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A rejection rule of verl.

    Parameters
    ----------
    option : str
        A key of :data:`OPTIONS`.
    low, high : float
        What its statistic is compared with; `low` is ``-inf`` but for k1.
    """

    option: str
    low: float = -math.inf
    high: float

    @property
    def of_tokens(self) -> bool:
        """Whether it masks single tokens."""
        return self.option.startswith("token_")

    def term(self, block: Block) -> Floats:
        """Return the statistic of each token."""
        return np.asarray(getattr(block, OPTIONS[self.option]), dtype=np.float64)

    def keeps(self, values: Floats) -> NDArray[np.bool_]:
        """Whether what has these values is kept."""
        return np.asarray((values >= self.low) & (values <= self.high))

    def cut(self, values: Floats) -> Floats:
        """Cut values at the thresholds; verl cuts at 0 where there is no lower one."""
        low = 0.0 if math.isinf(self.low) else self.low
        return np.minimum(np.maximum(values, low), self.high)


def parse(options: str, thresholds: str | float) -> tuple[Rejection, ...]:
    """Read verl's settings.

    Parameters
    ----------
    options : str
        ``rollout_rs``.
    thresholds : str or float
        ``rollout_rs_threshold``.

    Raises
    ------
    InputError
        For an unknown rule, a bad threshold, or another number of them.
    """
    names = list(dict.fromkeys(part.strip() for part in options.split(",") if part.strip()))
    if not names:
        raise InputError("found no rule, expected one at least", field="rejection")
    for name in names:
        if name not in OPTIONS:
            raise no_such("rejection rule", name, OPTIONS, field="rejection")
    given = [part.strip() for part in str(thresholds).split(",") if part.strip()]
    if len(given) not in (1, len(names)):
        raise InputError(
            f"found {len(given)} thresholds, expected one for all rules or for each: {len(names)}",
            field="rejection_threshold",
        )
    given *= len(names) // len(given)
    return tuple(_rejection(name, text) for name, text in zip(names, given, strict=True))


def _rejection(option: str, text: str) -> Rejection:
    numbers = [_number(part, text) for part in text.split("_")]
    if not option.endswith("k1"):
        if len(numbers) != 1:
            raise _bad(text, f"one number for {option}")
        return Rejection(option=option, high=numbers[0])
    low, high = numbers if len(numbers) == 2 else (1 / numbers[0], numbers[0])
    if len(numbers) > 2 or low > high:
        raise _bad(text, f"lower_upper or a number of at least 1 for {option}")
    return Rejection(option=option, low=math.log(low), high=math.log(high))


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        raise _bad(text, "numbers") from None
    if not (0 < number < math.inf and 1 / number < math.inf):
        raise _bad(text, "finite numbers above 0")
    return number


def _bad(text: str, expected: str) -> InputError:
    return InputError(f"found {text!r}, expected {expected}", field="rejection_threshold")


def columns(rejections: tuple[Rejection, ...]) -> tuple[str, ...]:
    """Names of the columns that rules need."""
    return tuple(dict.fromkeys(OPTIONS[rejection.option] for rejection in rejections))


def extra_columns(rejections: tuple[Rejection, ...]) -> dict[str, Column]:
    """Columns of the rules that mask tokens: they depend on the thresholds."""
    of_tokens = [rejection for rejection in rejections if rejection.of_tokens]
    if not of_tokens:
        return {}
    found: dict[str, Column] = {}
    for rejection in of_tokens:
        found |= _token_columns(rejection)

    def kept(block: Block) -> Floats:
        every = np.all([rejection.keeps(rejection.term(block)) for rejection in of_tokens], axis=0)
        return np.asarray(every, dtype=np.float64)

    return found | {"kept": Column(kept)}


def _token_columns(rejection: Rejection) -> dict[str, Column]:
    def above(block: Block) -> Floats:
        return (rejection.term(block) > rejection.high).astype(np.float64)

    def below(block: Block) -> Floats:
        return (rejection.term(block) < rejection.low).astype(np.float64)

    def cut(block: Block) -> Floats:
        return rejection.cut(rejection.term(block))

    found = {
        "max": Column(rejection.term, "largest", -math.inf),
        "min": Column(rejection.term, "smallest", math.inf),
        "above": Column(above),
        "below": Column(below),
        "cut": Column(cut),
        "cut_square": Column(lambda block: cut(block) ** 2),
    }
    return {f"{rejection.option}_{name}": column for name, column in found.items()}


def metrics(sums: SequenceSums, rejections: tuple[Rejection, ...]) -> dict[str, float]:
    """Compute the metrics of verl's rejection rules for one batch.

    Parameters
    ----------
    sums : SequenceSums
        The batch, with :func:`columns` and :func:`extra_columns`.
    rejections : tuple of Rejection
        The rules.

    Returns
    -------
    dict of str to float
        By the name on the dashboard. Formulas: see the module.
    """
    found: dict[str, float] = {}
    filled = sums.length > 0
    full = sums if filled.all() else sums.select(filled)
    for rejection in rejections:
        each = _of_sequences(full, rejection)
        part = _by_sequence(each, rejection)
        if rejection.of_tokens:
            part |= _token_rule(full, rejection)
        else:
            part |= _rule(full, rejection, each, part)
        found |= {f"{rejection.option}_{name}": value for name, value in part.items()}
    kept = kept_tokens(sums, rejections)
    found["masked_fraction"] = 1.0 - kept.sum() / sums.n_tokens
    found["seq_masked_fraction"] = _share_of(kept < sums.length)
    return {f"rollout_corr/rollout_rs_{name}": float(value) for name, value in found.items()}


def kept_tokens(sums: SequenceSums, rejections: tuple[Rejection, ...]) -> Floats:
    """Count the tokens of each sequence that every rule keeps.

    Parameters
    ----------
    sums : SequenceSums
        As for :func:`metrics`.
    rejections : tuple of Rejection
        The rules.

    Returns
    -------
    ndarray, shape (n_sequences,)
        Whole numbers.
    """
    kept = sums["kept"] if "kept" in sums.columns else sums.length.astype(np.float64)
    for rejection in rejections:
        if not rejection.of_tokens:
            kept = np.where(rejection.keeps(_of_sequences(sums, rejection)), kept, 0.0)
    return kept


def _of_sequences(sums: SequenceSums, rejection: Rejection) -> Floats:
    name = OPTIONS[rejection.option]
    if rejection.option == "seq_max_k2":
        return np.asarray(0.5 * np.minimum(sums[name], LOG_RATIO_CLAMP) ** 2, dtype=np.float64)
    if rejection.option.startswith(("seq_sum", "seq_max")):
        return sums[name]
    return sums.sequence_mean(name)


def _rule(
    sums: SequenceSums, rejection: Rejection, each: Floats, by_sequence: dict[str, float]
) -> dict[str, float]:
    share = sums.length / sums.n_tokens
    cut, masked = rejection.cut(each), ~rejection.keeps(each)
    spread = share @ (cut - share @ cut) ** 2
    return {
        "mean": float(share @ each),
        "max": by_sequence["seq_max"],
        "min": by_sequence["seq_min"],
        "fraction_high": by_sequence["seq_fraction_high"],
        "fraction_low": by_sequence.get("seq_fraction_low", 0.0),
        "std": math.sqrt(spread),
        "masked_fraction": float(share @ masked),
        "seq_masked_fraction": _share_of(masked),
    }


def _token_rule(sums: SequenceSums, rejection: Rejection) -> dict[str, float]:
    option = rejection.option
    above, below = sums[f"{option}_above"], sums[f"{option}_below"]
    masked = above + below
    mean, square = sums.token_mean(f"{option}_cut"), sums.token_mean(f"{option}_cut_square")
    return {
        "mean": sums.token_mean(OPTIONS[option]),
        "max": sums[f"{option}_max"].max(),
        "min": sums[f"{option}_min"].min(),
        "fraction_high": above.sum() / sums.n_tokens,
        "fraction_low": below.sum() / sums.n_tokens,
        "std": math.sqrt(max(square - mean**2, 0.0)),
        "masked_fraction": masked.sum() / sums.n_tokens,
        "seq_masked_fraction": _share_of(masked > 0),
    }


def _by_sequence(each: Floats, rejection: Rejection) -> dict[str, float]:
    found = {
        "seq_mean": each.mean(),
        "seq_std": each.std(ddof=1) if each.size > 1 else 0.0,
        "seq_max": each.max(),
        "seq_min": each.min(),
        "seq_max_deviation": np.abs(each).max(),
        "seq_fraction_high": _share_of(each > rejection.high),
    }
    if not math.isinf(rejection.low):
        found["seq_fraction_low"] = _share_of(each < rejection.low)
    return found


def _share_of(chosen: NDArray[np.bool_]) -> float:
    # The mean, at a quarter of its price for a batch.
    return np.count_nonzero(chosen) / chosen.size
