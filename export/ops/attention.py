"""Implement attention in PyTorch: the result of each query is a weighted mean of the values that the query
may see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def softmax(scores: Tensor, mask: Tensor | None = None, sink: Tensor | None = None) -> Tensor:
    """Compute the softmax of each row of scores, as a Softmax in ONNX. Before the softmax, masked scores are
    set to the lowest finite number. After the softmax, masked weights are set to zero.

    A sink is an additional score, and its weight is dropped. The sink is the first column, so that no key's
    column depends on the number of keys.
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
    """Compute each query's softmax weights for all keys [B, H, T, S].

    Several query heads share one key head. So the query heads are split into an axis of groups and an axis of
    members, and the keys broadcast over the members.
    """
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
    """Compute the mean of the values for each query, weighted by `attention_weights`.

    Several query heads share one value head. So the weights' heads are split into groups and members, and the
    values broadcast over the members.
    """
    weights = attention_weights(q, k, mask, bias, sink_logits, scale=scale, softcap=softcap)
    grouped = weights.unflatten(1, (v.shape[2], -1)) @ v.transpose(1, 2).unsqueeze(2)
    return grouped.flatten(1, 2).transpose(1, 2)
