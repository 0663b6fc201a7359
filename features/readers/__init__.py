"""How the values of a feature read the table where rows are not simply laid side by side.

A reader finds the rows of keys and combines what stands there into vectors. Its `combine` is made
of operations that numpy arrays and torch tensors both have, in one order, so what training learns
from and what a service answers are the same numbers.
"""
