"""The functions that each target runs in place of ops while a graph is traced.

They take a graph's tensors and weights and return ONNX operators. The targets themselves are records of
`runtime.bundle.targets`.
"""
