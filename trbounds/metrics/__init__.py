"""Metrics under the names and by the formulas of training frameworks.

One module per framework; each states its formulas. They answer "does this log say what my
dashboard says", in float64, with standard errors that the dashboards do not have.
"""

from trbounds.metrics.compute import FRAMEWORKS, FrameworkMetrics, framework_metrics
from trbounds.metrics.statistics import TraceStatistics, trace_statistics
from trbounds.metrics.sums import SequenceSums, sum_sequences

__all__ = [
    "FRAMEWORKS",
    "FrameworkMetrics",
    "SequenceSums",
    "TraceStatistics",
    "framework_metrics",
    "sum_sequences",
    "trace_statistics",
]
