"""Engines: the protocol that all of them follow, and the engine that runs the specification.

In: a Config and weights. Out: logits and caches. The kinds of cache say what a layer keeps of earlier tokens.
"""
