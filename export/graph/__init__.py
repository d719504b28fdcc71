"""The ONNX graph of a model: the module over its weights is traced, then improved and checked by passes.

In: a Config, a target and the shapes of the stored weights. Out: an ONNX model that points to them.
"""
