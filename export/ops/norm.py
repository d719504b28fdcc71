"""Normalizations over the last axis."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """Exported to ONNX as RMSNormalization from opset 23 on, and as primitive operators in earlier opsets."""
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


@torch_body
def l2_norm(x: Tensor, *, eps: float) -> Tensor:
    """Exported to ONNX as the reciprocal of the root, then Mul."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


@torch_body
def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """Exported to ONNX as LayerNormalization."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
