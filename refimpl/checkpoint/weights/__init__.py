"""Weights: this folder turns the tensors of a checkpoint into the parameters of a Config.

The input is a source of named tensors, and a family's weight map. The output is arrays in tfm's form. Each
array is read only when it is needed. Every parameter must be found exactly once. Every tensor must be read,
compared with a value that tfm computes, or listed by the map as unused.
"""
