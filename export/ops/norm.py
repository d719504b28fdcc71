"""Implement normalizations over the last axis in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """Compute RMSNorm over the last axis. In ONNX, this is RMSNormalization from opset 23 on, and several
    basic operators in earlier opsets.
    """
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


@torch_body
def l2_norm(x: Tensor, *, eps: float) -> Tensor:
    """Scale each vector of the last axis to length 1. In ONNX, this is a reciprocal of the root, then a
    Mul.
    """
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


@torch_body
def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """Compute LayerNorm over the last axis, as a LayerNormalization in ONNX."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
