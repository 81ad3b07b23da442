"""Faces -> expressions: the one crop function and the batched classifier."""
