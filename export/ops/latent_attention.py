"""Implement multi-head latent attention in PyTorch: the cache stores one short vector for each token, the
latent.

Each head computes its keys and values from the latents.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ...refimpl.ops.attention import attend, softmax
from ..torch_bodies import torch_body


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """Split a matrix [C, H·F] into one matrix for each head, [H, C, F]."""
    return weight.unflatten(1, (heads, weight.shape[1] // heads)).transpose(0, 1)


@torch_body
def expanded_attend(
    q: Tensor,
    latents: Tensor,
    wk_b: Tensor,
    wv_b: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Compute attention after the latents were expanded to keys and values, by one product for each head. All
    heads share the rotary key, which is repeated for each head.
    """
    h, rank = q.shape[2], wk_b.shape[0]
    latent = latents[..., :rank].unsqueeze(1)
    k, v = (latent @ _by_head(w, h) for w in (wk_b, wv_b))
    rotary_key = latents[..., rank:].unsqueeze(1).expand(-1, h, -1, -1)
    return attend(q, torch.cat((k, rotary_key), -1).transpose(1, 2), v.transpose(1, 2), mask, scale=scale)


@torch_body
def absorbed_attend(
    q: Tensor,
    latents: Tensor,
    wk_b: Tensor,
    wv_b: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Compute attention directly over the latents, without keys and values for each head. All heads share the
    latents, so the scores are one product, with a row for each pair of head and token.
    """
    h, rank = q.shape[2], wk_b.shape[0]
    wk = _by_head(wk_b, h)
    plain, rotated = (
        (q * (q.shape[3] ** -0.5 if scale is None else scale)).transpose(1, 2).tensor_split([wk.shape[2]], -1)
    )
    absorbed = torch.cat((plain @ wk.mT, rotated), -1) if rotated.shape[-1] else plain @ wk.mT
    scores = (absorbed.flatten(1, 2) @ latents.mT).unflatten(1, (h, -1))
    weights = softmax(scores, None if mask is None else mask.unsqueeze(1))
    mean = (weights.flatten(1, 2) @ latents[..., :rank]).unflatten(1, (h, -1))
    return (mean @ _by_head(wv_b, h)).transpose(1, 2)


@torch_body
def chosen_latents(latents: Tensor, mask: Tensor, *, topk: int) -> tuple[Tensor, Tensor]:
    """Return the latents that at least one of T tokens sees, and the mask for these latents. A single token
    reads at most `topk` latents of a long text; a prompt reads all latents.

    One graph serves both cases, so the number of latents follows from the shapes: T · `topk`, but no more
    than there are. If the tokens see fewer latents, hidden latents fill up the rest.
    """
    count = cast("int", torch.sym_min(latents.shape[1], mask.shape[1] * topk))
    places = mask.any(1).to(latents.dtype).topk(count, dim=-1).indices
    rows = torch.arange(latents.shape[0], device=latents.device).unsqueeze(-1)
    return latents[rows, places], mask.mT[rows, places].mT
