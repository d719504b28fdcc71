"""Weights: the tensors of a checkpoint become the parameters of a Config.

Input: a source of named tensors, and a family's map. Output: arrays in tfm's form, each read only when it is
needed. Every parameter must be found once, and every tensor must be read, compared or known as unused.
"""
