"""The computation of every component of a transformer, as plain functions of arrays. Each file has one
concept.

A function takes arrays and static settings, and returns arrays. Weights are typed dicts, caches are values
that are never changed, and settings are dataclasses of `refimpl.config`. Each public function is an op:
`ops.dispatch` chooses the library that computes it.
"""
