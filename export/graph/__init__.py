"""The ONNX graph of a model: the module over its weights is traced, then improved and checked pass by pass.

In come a Config, a target and the shapes of the stored weights; out comes an ONNX model that points to them.
"""
