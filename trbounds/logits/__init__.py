"""Logits files, and the kernels that turn logits into divergences."""

from trbounds.logits.example import example_logits_path
from trbounds.logits.files import (
    LogitsBatch,
    LogitsFile,
    StoredPrecisionWarning,
    TopKBatch,
    read_logits,
)
from trbounds.logits.kernels import RowDivergences, row_divergences
from trbounds.logits.top_k import DivergenceIntervals, top_k_divergences
from trbounds.logits.trace import divergences_to_trace, file_divergences

__all__ = [
    "DivergenceIntervals",
    "LogitsBatch",
    "LogitsFile",
    "RowDivergences",
    "StoredPrecisionWarning",
    "TopKBatch",
    "divergences_to_trace",
    "example_logits_path",
    "file_divergences",
    "read_logits",
    "row_divergences",
    "top_k_divergences",
]
