"""What every component of a transformer computes: one concept per file, plain functions of arrays.

Arrays and static settings go in, arrays come out; weights are typed mappings, caches values, settings
dataclasses of `refimpl.config`. Each public function is an op: `ops.dispatch` says which
library computes it.
"""
