"""Engines: the protocol that all engines follow, and the engine that runs the specification.

An engine takes a Config and weights, and computes logits and caches. A kind of cache says what a layer stores
about earlier tokens.
"""
