"""Implement BigBird's attention in PyTorch: blocks of tokens see their neighbours, the first block and the
last block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...refimpl.config import BigBirdBlocks
from ...refimpl.ops.attention import attend
from ...refimpl.ops.mask import padding_mask
from ..torch_bodies import torch_body


@torch_body
def bigbird_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    *,
    block_size: int,
    random_blocks: int,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Compute BigBird's attention in three ways, and take one of the three results for each token.

    The first result is for tokens in the first and the last block of a text. The second is for tokens in the
    blocks between. The third is for short texts, where each token sees the whole text.
    """
    size, limit = block_size, BigBirdBlocks(block_size, random_blocks).longest_whole
    at = torch.arange(q.shape[1], device=q.device)
    # A row without tokens ends in its first block.
    last = (lengths - 1).clamp(min=0).div(size, rounding_mode="floor").unsqueeze(1)
    block = at.div(size, rounding_mode="floor")

    two = torch.cat(ends(q, last, size), 1)
    seen = padding_mask(at, lengths).unsqueeze(1)
    spread = attend(two, k, v, seen.expand(-1, 2 * size, -1), scale=scale, softcap=softcap)
    row = at % size + torch.where((block == last) & (block > 0), size, 0)
    spread = spread.gather(1, row[:, :, None, None].expand(-1, -1, *spread.shape[2:]))

    parts = middle(q, k, v, lengths, last, size=size, extra=random_blocks)
    near = attend(*parts, scale=scale, softcap=softcap)
    near = near.unflatten(0, (q.shape[0], -1)).flatten(1, 2).index_select(1, at)
    y = torch.where(((block == 0) | (block == last))[:, :, None, None], spread, near)

    short = at[at < limit]
    seen = seen.index_select(2, short).expand(-1, short.shape[0], -1)
    few_q, few_k, few_v = (a.index_select(1, short) for a in (q, k, v))
    whole = attend(few_q, few_k, few_v, seen, scale=scale, softcap=softcap).index_select(
        1, at.clamp(max=limit - 1)
    )
    y = torch.where((lengths <= limit)[:, None, None, None], whole, y)
    return torch.where(padding_mask(at, lengths)[:, :, None, None], y, 0)


def ends(a: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the vectors in the first block of each row and in its last block, each [B, A, G, K] for blocks
    of A tokens.
    """
    inside = torch.arange(size, device=a.device)
    # The index of the last token as a tensor, which a GPU takes as it is, and not as a number of the shape.
    end = torch.arange(a.shape[1], device=a.device)[-1:]
    places = torch.minimum(last * size + inside, end)[:, :, None, None].expand(-1, -1, *a.shape[2:])
    return a[:, torch.minimum(inside, end)], a.gather(1, places)


def middle(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, last: Tensor, *, size: int, extra: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cut all queries into blocks, and gather for each block the keys and values of five blocks: the first
    block, three near blocks, and the last block.

    Every block is treated as a block between the first and the last one. The results are arguments for
    `attend`, with blocks as batch rows: queries, keys, values, the mask, and the bias.
    """
    at = torch.arange(q.shape[1], device=q.device)
    starts = size * torch.arange(q.shape[1] // size + 2, device=q.device).unsqueeze(1)
    inside, n = torch.arange(size, device=q.device), starts.shape[0]
    near = starts + torch.arange(-size, 2 * size, device=q.device)
    places, block = torch.minimum(near.clamp(min=0), at[-1:]), near.div(size, rounding_mode="floor")

    def five(a: Tensor) -> Tensor:
        """Return the keys or values [B · n, 5 · A, G, K] that each of the n blocks of queries sees: the
        tokens of five blocks.
        """
        first, final = (part.unsqueeze(1).expand(-1, n, -1, -1, -1) for part in ends(a, last, size))
        return torch.cat([first, a[:, places], final], 2).flatten(0, 1)

    parts = (
        (inside < lengths.unsqueeze(1)).unsqueeze(1).expand(-1, n, -1),
        (block > 0) & (block < last.unsqueeze(2)),
        (last * size + inside < lengths.unsqueeze(1)).unsqueeze(1).expand(-1, n, -1),
    )
    seen = torch.cat(parts, 2).flatten(0, 1).unsqueeze(1).expand(-1, size, -1)
    rows = q[:, torch.minimum(starts + inside, at[-1:])].flatten(0, 1)
    bias = q.new_tensor([math.log(1 + extra)] * size + [0.0] * (4 * size))
    bias = bias.expand(rows.shape[0], q.shape[2], size, -1)
    return rows, five(k), five(v), seen, bias
