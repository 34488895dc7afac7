"""The source of every law here."""

from trbounds.theorem import Source

#: Only the abstract of DVP was at hand: statements and proofs are ours.
SOURCE = Source("trbounds", "our derivation of a claim of DVP (arXiv 2512.23087)")

BOUNDED_ERROR = "the logits of the two policies differ by at most the logit error, at every token"
