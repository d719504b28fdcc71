"""Builds the ONNX graph of a model: traces the module over its weights, then improves and checks the graph.

In: a Config, a target and the shapes of the stored weights. Out: an ONNX model that points to them.
"""
