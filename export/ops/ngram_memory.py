"""Implement the hash of a memory of n-grams in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.ngram_memory import PART, NgramMemory
from ..torch_bodies import torch_body


@torch_body
def ngram_rows(context: Tensor, tokens: Tensor, *, settings: NgramMemory) -> Tensor:
    """Multiply by the lower and the upper 31 bits of a factor, since a bundle's graph may hold no larger
    integers.
    """
    t, reach, each = tokens.shape[1], context.shape[1], settings.heads_of_each
    history = torch.cat((context, tokens), 1)

    def hashed(values: Tensor, back: int) -> Tensor:
        low, high = settings.factor_parts[back]
        return values * low + values * high * PART

    def numbers(stated: tuple[int, ...]) -> Tensor:
        return torch.tensor(stated, dtype=tokens.dtype, device=tokens.device)

    mixed, earlier, rows = hashed(tokens, 0), None, []
    for back in range(1, reach + 1):
        older = history[:, reach - back : reach - back + t]
        earlier = older if earlier is None else torch.where(earlier == settings.end, settings.end, older)
        mixed = mixed ^ hashed(earlier, back)
        heads = slice((back - 1) * each, back * each)
        primes, offsets = numbers(settings.primes[heads]), numbers(settings.offsets[heads])
        rows.append(mixed.unsqueeze(2) % primes + offsets)
    return torch.cat(rows, 2)
