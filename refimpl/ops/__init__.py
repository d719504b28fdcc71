"""The computation of every component of a transformer, as plain functions of arrays. Each file has one
concept.

Each function takes arrays and static settings, and returns arrays. Weights are typed dicts, and settings
are dataclasses of `refimpl.config`. A function never changes a cache; it returns a new one. Each public
function is an op: `ops.dispatch` chooses the library that computes the op.
"""
