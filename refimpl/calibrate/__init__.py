"""Calibration: the searches for quantization parameters, which run once before an export.

The input is the weights, and the activations over a calibration text. The output is ranges of activations,
smoothing factors, and the codes and scales of weights. `refimpl.ops.quant` computes with this output.

An observer is a function that measures activations. It takes a state (None at first) and a batch, and
returns the next state. The state's size doesn't grow with the number of batches. Observers don't use
PyTorch.
"""
