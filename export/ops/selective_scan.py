"""The selective scan: every channel keeps a few numbers, which fade each at a rate of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan, tiles
from ..torch_bodies import torch_body


@torch_body
def selective_scan(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan over the tokens."""

    def one(state: Tensor, step: Tensor, value: Tensor, b: Tensor, c: Tensor, rates: Tensor) -> list[Tensor]:
        state = torch.exp(step.unsqueeze(2) * rates) * state + value.unsqueeze(2) * b.unsqueeze(1)
        return [state, (state @ c.unsqueeze(2)).squeeze(2)]

    along = [a.transpose(0, 1) for a in (step, step * x, b, c)]
    state, y = scan(one, [state], along, [rates])
    return y.transpose(0, 1), state


@torch_body
def selective_scan_chunked(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan over the chunks; a token past the end has a step of no length."""
    length = x.shape[1]

    def one(*operands: Tensor) -> list[Tensor]:
        state, at, real, *shared, rates = operands
        x, step, b, c = (a.index_select(1, at) for a in shared)
        y, state = in_parallel(x, step * real[:, None], rates, b, c, state, longest=chunk)
        return [state, y]

    state, out = scan(one, [state], tiles(length, chunk, x.device), [x, step, b, c, rates])
    padded = out.transpose(0, 1).flatten(1, 2)  # [n, B, chunk, F] -> [B, n · chunk, F]
    return padded.index_select(1, torch.arange(length, device=x.device)), state


def in_parallel(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor, *, longest: int
) -> tuple[Tensor, Tensor]:
    """The scan over T tokens without a loop, in rounds that double their reach; T may be `longest` at most.

    A map before the first is h → h.
    """
    kept = torch.exp(step.unsqueeze(3) * rates)
    written = (step * x).unsqueeze(3) * b.unsqueeze(2)
    at = torch.arange(x.shape[1], device=x.device)
    for level in range((longest - 1).bit_length()):
        before = (at - 2**level).clamp(min=0)
        there = (at >= 2**level)[:, None, None]
        written = written + kept * torch.where(there, written.index_select(1, before), 0)
        kept = kept * torch.where(there, kept.index_select(1, before), 1)
    states = kept * state.unsqueeze(1) + written
    y = (states @ c.unsqueeze(3)).squeeze(3)
    # The last token's, which index_select finds for any T.
    return y, states.index_select(1, at[-1:]).squeeze(1)
