"""Implement LongT5's attention in PyTorch: T5's attention within a window, and attention to the sums of
blocks of the text.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.attention import softmax
from ...refimpl.ops.longt5 import DistanceBiases, LongT5Attention
from ...refimpl.ops.mask import padding_mask
from ..scan import last_index, tiles
from ..torch_bodies import torch_body


@torch_body
def sums_of_blocks(x: Tensor, lengths: Tensor, *, size: int) -> Tensor:
    """Return the sum of the vectors in each block of `size` tokens. Tokens after the last whole block are
    added to the sum of that block.

    The result ends with two further sums, which no token sees.
    """
    t = x.shape[1]
    blocks = torch.arange(t // size + 2, device=x.device)
    places = blocks.unsqueeze(1) * size + torch.arange(size, device=x.device)
    inside = (places < lengths[:, None, None]).unsqueeze(3)
    end = last_index(t, x.device)
    sums = torch.where(inside, x[:, torch.minimum(places, end)], 0).sum(2)
    last = (blocks == lengths.unsqueeze(1) // size - 1).unsqueeze(2)
    after = sums[:, torch.minimum(blocks + 1, blocks[-1:])]
    return sums + torch.where(last, after, 0)


@torch_body
def near_and_far(
    projected: tuple[Tensor, Tensor, Tensor],
    lengths: Tensor,
    biases: DistanceBiases,
    t: int,
    *,
    settings: LongT5Attention,
) -> Tensor:
    """Compute attention to near tokens and to summaries of blocks. The queries are split into tiles of radius
    + 1 tokens. A tile sees its own keys, the keys of both neighbouring tiles, and the keys of all summaries.

    Axes are swapped by indexing. For a copied transpose, an exporter would have to know which axis is
    longer.
    """
    q, k, v = projected
    radius, tile = settings.radius, settings.radius + 1
    tokens, head = torch.arange(t, device=q.device), torch.arange(settings.heads, device=q.device)
    at, _ = tiles(t, tile, q.device)
    rows, count = q.shape[0], at.shape[0]
    ahead = torch.arange(-tile, 2 * tile, device=q.device)
    near = at[:, :1] + ahead
    places = torch.minimum(near.clamp(min=0), tokens[-1:])
    apart = ahead - torch.arange(tile, device=q.device).unsqueeze(1)
    exists = padding_mask(tokens, lengths)[:, places] & ((near >= 0) & (near <= tokens[-1:]))
    seen = (exists.unsqueeze(2) & (apart.abs() <= radius)).flatten(0, 1).unsqueeze(1)

    some_q = q[:, at].flatten(0, 1).transpose(1, 2)
    some_k, some_v = (a[:, places].flatten(0, 1).transpose(1, 2) for a in (k, v))
    scores = some_q @ some_k.transpose(-1, -2) + biases.near[:, apart.clamp(-radius, radius) + radius]

    def in_order(tiled: Tensor) -> Tensor:
        """Put the tiles [B · n, H, tile, ...] into the order of tokens, [B, H, T, ...]."""
        return tiled.unflatten(0, (rows, count))[:, tokens // tile, head.unsqueeze(1), tokens % tile]

    if (size := settings.global_block_size) is None:
        return in_order(softmax(scores, seen) @ some_v).transpose(1, 2)
    summaries = torch.arange(t, k.shape[1], device=q.device)
    far_k, far_v = (a[:, summaries, head.unsqueeze(1)] for a in (k, v))
    far = q[:, tokens, head.unsqueeze(1)] @ far_k.transpose(-1, -2)
    blocks = torch.arange(k.shape[1] - t, device=q.device)
    far = far + _far_bias(lengths, biases, tokens, blocks, settings=settings)
    lowest = torch.finfo(scores.dtype).min
    weights = softmax(torch.cat([in_order(scores.masked_fill(~seen, lowest)), far], -1))
    inner = weights[..., : 3 * tile][:, head.unsqueeze(1), at.unsqueeze(1)].flatten(0, 1)
    inner, outer = in_order(inner @ some_v), weights[..., 3 * tile :] @ far_v
    # A token of the padding may see nothing.
    sees = ((tokens - radius).clamp(min=0) < lengths.unsqueeze(1)) | (lengths >= size).unsqueeze(1)
    return torch.where(sees[:, :, None, None], (inner + outer).transpose(1, 2), 0)


def _far_bias(
    lengths: Tensor, biases: DistanceBiases, tokens: Tensor, blocks: Tensor, *, settings: LongT5Attention
) -> Tensor:
    """Return the bias [B, H, T, G] of each token's score for each block's summary. If the row doesn't have
    the block, the bias is the lowest finite number.
    """
    size, table = settings.global_block_size, biases.far
    assert size is not None
    assert table is not None
    farthest = table.shape[1] // 2
    full = lengths[:, None, None] // size
    own = torch.minimum(tokens.unsqueeze(1) // size, full - 1)
    steps = (blocks - own).clamp(-farthest, farthest) + farthest
    steps = torch.where(blocks < full, steps, 2 * farthest + 1)
    table = functional.pad(table, (0, 1), value=torch.finfo(table.dtype).min)
    return table[torch.arange(settings.heads, device=blocks.device)[:, None, None], steps.unsqueeze(1)]
