"""Weights: the tensors of a checkpoint become the leaves of a Config.

In: a source of named tensors, and a family's map. Out: arrays in our form, each read when it is asked for.
Every leaf must be found once, and every tensor must be read, compared or known as unused.
"""
