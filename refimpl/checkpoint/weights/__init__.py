"""Weights: the tensors of a checkpoint become the leaves of a Config.

Input: a source of named tensors, and a family's map. Output: arrays in tfm's form, each read only when it is
needed. Every leaf must be found once, and every tensor must be read, compared or known as unused.
"""
