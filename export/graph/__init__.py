"""Build the ONNX graph of a model: trace the module over its weights, then improve and check the graph.

The input is a Config, a target and the shapes of the stored weights. The output is an ONNX model that points
to these weights.
"""
