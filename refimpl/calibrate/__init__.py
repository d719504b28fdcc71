"""Calibration: the searches for quantization parameters, which run once before an export.

The input is the weights, and the activations over a calibration text. The output is ranges of activations,
smoothing factors, and the codes and scales of weights, with which `refimpl.ops.quant` computes. An observer
is a function that takes a state (None at first) and a batch, and returns the next state. The state's size
doesn't grow with the number of batches. Observers don't use PyTorch.
"""
