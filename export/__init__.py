"""Exports checkpoints: `export(checkpoint, out)` writes a bundle, which `tfm.runtime.load` runs.

In comes a `refimpl.checkpoint.open.Checkpoint`, out goes a directory (`runtime.bundle.bundle`): the model as
ONNX, quantized, and verified against the specification. torch is imported where a graph is traced.
"""

from .bundle_writer import export

__all__ = ["export"]
