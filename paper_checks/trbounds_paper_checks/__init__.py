"""Claims printed in papers, each recomputed by the library and judged by rule.

One file per paper and version, found by listing this folder: a file that does not start with an
underscore holds ``CLAIMS``, a tuple of claims. To add a paper, add a file.
"""

from trbounds_paper_checks._claim import (
    Claim,
    Entry,
    Evidence,
    PrintedValues,
    Result,
    Statement,
    Value,
    Verdict,
    compare,
)
from trbounds_paper_checks._run import Table, papers, run_checks, tables

__all__ = [
    "Claim",
    "Entry",
    "Evidence",
    "PrintedValues",
    "Result",
    "Statement",
    "Table",
    "Value",
    "Verdict",
    "compare",
    "papers",
    "run_checks",
    "tables",
]
