"""What runs a model: the protocol of engines and caches, and the engine that runs the specification.

In come a Config and weights; out go logits and caches. The kinds of cache say what a layer keeps of
earlier tokens.
"""
