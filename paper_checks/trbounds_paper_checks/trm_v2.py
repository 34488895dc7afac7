"""Trust Region Masking for Long-Horizon LLM Reinforcement Learning, arXiv 2512.23075, version 2."""

from __future__ import annotations

from functools import partial

import numpy as np

from trbounds.bounds import get_bound
from trbounds.divergences import k2, k3, tv_from_kl_pinsker
from trbounds.profile import DivergenceProfile
from trbounds.special import capped_root_sum
from trbounds_paper_checks import _bound_evidence as bound_evidence
from trbounds_paper_checks import _policy_evidence as policy_evidence
from trbounds_paper_checks._claim import Claim, PrintedValues, Statement, Value, Verdict

PAPER = "TRM v2"
T = 4096
HEADLINE = "headline point: T = 4096, delta = 1e-4, D = 0.01"
LARGE = "table, large divergence: T = 4096, delta = D = 1"
APPENDIX = "appendix: T = 4096, delta = 0.01"
ACCEPTANCE = "acceptance (1-p)^T"
ESTIMATORS = "sample-based estimators"


def _bound(key: str, delta: float, kl_seq: float | None = None) -> float:
    return bound_evidence.evaluate(key, T=T, kl_max=delta, kl_seq=kl_seq)


def _relaxed(key: str, delta: float) -> float:
    assessed = get_bound(key).assess(DivergenceProfile(T=T, kl_max=delta))
    return float(assessed.relaxed_value)


def _small_pinsker_marginal() -> float:
    return _relaxed("pinsker_marginal", 1e-4)


def _saturated() -> np.ndarray:
    """Positions whose factor min(1, sqrt((t-1) delta/2)) is at its cap, at delta = 1."""
    position = np.arange(1, T + 1)
    return position[np.asarray(tv_from_kl_pinsker((position - 1) * 1.0)) >= 1]


def _accepted(p: float, length: int) -> float:
    return float(np.exp(length * np.log1p(-p)))


def _acceptance(p: float, printed: tuple[str, ...]) -> tuple[Value, ...]:
    lengths = (256, 1024, 4096, 8192, 16384)
    return tuple(
        Value(f"p = {p:g}, T = {length}", text, partial(_accepted, p, length))
        for length, text in zip(lengths, printed, strict=True)
    )


