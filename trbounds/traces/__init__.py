"""Logged traces: the batch, readers for each format, and the summary of one pass.

Importing this package loads numpy only; pyarrow is imported when a file needs it.
"""

from trbounds.traces.batch import TraceBatch
from trbounds.traces.device_sums import TokenSums, token_sums
from trbounds.traces.engine import summarize
from trbounds.traces.paths import example_path, expand_paths
from trbounds.traces.reading import Progress, open_trace
from trbounds.traces.summary import TraceSummary
from trbounds.traces.validate import ReadOptions, validate
from trbounds.traces.writing import write_parquet

__all__ = [
    "Progress",
    "ReadOptions",
    "TokenSums",
    "TraceBatch",
    "TraceSummary",
    "example_path",
    "expand_paths",
    "open_trace",
    "summarize",
    "token_sums",
    "validate",
    "write_parquet",
]
