"""Metrics of a trace by the name of a framework, whole or by training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError
from trbounds.metrics import nemo_rl, prime_rl, slime, trl, verl
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums, sum_sequences
from trbounds.traces.batch import TraceBatch
from trbounds.traces.estimates import number_groups
from trbounds.traces.jackknife import jackknife_error

__all__ = ["FRAMEWORKS", "FrameworkMetrics", "framework_metrics"]

_MAX_BLOCKS = 32
"""Most groups of prompts that the jackknife deletes: each costs one more evaluation."""


class _Framework(NamedTuple):
    metrics: Callable[..., dict[str, float]]
    columns: tuple[str, ...]
    weighting: _Weighting | None = None
    only_kept: bool = False


class _Weighting(NamedTuple):
    make: Callable[[float, float | None, str], Weights]
    token_columns: tuple[str, ...]
    cap: float
    level: str


FRAMEWORKS: Mapping[str, _Framework] = MappingProxyType(
    {
        "verl": _Framework(
            verl.metrics,
            verl.COLUMNS,
            _Weighting(verl.make_weights, verl.TOKEN_COLUMNS, 2.0, "token"),
        ),
        "nemo-rl": _Framework(
            nemo_rl.metrics,
            nemo_rl.COLUMNS,
            _Weighting(nemo_rl.make_weights, (), math.inf, "none"),
            only_kept=True,
        ),
        "prime-rl": _Framework(prime_rl.metrics, prime_rl.COLUMNS),
        "slime": _Framework(
            slime.metrics,
            slime.COLUMNS,
            _Weighting(slime.make_weights, slime.TOKEN_COLUMNS, 2.0, "token"),
        ),
        "trl": _Framework(
            trl.metrics,
            trl.COLUMNS,
            _Weighting(trl.make_weights, trl.TOKEN_COLUMNS, 3.0, "sequence_mask"),
        ),
    }
)
"""By name: the formulas, the sums they need, how weights are made where that can be set, with the
default cap and level, and whether sequences that the framework left out do not count."""


@dataclass(frozen=True)
class FrameworkMetrics:
    """The metrics of one training step, or of a whole trace.

    Parameters
    ----------
    step : int or None
        Training step; None for a whole trace.
    n_sequences : int
        Sequences it is made of.
    values : mapping of str to float
        By the name on the dashboard.
    standard_errors : mapping of str to float
        Delete-a-group jackknife over prompts (over sequences where no prompt is logged); NaN with
        fewer than two, and for a largest or smallest value, where it is not right.
    """

    step: int | None
    n_sequences: int
    values: Mapping[str, float]
    standard_errors: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "step": self.step,
            "sequences": self.n_sequences,
            "metrics": {
                name: {"value": value, "standard_error": self.standard_errors[name]}
                for name, value in self.values.items()
            },
        }


def framework_metrics(
    batches: Iterable[TraceBatch],
    framework: str,
    *,
    by_step: bool = False,
    cap: float | None = None,
    floor: float | None = None,
    level: str | None = None,
) -> list[FrameworkMetrics]:
    """Compute the metrics that a framework logs, from its log-probabilities.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace, read once.
    framework : str
        A key of :data:`FRAMEWORKS`.
    by_step : bool
        One result per training step (-1: sequences without one), as dashboards show them, instead
        of one of the whole trace.
    cap, floor, level : float, float and str, optional
        The framework's setting of importance weights: verl's ``rollout_is_threshold``, its lower
        number if it has two, and ``rollout_is``; TRL's ``vllm_importance_sampling_clip_max``,
        ``_clip_min`` and ``_mode``; slime's ``tis_clip`` and ``tis_clip_low``; NeMo-RL's
        ``truncated_importance_sampling_ratio``, ``_ratio_min`` and ``_type``.

    Returns
    -------
    list of FrameworkMetrics

    Raises
    ------
    InputError
        For an unknown framework, a setting it does not have, or a trace without tokens.

    Examples
    --------
    >>> from trbounds.metrics import framework_metrics
    >>> from trbounds.traces import example_path, open_trace
    >>> (found,) = framework_metrics(open_trace(example_path()), "verl")
    >>> round(found.values["rollout_corr/kl"], 6)
    -0.00012
    """
    if framework not in FRAMEWORKS:
        raise InputError(
            f"found {framework!r}, expected one of {', '.join(FRAMEWORKS)}", field="framework"
        )
    chosen = FRAMEWORKS[framework]
    columns, weights = chosen.columns, Weights()
    settings: tuple[Weights, str] | tuple[()] = ()
    if chosen.weighting is not None:
        make, token_columns, usual_cap, usual_level = chosen.weighting
        level = usual_level if level is None else level
        weights = make(usual_cap if cap is None else cap, floor, level)
        columns += token_columns if level.startswith("token") else ()
        settings = (weights, level)
    else:
        for name, given in (("cap", cap), ("floor", floor), ("level", level)):
            if given is not None:
                raise InputError(f"{framework} has no such setting", field=name)
    sums = sum_sequences(batches, columns, weights)
    if chosen.only_kept:
        sums = sums.select(sums.kept)
        if not sums.length.any():
            raise InputError(
                f"found no token that {framework} kept, expected at least one", field="accepted"
            )

    def evaluate(part: SequenceSums) -> dict[str, float]:
        return chosen.metrics(part, *settings)

    if not by_step:
        return [_with_errors(sums, evaluate, None)]
    return [
        _with_errors(sums.select(sums.step == step), evaluate, int(step))
        for step in np.unique(sums.step)
        if sums.length[sums.step == step].any()
    ]


def _with_errors(
    sums: SequenceSums, evaluate: Callable[[SequenceSums], dict[str, float]], step: int | None
) -> FrameworkMetrics:
    values = evaluate(sums)
    blocks = number_groups(sums.group) % _MAX_BLOCKS
    without = [
        evaluate(left) if left.length.any() else dict.fromkeys(values, math.nan)
        for left in (sums.select(blocks != block) for block in range(_n_blocks(blocks)))
    ]
    errors = {
        name: math.nan
        if name.endswith(("max", "min", "max_deviation")) or "/max_" in name or "/min_" in name
        else jackknife_error(np.array([other[name] for other in without]))
        for name in values
    }
    return FrameworkMetrics(step, sums.n_sequences, values, errors)


def _n_blocks(blocks: NDArray[np.int64]) -> int:
    # With one block there is nothing left to compare it with.
    count = int(blocks.max()) + 1
    return count if count > 1 else 0
