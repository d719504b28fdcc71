"""One-dimensional convolutions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def conv1d(x: Tensor, kernel: Tensor, bias: Tensor | None = None, *, stride: int, groups: int) -> Tensor:
    """Exported to ONNX as Conv, whose inputs have channels before time."""
    return functional.conv1d(x.mT, kernel, bias, stride=stride, groups=groups).mT
