"""The functions that each target emits in place of ops.

In: tensors and weights of a graph. Out: ONNX operators. The targets themselves are records of
`runtime.bundle.targets`.
"""
