"""Log-probability mismatch of two policies whose logits differ a little.

From a logit error to the exact envelope of a token's mismatch, to caps on the divergences of one
step, to every bound on Error; and from a trace back to the logit error that explains it. The laws
are trbounds' derivations of what DVP (arXiv 2512.23087) claims in its abstract.
"""

from trbounds.mismatch.joint import (
    LARGEST_LOGIT_ERROR,
    LogitErrorBudget,
    largest_logit_error,
    profile_from_logit_error,
)
from trbounds.mismatch.law import MismatchCase, MismatchLaw, Perturbation
from trbounds.mismatch.laws import all_laws, get_law
from trbounds.mismatch.measured import (
    MismatchBin,
    MismatchSummary,
    smallest_logit_error,
)
from trbounds.mismatch.reading import summarize_batches, summarize_traces
from trbounds.mismatch.rows import TokenMismatch, summarize_rows, token_mismatch

__all__ = [
    "LARGEST_LOGIT_ERROR",
    "LogitErrorBudget",
    "MismatchBin",
    "MismatchCase",
    "MismatchLaw",
    "MismatchSummary",
    "Perturbation",
    "TokenMismatch",
    "all_laws",
    "get_law",
    "largest_logit_error",
    "profile_from_logit_error",
    "smallest_logit_error",
    "summarize_batches",
    "summarize_rows",
    "summarize_traces",
    "token_mismatch",
]
