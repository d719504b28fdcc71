"""Adaptive softmax: a large vocabulary as a short list of frequent words and clusters of rare ones."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def log_softmax(logits: Tensor) -> Tensor:
    """Exported to ONNX as LogSoftmax."""
    return functional.log_softmax(logits, -1)
