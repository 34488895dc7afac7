"""Selection bias: tokens sampled from noisy logits have a positive mean mismatch in the tail.

To order s^2 it is ``s^2 [(1-p)^2 + R - (1 - p^2 - R)/2]``, ``R = sum_{k != i} p_k^2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trbounds.mismatch.law import MismatchCase, MismatchLaw
from trbounds.mismatch.laws._source import SOURCE

if TYPE_CHECKING:
    from trbounds.derivation import Derivation
    from trbounds.symbolic import Statement


def formula(c: MismatchCase) -> Any:
    """``s^2 [(1-p)(1-3p)/2 + 3R/2]``: the same with the factor 1-p taken out."""
    shape = c.one_minus_p * (1.0 - 3.0 * c.p) / 2.0 + 1.5 * c.rest_square
    return c.noise_sd * c.noise_sd * shape


def statement() -> Statement:
    """The same in sympy."""
    from trbounds.lemmas.softmax import MISMATCH_SYMBOLS, SELECTION_BIAS
    from trbounds.symbolic import Statement

    return Statement(SELECTION_BIAS.right, symbols=MISMATCH_SYMBOLS)


def derive() -> Derivation:
    """Bayes, then the second-order term of a mean over normal errors."""
    from trbounds.derivation import Chain
    from trbounds.lemmas.softmax import SELECTION_BIAS, sampled_mismatch

    return Chain(LAW.title, sampled_mismatch).by(SELECTION_BIAS).end(statement().value)


LAW = MismatchLaw(
    key="selection_bias",
    title="Selection bias of sampled tokens",
    source=SOURCE,
    quantity="mean of log q_i - log p_i over the tokens i sampled from q",
    requires=("noise_sd", "p", "rest_square"),
    formula=formula,
    statement=statement,
    derive=derive,
    rank=70,
    assumes=(
        "q is the sampling policy, and its logits are those of p plus independent N(0, s^2) errors",
    ),
    remainder="O(s^4)",
)
