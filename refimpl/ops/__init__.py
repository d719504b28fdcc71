"""What every component of a transformer computes: one concept per file, plain functions of arrays.

Arrays and static settings go in, arrays come out. Weights are typed mappings, caches are values, and settings
are dataclasses of `refimpl.config`. Each public function is an op: `ops.dispatch` chooses the library that
computes it.
"""
