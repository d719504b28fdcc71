"""The engine on ONNX Runtime: sessions, bound buffers, caches in the device's memory, packed weights.

In: a `Bundle`. Out: an engine with the protocol of `refimpl.engine.protocol`.
"""
