"""Multi-head latent attention: one short vector is kept of a token.

Each head makes its keys and values from this vector.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ...refimpl.ops.attention import attend, softmax
from ..torch_bodies import torch_body


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """[C, H·F] as [H, C, F]."""
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
    """Compute one product for each head. The rotary key, which all heads share, is repeated."""
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
    """Compute one product with the latents, which all heads share. Its rows are pairs of head and token."""
    h, rank = q.shape[2], wk_b.shape[0]
    wk = _by_head(wk_b, h)
    plain, rotated = (
        (q * (q.shape[3] ** -0.5 if scale is None else scale)).transpose(1, 2).tensor_split([wk.shape[2]], -1)
    )
    absorbed = torch.cat((plain @ wk.mT, rotated), -1)
    scores = (absorbed.flatten(1, 2) @ latents.mT).unflatten(1, (h, -1))
    weights = softmax(scores, None if mask is None else mask.unsqueeze(1))
    mean = (weights.flatten(1, 2) @ latents[..., :rank]).unflatten(1, (h, -1))
    return (mean @ _by_head(wv_b, h)).transpose(1, 2)


@torch_body
def chosen_latents(latents: Tensor, mask: Tensor, *, topk: int) -> tuple[Tensor, Tensor]:
    """Return at most as many latents as T tokens can see together. A single token reads few latents of a long
    text; a prompt reads all of them.

    One graph serves both cases, so the number of latents follows from the shapes. The latents that any token
    sees come first in the order of topk. The mask hides the latents after these.
    """
    count = cast("int", torch.sym_min(latents.shape[1], mask.shape[1] * topk))
    places = mask.any(1).to(latents.dtype).topk(count, dim=-1).indices
    rows = torch.arange(latents.shape[0], device=latents.device).unsqueeze(-1)
    return latents[rows, places], mask.mT[rows, places].mT
