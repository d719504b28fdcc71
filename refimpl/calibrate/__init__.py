"""Searches that choose quantization parameters: ranges of activations, smoothing, codes of weights.

They run once, before an export, so they have no mirror and no graph; what they choose is in the
leaves that `refimpl.ops.quant` computes with. Observers are functions: a state (None at first) and
a batch in, the next state out, of a size that doesn't grow with the batches.
"""
