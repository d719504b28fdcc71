"""Implement the log softmax that adaptive softmax needs in PyTorch. Adaptive softmax splits a large
vocabulary into a short list of frequent words and clusters of rare words.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def log_softmax(logits: Tensor) -> Tensor:
    """Compute the logarithm of the softmax over the last axis, as a LogSoftmax in ONNX."""
    return functional.log_softmax(logits, -1)
