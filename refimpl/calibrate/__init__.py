"""Calibration: searches for quantization parameters, which run once before an export.

In: activations of a calibration text, and weights. Out: ranges of activations, smoothing factors, and codes
and scales of weights, which `refimpl.ops.quant` computes with. Observers are functions from a state (None at
first) and a batch to the next state, whose size doesn't grow with the batches. PyTorch has no part in them.
"""
