"""Logits files and the kernels that turn logits into divergences."""

from trbounds.logits.kernels import row_divergences

__all__ = ["row_divergences"]
