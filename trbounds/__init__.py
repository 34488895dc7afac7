"""Trust-region bounds for reinforcement learning of language models.

A policy ``mu`` samples, a policy ``pi`` is trained; ``Error = J(pi) - J(mu) - L'`` is what the
surrogate ``L'`` misses. trbounds states, proves and evaluates bounds on ``|Error|``, and verifies
them on logged traces.
"""

from trbounds.bound import Assessment, Bound, largest_surrogate_gain
from trbounds.bounds import all_bounds, get_bound
from trbounds.errors import InputError, MissingDependency, TrboundsError
from trbounds.profile import DivergenceProfile, Provenance

__version__ = "0.1.0"

__all__ = [
    "Assessment",
    "Bound",
    "DivergenceProfile",
    "InputError",
    "MissingDependency",
    "Provenance",
    "TrboundsError",
    "__version__",
    "all_bounds",
    "get_bound",
    "largest_surrogate_gain",
]
