"""The engine on ONNX Runtime: sessions, bound buffers, caches in the device's memory, packed weights.

In comes a `Bundle`; out goes an engine with the protocol of `refimpl.engine.protocol`.
"""
