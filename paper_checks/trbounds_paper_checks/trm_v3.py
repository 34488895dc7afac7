"""Trust Region Masking for Long-Horizon LLM Reinforcement Learning, arXiv 2512.23075, version 3."""

from __future__ import annotations

from trbounds_paper_checks import _bound_evidence as bound_evidence
from trbounds_paper_checks import _policy_evidence as policy_evidence
from trbounds_paper_checks._claim import Claim, PrintedValues, Statement, Value, Verdict

__all__ = ["CLAIMS"]

PAPER = "TRM v3"
KL_ONLY = "table, KL only: T = 4096, delta = 1e-4, D = 0.01"
KL_AND_TV = "table, KL and TV: T = 4096, delta = 1e-4, eps = 5e-3, V = 0.05"


def _kl_only(key: str) -> float:
    return bound_evidence.evaluate(key, T=4096, kl_max=1e-4, kl_seq=0.01)


def _kl_and_tv(key: str) -> float:
    return bound_evidence.evaluate(key, T=4096, kl_max=1e-4, tv_max=5e-3, tv_seq=0.05)


CLAIMS: tuple[Claim, ...] = (
    PrintedValues(
        key="kl_only",
        paper=PAPER,
        place=KL_ONLY,
        text="the bounds when only KL divergences are known",
        values=(
            Value("classical", "1677", lambda: _kl_only("classical")),
            Value("coupling", "113.8", lambda: _kl_only("coupling")),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="kl_and_tv",
        paper=PAPER,
        place=KL_AND_TV,
        text="the bounds when TV divergences are known too",
        values=(
            Value("classical", "839", lambda: _kl_and_tv("classical")),
            Value("coupling", "79.9", lambda: _kl_and_tv("coupling")),
            Value("Pinsker-Marginal-TV", "24.7", lambda: _kl_and_tv("pinsker_marginal_tv")),
            Value("Mixed-TV", "4.1", lambda: _kl_and_tv("mixed_tv")),
        ),
        recorded=Verdict.HOLDS,
    ),
    PrintedValues(
        key="gain_over_classical",
        paper=PAPER,
        place=KL_AND_TV,
        text="Mixed-TV is 409 times below the classical bound (its KL form)",
        values=(
            Value(
                "classical / Mixed-TV",
                "409",
                lambda: _kl_only("classical") / _kl_and_tv("mixed_tv"),
            ),
        ),
        recorded=Verdict.HOLDS,
    ),
    Statement(
        key="crossover",
        paper=PAPER,
        place="Adaptive hybrid",
        text="the TV route is the smaller one while T - t < delta / (2 eps^2)",
        evaluate=bound_evidence.crossover,
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
        key="maximum_is_needed",
        paper=PAPER,
        place="abstract",
        text="all bounds depend on the maximum token-level divergence (read as a necessity)",
        evaluate=bound_evidence.maximum_is_needed,
        recorded=Verdict.REFUTED,
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
