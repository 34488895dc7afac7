"""Lemmas shared by the derivations, each with a checked proof of its own. Imports sympy."""
