"""The small file of real logits that ships with trbounds."""

from __future__ import annotations

from pathlib import Path


def example_logits_path() -> str:
    """Path of 100 rows of real logits of two policies (see ``data/README.md``)."""
    return str(Path(__file__).parents[1] / "data" / "logits_example.npz")
