"""Calibration: searches for quantization parameters, which run once before an export.

Input: activations of a calibration text, and weights. Output: ranges of activations, smoothing factors, and
codes and scales of weights, with which `refimpl.ops.quant` computes. Observers are functions from a state
(None at first) and a batch to the next state. The state's size doesn't grow with the number of batches.
Observers don't use PyTorch.
"""
