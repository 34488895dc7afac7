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
from trbounds.metrics import nemo_rl, prime_rl, slime, trl, verl, verl_rejection
from trbounds.metrics.importance import Weights
from trbounds.metrics.sums import SequenceSums, sum_sequences
from trbounds.traces.batch import TraceBatch
from trbounds.traces.groups import number_groups
from trbounds.traces.jackknife import jackknife_error

__all__ = ["FRAMEWORKS", "FrameworkMetrics", "framework_metrics"]

_MAX_BLOCKS = 32
"""Most groups of prompts that the jackknife deletes: each costs one more evaluation."""


class _Framework(NamedTuple):
    metrics: Callable[..., dict[str, float]]
    columns: tuple[str, ...]
    weighting: _Weighting | None = None
    only_kept: bool = False
    rejects: bool = False


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
            rejects=True,
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
default cap and level, whether sequences that the framework left out do not count, and whether it
logs its rejection rules, as verl does."""


@dataclass(frozen=True)
class FrameworkMetrics:
    """The metrics of one training step, or of a whole trace.

    Parameters
    ----------
    step : int or None
        Training step; None for a whole trace, and for sequences without one.
    n_sequences : int
        Sequences it is made of.
    values : mapping of str to float
        By the name on the dashboard.
    standard_errors : mapping of str to float
        Delete-a-group jackknife over prompts (over sequences where no prompt is logged); NaN with
        fewer than two, and for a largest or smallest value, where it is not right. Empty where
        none were asked for.
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
                name: {"value": value, "standard_error": self.standard_errors.get(name, math.nan)}
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
    rejection: str | None = None,
    rejection_threshold: str | float | None = None,
    standard_errors: bool = True,
    kernel: str = "auto",
) -> list[FrameworkMetrics]:
    """Compute the metrics that a framework logs, from its log-probabilities.

    Parameters
    ----------
    batches : iterable of TraceBatch
        The trace, read once.
    framework : str
        A key of :data:`FRAMEWORKS`.
    by_step : bool
        One result per training step (None: sequences without one), as dashboards show them,
        instead of one of the whole trace.
    cap, floor, level : float, float and str, optional
        The framework's setting of importance weights: verl's ``rollout_is_threshold``, its lower
        number if it has two, and ``rollout_is``; TRL's ``vllm_importance_sampling_clip_max``,
        ``_clip_min`` and ``_mode``; slime's ``tis_clip`` and ``tis_clip_low``; NeMo-RL's
        ``truncated_importance_sampling_ratio``, ``_ratio_min`` and ``_type``.
    rejection, rejection_threshold : str, and str or float, optional
        verl's ``rollout_rs`` and ``rollout_rs_threshold``, for ``rollout_rs_*``.
    standard_errors : bool
        Whether to compute them: for a batch of a training step they take longer than the metrics.
    kernel : {"auto", "numpy", "numba"}
        As of `trbounds.traces.summarize`; the same numbers to 1e-11.

    Returns
    -------
    list of FrameworkMetrics

    Raises
    ------
    InputError
        For an unknown framework or kernel, a setting it does not have, or a trace without tokens.
    MissingDependency
        If numba is asked for and absent.

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
        _refuse(framework, cap=cap, floor=floor, level=level)
    rules = _rejections(framework, chosen, rejection, rejection_threshold)
    columns += tuple(name for name in verl_rejection.columns(rules) if name not in columns)
    sums = sum_sequences(
        batches, columns, weights, extra=verl_rejection.extra_columns(rules), kernel=kernel
    )
    if chosen.only_kept:
        sums = sums.select(sums.kept)
        if not sums.n_tokens:
            raise InputError(
                f"found no token that {framework} kept, expected at least one", field="accepted"
            )

    def evaluate(part: SequenceSums) -> dict[str, float]:
        found = chosen.metrics(part, *settings)
        return found | verl_rejection.metrics(part, rules) if rules else found

    def result(part: SequenceSums, step: int | None) -> FrameworkMetrics:
        # What is beyond float64 is as infinite here as it is in float32 there.
        with np.errstate(over="ignore"):
            values = evaluate(part)
            errors = _errors(part, evaluate, values) if standard_errors else {}
        return FrameworkMetrics(step, part.n_sequences, values, errors)

    if not by_step:
        return [result(sums, None)]
    return [
        result(part, step if step >= 0 else None) for step, part in sums.by_step() if part.n_tokens
    ]


def _refuse(framework: str, **settings: object) -> None:
    for name, given in settings.items():
        if given is not None:
            raise InputError(f"{framework} has no such setting", field=name)


def _rejections(
    framework: str, chosen: _Framework, rejection: str | None, threshold: str | float | None
) -> tuple[verl_rejection.Rejection, ...]:
    if not chosen.rejects:
        _refuse(framework, rejection=rejection, rejection_threshold=threshold)
    if rejection is None and threshold is None:
        return ()
    if rejection is None or threshold is None:
        lacking = "rejection" if rejection is None else "rejection_threshold"
        raise InputError("missing: rules and thresholds go together", field=lacking)
    return verl_rejection.parse(rejection, threshold)


def _errors(
    sums: SequenceSums,
    evaluate: Callable[[SequenceSums], dict[str, float]],
    values: Mapping[str, float],
) -> dict[str, float]:
    blocks = number_groups(sums.group) % _MAX_BLOCKS
    without = [
        evaluate(left) if left.n_tokens else dict.fromkeys(values, math.nan)
        for left in (sums.select(blocks != block) for block in range(_n_blocks(blocks)))
    ]
    return {
        name: math.nan
        if name.endswith(("max", "min", "max_deviation")) or "/max_" in name or "/min_" in name
        else jackknife_error(np.array([other[name] for other in without]))
        for name in values
    }


def _n_blocks(blocks: NDArray[np.int64]) -> int:
    # With one block there is nothing left to compare it with.
    count = int(blocks.max()) + 1
    return count if count > 1 else 0
