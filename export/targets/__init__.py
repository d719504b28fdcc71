"""Define the functions that each target runs in place of ops while a graph is traced.

Such a function takes a graph's tensors and weights, and returns the outputs of ONNX operators. The targets
themselves are records of `runtime.bundle.targets`.
"""
