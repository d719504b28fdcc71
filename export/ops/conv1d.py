"""Implement one-dimensional convolutions in PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def conv1d(x: Tensor, kernel: Tensor, bias: Tensor | None = None, *, stride: int, groups: int) -> Tensor:
    """Compute a convolution over the tokens, as a Conv in ONNX. Conv has channels before time, so the axes
    are swapped before and after.
    """
    return functional.conv1d(x.mT, kernel, bias, stride=stride, groups=groups).mT
