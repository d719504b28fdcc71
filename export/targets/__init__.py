"""What each target emits in the place of mirror functions.

In come tensors and weights as they stand in the graph; out come ONNX operators. The targets themselves are
records of `runtime.bundle.targets`.
"""
