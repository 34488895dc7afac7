"""Rules under the names that papers and frameworks give them.

TRL's ``token_truncate`` and ``sequence_truncate`` and the "tis" of NeMo-RL and slime are not among
them: they cut a weight at the bound and mask nothing, so that there is nothing to accept.

Each was held against the code of its framework, executed on the same tokens: those of verl against
0.9.1 (the same file in commit 1dda039 of August 2026), those of TRL against 1.16.0, those of
NeMo-RL against 0.7.0 and commit 7ea279a, those of prime-rl against 0.8.0 and commit 559b447, that
of slime against 0.3.1 and commit 624b824. What equals a threshold is accepted, there and here.

Frameworks compare in float32, where a k3 near 0 is off by about 1e-7; here it is float64. Of real
tokens verl's ``token_k3`` puts 1 in 1000 on the other side of a threshold of 1e-6, none of 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trbounds.errors import InputError
from trbounds.masking.rules import And, Interval, Or, Rule


@dataclass(frozen=True)
class Preset:
    """A named rule with numbers to fill in.

    Parameters
    ----------
    name : str
        As the paper or framework writes it; compared without regard to case.
    parameters : tuple of str
        What the numbers are called.
    defaults : tuple of float
        Of the last parameters, where the framework has them.
    make : callable
        From the numbers to the rule.
    source : str
        Where it is from, and what was assumed of it.
    """

    name: str
    parameters: tuple[str, ...]
    defaults: tuple[float, ...]
    make: Callable[..., Rule]
    source: str

    def rule(self, *numbers: float) -> Rule:
        """Return the rule.

        Raises
        ------
        InputError
            For the wrong number of numbers, or bounds that are not positive or not in order.
        """
        fewest, most = len(self.parameters) - len(self.defaults), len(self.parameters)
        if not fewest <= len(numbers) <= most:
            count = str(most) if fewest == most else f"{fewest} to {most}"
            word = "number" if most == 1 else "numbers"
            raise InputError(
                f"'{self.name}' takes {count} {word} ({', '.join(self.parameters)}), "
                f"found {len(numbers)}"
            )
        missing = most - len(numbers)
        return self.make(*numbers, *self.defaults[len(self.defaults) - missing :])


def _at_most(statistic: str) -> Callable[..., Rule]:
    return lambda high: Interval(statistic, high=high)


def _between(statistic: str) -> Callable[..., Rule]:
    def make(low: float, high: float) -> Rule:
        if not low <= high:
            raise InputError(f"found bounds {low:g} and {high:g}, expected lower <= upper")
        return Interval(statistic, low, high)

    return make


def _clipped(statistic: str) -> Callable[..., Rule]:
    # TRL's upper bound comes first: it has a default, and the lower one need not be there.
    return lambda high, low: _between(statistic)(low, high)


def _bounds_on_k1(statistic: str) -> Callable[..., Rule]:
    def make(low: float, high: float) -> Rule:
        # With one number it is the upper bound, and the lower one is its inverse.
        low, high = (1 / low, low) if math.isnan(high) and low > 0 else (low, high)
        if not 0 < low <= high:
            raise InputError(f"found bounds {low:g} and {high:g}, expected 0 < lower <= upper")
        return Interval(statistic, math.log(low), math.log(high))

    return make


def _threshold(value: float) -> float:
    if not value >= 0:
        raise InputError(f"found {value:g}, expected a threshold of at least 0")
    return value


def _ipo(threshold: float) -> Rule:
    _threshold(threshold)
    return Interval("token prob_delta", -threshold, threshold)


def _dppo(low: float, high: float) -> Rule:
    up = Interval("token prob_delta", high=_threshold(high))
    down = Interval("token prob_delta", low=-_threshold(low))
    return Or(
        (
            And((Interval("token advantages", low=0.0, low_open=True), up)),
            And((Interval("token advantages", high=0.0), down)),
        )
    )


def _both(first: str, second: str) -> Callable[..., Rule]:
    return lambda a, b: And((Interval(first, high=a), Interval(second, high=b)))


_TRM = "TRM (arXiv 2512.23075)"
_SAMPLED = f"{_TRM}, from sampled tokens"
_VERL = "verl 0.7.1 to 0.9.1 rollout_rs, log rho clamped to [-20, 20]"
_QUIRK = (
    f"{_VERL}; the bounds act on -log rho, so that rho stays in [1/upper, 1/lower]; with one "
    "number the lower bound is its inverse"
)
_TRL = "TRL 1.16.0 vllm_importance_sampling_mode, with its clip_max and clip_min"


def _one(name: str, statistic: str, source: str, *, parameter: str = "threshold") -> Preset:
    return Preset(name, (parameter,), (), _at_most(statistic), source)


_ALL = (
    _one("TRM-Max", "max kl", _TRM, parameter="delta"),
    _one("TRM-Avg", "mean kl", _TRM, parameter="delta_avg"),
    Preset("TRM-Max&Avg", ("delta", "delta_avg"), (), _both("max kl", "mean kl"), _TRM),
    _one("TRM-Max-k2", "max k2", _SAMPLED, parameter="delta"),
    _one("TRM-Avg-k3", "mean k3", _SAMPLED, parameter="delta_avg"),
    Preset("TRM-Max-k2&Avg-k3", ("delta", "delta_avg"), (), _both("max k2", "mean k3"), _SAMPLED),
    _one("LN-TRM", "ln_trm", _TRM, parameter="delta_W"),
    _one("LN-TRM-TV", "ln_trm_tv", f"{_TRM}, version 3", parameter="delta_W"),
    _one("SER", "ser", _TRM, parameter="delta_SER"),
    *(
        _one(f"seq_{aggregate}_{term}", f"{aggregate} clamped_{term}", _VERL)
        for aggregate, term in (
            ("max", "k2"),
            ("max", "k3"),
            ("mean", "k2"),
            ("mean", "k3"),
            ("sum", "k2"),
            ("sum", "k3"),
        )
    ),
    *(
        Preset(
            f"seq_{aggregate}_k1",
            ("lower", "upper"),
            (math.nan,),
            _bounds_on_k1(f"{aggregate} clamped_k1"),
            _QUIRK,
        )
        for aggregate in ("mean", "sum")
    ),
    Preset("token_k1", ("lower", "upper"), (math.nan,), _bounds_on_k1("token clamped_k1"), _QUIRK),
    _one("token_k2", "token clamped_k2", _VERL),
    _one("token_k3", "token clamped_k3", _VERL),
    Preset(
        "sequence_mask", ("clip_max", "clip_min"), (3.0, -math.inf), _clipped("product ratio"), _TRL
    ),
    Preset("token_mask", ("clip_max", "clip_min"), (3.0, -math.inf), _clipped("token ratio"), _TRL),
    Preset(
        "IcePop",
        ("low", "high"),
        (0.5, 5.0),
        _between("token ratio"),
        "IcePop; verl 0.9.1 has it as rollout_is_threshold 'low_high', NeMo-RL 0.7.0 as 'icepop', "
        "slime 0.3.1 as icepop_function (with tis_clip_low 0 and tis_clip 2 by default)",
    ),
    Preset(
        "geometric",
        ("low", "high"),
        (0.999, 1.001),
        _between("geomean ratio"),
        "verl 0.6.1 and 0.7.0 rollout_rs 'geometric': the geometric mean of rho",
    ),
    Preset(
        "seq-mask-tis",
        ("low", "high"),
        (0.999, 1.002),
        _between("geomean ratio"),
        "NeMo-RL 0.7.0 truncated_importance_sampling_type, with the bounds of its recipes",
    ),
    _one(
        "seq_logprob_error_threshold",
        "mean mult_prob_error",
        "NeMo-RL 0.7.0, off by default; its recipes have 2",
    ),
    Preset(
        "IPO",
        ("threshold",),
        (0.1,),
        _ipo,
        "prime-rl 0.8.0 loss 'ipo', with its ipo_threshold",
    ),
    Preset(
        "DPPO",
        ("low", "high"),
        (),
        _dppo,
        "prime-rl 0.8.0 loss 'default', with its dppo_mask_low and _high, 0.2 and 0.2 by default: "
        "the sign of the advantage decides which of them applies",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({p.name.lower(): p for p in _ALL})
"""Every preset by its name in lower case."""
