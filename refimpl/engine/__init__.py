"""Engines: the protocol that all of them follow, and the engine that runs the specification.

An engine takes a Config and weights, and computes logits and caches. The kinds of cache say what a layer
keeps about earlier tokens.
"""
