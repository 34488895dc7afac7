"""Trust-region bounds for reinforcement learning of language models.

A policy ``mu`` samples, a policy ``pi`` is trained; ``Error = J(pi) - J(mu) - L'`` is what the
surrogate ``L'`` misses. trbounds states, proves and evaluates bounds on ``|Error|``, and verifies
them on logged traces.

Describe a pair of policies by a :class:`DivergenceProfile`, and evaluate a :class:`Bound` there::

    >>> from trbounds import DivergenceProfile, get_bound
    >>> get_bound("cauchy_schwarz").evaluate(DivergenceProfile(T=4096, kl_max=1e-4, kl_seq=0.01))
    2.895...

Further packages, each imported by its name:

=========================  ==========================================================
``trbounds.traces``        read and summarize logs
``trbounds.trace_bounds``  every bound on a summary
``trbounds.verify``        check a summary
``trbounds.masking``       masking rules and their thresholds
``trbounds.metrics``       metrics by the formulas of frameworks
``trbounds.recorder``      record traces from a training loop
``trbounds.logits``        exact divergences from logits
``trbounds.mismatch``      log-probability mismatch
``trbounds.pruning``       pruning the vocabulary
``trbounds.divergences``   KL, TV, chi2, and conversions between them
``trbounds.solve``         bounds inverted
``trbounds.oracle``        exact truth on small problems
``trbounds.certified``     rigorous enclosures (needs the extra ``certified``)
=========================  ==========================================================
"""

from trbounds.bound import Assessment, Bound, largest_surrogate_gain
from trbounds.bounds import all_bounds, assess_all, best_bound, get_bound
from trbounds.errors import InputError, MissingDependency, MissingField, TrboundsError
from trbounds.profile import DivergenceProfile, Provenance

__version__ = "0.1.0"

__all__ = [
    "Assessment",
    "Bound",
    "DivergenceProfile",
    "InputError",
    "MissingDependency",
    "MissingField",
    "Provenance",
    "TrboundsError",
    "__version__",
    "all_bounds",
    "assess_all",
    "best_bound",
    "get_bound",
    "largest_surrogate_gain",
]
