"""Certified values: a rigorous enclosure of any bound, by ball arithmetic (python-flint).

Imported only when asked for; needs the extra ``certified``.
"""

from trbounds.errors import MissingDependency

try:
    import flint as _flint  # noqa: F401
except ImportError:
    raise MissingDependency(
        "python-flint", extra="certified", purpose="certified arithmetic"
    ) from None

from trbounds.certified.enclosure import Enclosure, enclose, enclose_values

__all__ = ["Enclosure", "enclose", "enclose_values"]
