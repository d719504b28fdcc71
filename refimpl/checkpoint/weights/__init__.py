"""Weights: the tensors of a checkpoint become the parameters of a Config.

The input is a source of named tensors, and a family's weight map. The output is arrays in tfm's form, each
read only when it is needed. Every parameter must be found exactly once. Every tensor must be read, compared,
or known as unused.
"""
