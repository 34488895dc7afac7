"""What the masking criteria of TRM accept; nothing that could be violated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trbounds.traces.summary import TraceSummary
from trbounds.verify.verdict import Verdict

__all__ = ["AVERAGE_KL", "LARGEST_KL", "acceptance_verdicts"]

LARGEST_KL = 0.05
"""Example threshold on the largest KL of a token of a sequence."""

AVERAGE_KL = 1e-3
"""Example threshold on the mean KL of the tokens of a sequence."""


def acceptance_verdicts(summary: TraceSummary) -> Iterator[Verdict]:
    """Yield the share of sequences that TRM's max and average criteria accept."""
    if not summary.has("kl"):
        return
    table = summary.sequences
    mean = table["kl_sum"] / np.maximum(table["length"], 1)
    for check, statement, values, threshold in (
        ("accepted_max", "largest token kl", table["kl_max"], LARGEST_KL),
        ("accepted_average", "mean token kl", mean, AVERAGE_KL),
    ):
        share = float(np.mean(values <= threshold))
        yield Verdict(
            check=check,
            statement=f"accepted by {statement} <= {threshold:g} (TRM)",
            status="exact",
            left=share,
        )
