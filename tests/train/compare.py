"""A trained checkpoint on each engine: NumPy, torch, and ONNX Runtime through the bundles it becomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tfm import runtime
from tfm.export.bundle_writer import export
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.tasks import Model


def models(path: Path, quants: Sequence[str], context: int | None = None) -> Iterator[tuple[str, Model]]:
    """(name, model) of each; the bundles stand beside the checkpoint."""
    checkpoint = open_checkpoint(path).for_context(context)
    params = materialize(checkpoint.params)
    yield "numpy", Model(NumpyEngine(checkpoint.config, params), checkpoint)
    yield "torch", Model(TorchEngine(checkpoint.config, params), checkpoint)
    for quant in quants:
        bundle = path.with_name(f"{path.name}-{quant}")
        export(checkpoint, bundle, quant=quant, verify=False)
        yield f"onnx {quant}", runtime.load(bundle)
