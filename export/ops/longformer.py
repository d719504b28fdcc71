"""Longformer's attention: a window around each token, and global tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import FirstToken, LongformerAttention
from ...refimpl.ops.attention import attend, heads
from ...refimpl.ops.banded import banded_attend
from ...refimpl.ops.linear import linear
from ...refimpl.ops.longformer import LongformerWeights
from ...refimpl.ops.mask import padding_mask
from ...refimpl.ops.sparse import longformer_mask
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def question_end(tokens: Index[Array, "B T", "< N"], *, separator: int) -> Index[Array, " B", "< T+1"]:
    """The least position of a separator."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(tokens == separator, at, at[-1:] + 1).amin(1)


@torch_body
def longformer_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: LongformerWeights,
    question: Index[Array, " B", "< T+1"] | None = None,
    *,
    settings: LongformerAttention,
) -> Float[Array, "B T D"]:
    """Projections, the window, global queries."""
    size = settings.head_size
    q = heads(x, weights["wq"], weights["bq"], size=size)
    k = heads(x, weights["wk"], weights["bk"], size=size)
    v = heads(x, weights["wv"], weights["bv"], size=size)
    y = local_and_global(x, lengths, (q, k, v), weights, question, settings=settings)
    return linear(y.flatten(-2), weights["wo"], weights["bo"])


def local_and_global(
    x: Array,
    lengths: Array,
    local: tuple[Array, Array, Array],
    weights: LongformerWeights,
    question: Array | None,
    *,
    settings: LongformerAttention,
) -> Array:
    """What the heads give [B, T, H, K], of the window's queries, keys and values.

    The window is computed in bands, in which a global first token is a sink. As the length of a question
    differs from text to text, there all scores are computed.
    """
    t, size, reach = x.shape[1], settings.head_size, settings.reach
    at = torch.arange(t, device=x.device)
    real = padding_mask(at, lengths)
    if settings.global_tokens is None:
        return banded_attend(*local, real, band=(reach + 1, reach))

    def own(x: Array, name: str) -> Array:
        return heads(x, weights[f"w{name}_global"], weights[f"b{name}_global"], size=size)

    k, v = own(x, "k"), own(x, "v")
    if isinstance(settings.global_tokens, FirstToken):
        y = banded_attend(*local, real, band=(reach + 1, reach), sinks=1)
        first = attend(own(x[:, :1], "q"), k, v, real.unsqueeze(1))
        return torch.where((at == 0)[:, None, None], first, y)
    assert question is not None
    spread = at < question.unsqueeze(1)
    at = at.expand(x.shape[0], -1)
    y = attend(*local, longformer_mask(at, at, spread, spread, reach=reach) & real.unsqueeze(1))
    every = attend(own(x, "q"), k, v, real.unsqueeze(1).expand(-1, t, -1))
    return torch.where(spread[:, :, None, None], every, y)
