"""Export checkpoints: `export(checkpoint, out)` writes a bundle, and `tfm.runtime.load` opens the bundle to
run it.

The input is a `refimpl.checkpoint.open.Checkpoint`. The output is a directory (`runtime.bundle.bundle`) with
the model in ONNX, quantized, and verified against the specification. torch is imported only when a graph is
traced.
"""

from .bundle_writer import export

__all__ = ["export"]