CLAIMS: tuple[Claim, ...] = (
    PrintedValues(
        key="classical",
        paper=PAPER,
        place=HEADLINE,
        text="the classical bound T (T-1) delta",
        values=(Value("classical", "1677", lambda: _bound("classical", 1e-4)),),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="pinsker_marginal",
        paper=PAPER,
        place=HEADLINE,
        text="the Pinsker-Marginal bound (4/3) T^(3/2) delta, and its gain over classical",
        values=(
            Value("Pinsker-Marginal, relaxed", "35.0", _small_pinsker_marginal),
            Value(
                "classical / Pinsker-Marginal",
                "48",
                lambda: _bound("classical", 1e-4) / _small_pinsker_marginal(),
            ),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="mixed",
        paper=PAPER,
        place=HEADLINE,
        text="the Mixed bound 2 T sqrt(delta D), and its gain over classical",
        values=(
            Value("Mixed", "8.2", lambda: _bound("mixed", 1e-4, 0.01)),
            Value(
                "classical / Mixed",
                "200",
                lambda: _bound("classical", 1e-4) / _bound("mixed", 1e-4, 0.01),
            ),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="linear",
        paper=PAPER,
        place="table: the linear bound 4 T eps",
        text="the linear bound with Pinsker, at small and at large divergence",
        values=(
            Value("linear, delta = 1e-4", "115.9", lambda: _bound("linear", 1e-4)),
            Value("linear, delta = 1", "11,585", lambda: _bound("linear", 1.0)),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="large_divergence",
        paper=PAPER,
        place=LARGE,
        text="the bounds at large divergence",
        values=(
            Value("classical", "1.68e7", lambda: _bound("classical", 1.0)),
            Value("Pinsker-Marginal, no cap", "3.49e5", lambda: _relaxed("pinsker_marginal", 1.0)),
            Value("Pinsker-Marginal, capped", "11,582", lambda: _bound("pinsker_marginal", 1.0)),
            Value("Mixed", "8,192", lambda: _bound("mixed", 1.0, 1.0)),
        ),
        recorded=Verdict.ROUNDING,
    ),
    PrintedValues(
        key="saturated_positions",
        paper=PAPER,
        place=LARGE,
        text="at delta = 1 the cap saturates 4,094 of the 4,096 positions, from t = 3",
        values=(
            Value("saturated positions", "4,094", lambda: float(_saturated().size)),
            Value("first of them", "3", lambda: float(_saturated()[0])),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="appendix_parts",
        paper=PAPER,
        place=APPENDIX,
        text="the parts of the Pinsker-Marginal bound, and its relaxed form",
        values=(
            Value("capped sum", "4029", lambda: float(capped_root_sum(T, 0.01 / 2))),
            Value("4 sqrt(delta/2)", "0.283", lambda: 4 * float(tv_from_kl_pinsker(0.01))),
            Value("relaxed", "3495", lambda: _relaxed("pinsker_marginal", 0.01)),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="appendix_bound",
        paper=PAPER,
        place=APPENDIX,
        text="the Pinsker-Marginal bound with its cap",
        values=(Value("Pinsker-Marginal", "1139", lambda: _bound("pinsker_marginal", 0.01)),),
        recorded=Verdict.ROUNDING,
    ),
    Statement(
        key="adaptive_smallest",
        paper=PAPER,
        place="table",
        text="Adaptive is at most every bound above it in the table (their KL forms)",
        evaluate=bound_evidence.adaptive_below_kl_forms,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="adaptive_smallest_tv",
        paper=PAPER,
        place="table",
        text="Adaptive is at most every bound above it, the classical one as 2 T (T-1) eps^2",
        evaluate=bound_evidence.adaptive_below_tv_forms,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="cap_near_the_end",
        paper=PAPER,
        place="Adaptive theorem, discussion",
        text="the cap of the Adaptive bound acts near the end of the sequence",
        evaluate=bound_evidence.cap_near_the_end,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="k3_only_unbiased",
        paper=PAPER,
        place=ESTIMATORS,
        text="k3 is the only estimator that is unbiased for the KL",
        evaluate=policy_evidence.k3_only_unbiased,
        recorded=Verdict.REFUTED,
    ),
    PrintedValues(
        key="acceptance_1e-3",
        paper=PAPER,
        place=ACCEPTANCE,
        text="acceptance of a sequence whose tokens each fail with probability 1e-3",
        values=_acceptance(1e-3, (".774", ".358", ".017", ".0003", "<1e-7")),
        recorded=Verdict.ROUNDING,
    ),
    PrintedValues(
        key="acceptance_1e-4",
        paper=PAPER,
        place=ACCEPTANCE,
        text="acceptance of a sequence whose tokens each fail with probability 1e-4",
        values=_acceptance(1e-4, (".975", ".903", ".663", ".440", ".194")),
        recorded=Verdict.ROUNDING,
    ),
    PrintedValues(
        key="estimators",
        paper=PAPER,
        place=ESTIMATORS,
        text="k3 at rho = 0.01 and k2 at rho = 100",
        values=(
            Value("k3(0.01)", "3.6", lambda: float(k3(np.log(0.01)))),
            Value("k2(100)", "10.6", lambda: float(k2(np.log(100.0)))),
        ),
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="minimum_below_each",
        paper=PAPER,
        place="abstract",
        text="the minimum over the bounds is at most each of them",
        evaluate=bound_evidence.minimum_below_each,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="not_vacuous",
        paper=PAPER,
        place="abstract",
        text="the guarantee is not vacuous (read as: at the headline point it can certify)",
        evaluate=bound_evidence.not_vacuous_at_headline,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="maximum_is_needed",
        paper=PAPER,
        place="abstract",
        text="all bounds depend on the maximum token-level divergence (read as a necessity)",
        evaluate=bound_evidence.maximum_is_needed,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="identity_everywhere",
        paper=PAPER,
        place="importance-ratio identity",
        text="Error = -E_mu[R sum_t (rho_t - 1)(1 - prod_{j>t} rho_j)], whatever the supports",
        evaluate=bound_evidence.identity_everywhere,
        recorded=Verdict.REFUTED,
    ),
    Statement(
        key="no_function_of_sequence_kl",
        paper=PAPER,
        place="proposition on sequence-level KL",
        text="no function f gives delta <= f(D)",
        evaluate=bound_evidence.no_function_of_sequence_kl,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="token_masking",
        paper=PAPER,
        place="token-level methods",
        text="masking tokens leaves delta unchanged",
        evaluate=policy_evidence.token_masking,
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="clip_table",
        paper=PAPER,
        place="table: PPO clipping",
        text="PPO clips if rho > 1 + c and A > 0, or rho < 1 - c and A < 0, and not otherwise",
        evaluate=policy_evidence.clip_table,
        recorded=Verdict.HOLDS,
    ),
)
