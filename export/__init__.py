"""Exports checkpoints: `export(checkpoint, out)` writes a bundle, and `tfm.runtime.load` runs it.

In: a `refimpl.checkpoint.open.Checkpoint`. Out: a directory (`runtime.bundle.bundle`) with the model as ONNX,
quantized, and verified against the specification. torch is imported where a graph is traced.
"""

from .bundle_writer import export

__all__ = ["export"]
