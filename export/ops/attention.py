"""Attention: every query takes a weighted mean of the values that it may see."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def softmax(scores: Tensor, mask: Tensor | None = None, sink: Tensor | None = None) -> Tensor:
    """Exported to ONNX as Softmax. Masked scores are set to the lowest finite number before the softmax, and
    masked weights to zero after it.

    A sink is one more column of scores, the first, so that no key's place depends on the number of keys.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sink is None:
        weights = torch.softmax(scores, -1)
    else:
        weights = torch.softmax(torch.cat((sink, scores), -1), -1)[..., 1:]
    return weights if mask is None else weights.masked_fill(~mask, 0)


@torch_body
def attention_weights(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    sink_logits: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Split the query heads into an axis of groups and one of members. Keys broadcast over the members."""
    size = q.shape[-1]
    q = q * (size**-0.5 if scale is None else scale)
    grouped = q.transpose(1, 2).unflatten(1, (k.shape[2], -1))
    scores = grouped @ k.permute(0, 2, 3, 1).unsqueeze(2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.flatten(1, 2)
    if bias is not None:
        scores = scores + bias
    sink = None if sink_logits is None else sink_logits[:, None, None].expand(*scores.shape[:3], 1)
    return softmax(scores, None if mask is None else mask.unsqueeze(1), sink)


@torch_body
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    sink_logits: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Split the heads of the weights in the same way as the heads of the queries. Values broadcast over a
    group's members.
    """
    weights = attention_weights(q, k, mask, bias, sink_logits, scale=scale, softcap=softcap)
    grouped = weights.unflatten(1, (v.shape[2], -1)) @ v.transpose(1, 2).unsqueeze(2)
    return grouped.flatten(1, 2).transpose(1, 2)
