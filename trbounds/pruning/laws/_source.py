"""The source of every law here."""

from trbounds.theorem import Source

#: Only the abstract of DVP was at hand: statements and proofs are ours.
SOURCE = Source("trbounds", "our derivation of a claim of DVP (arXiv 2512.23087)")

RENORMALISED = "pruned tokens get probability 0 and the others are divided by the kept mass"
