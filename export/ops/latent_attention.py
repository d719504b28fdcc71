"""Multi-head latent attention: what is kept of a token is one short vector, from which each head makes its
keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import Indexer, SharedIndexer
from ...refimpl.ops.attention import attend, softmax
from ...refimpl.ops.cache import append
from ...refimpl.ops.indexer import best_keys, index_scores
from ...refimpl.ops.latent_attention import LatentAttention, LatentAttentionWeights, LatentCache
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import causal_mask, padding_mask
from ...refimpl.ops.norm import layer_norm, rms_norm
from ...refimpl.ops.position import Rotary, query_factors, rotate
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
    """A product for each head; the rotary key is repeated."""
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
    """Heads and tokens are the rows of one product with the latents, which all heads read."""
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
def latent_attention(
    x: Tensor,
    cache: LatentCache,
    past: Tensor,
    weights: LatentAttentionWeights,
    rotary: Rotary | None,
    chosen: Tensor | None = None,
    *,
    settings: LatentAttention,
) -> tuple[Tensor, LatentCache, Tensor]:
    """Projections around `absorbed_attend`."""
    at = past[:, None] + torch.arange(x.shape[1], device=past.device)
    angles = None if rotary is None else Rotary(*(functional.embedding(at, table) for table in rotary))
    source = _query_source(x, weights, settings)
    q = _scaled(_queries(source, weights, angles, settings), at, settings)
    new = _latents(x, weights, angles, settings)
    latents = append(cache.latents, new, past)
    mask = causal_mask(at, torch.arange(latents.shape[2], device=at.device))
    index_keys = cache.index_keys
    indexer = settings.indexer
    if isinstance(indexer, SharedIndexer):
        assert chosen is not None
        mask = chosen & mask
    elif indexer is not None:
        assert index_keys is not None
        assert angles is not None
        # Where there is an indexer, all of its leaves are there.
        leaves = cast("Mapping[str, Tensor]", weights)
        index_q, new_key = _index_queries_keys(x, source, leaves, angles, indexer)
        index_keys = append(index_keys, new_key, past)
        scores = index_scores(index_q, index_keys.squeeze(1), linear(x, leaves["w_index"]))
        mask = best_keys(scores, mask, topk=indexer.topk)
    wk_b, wv_b = weights["wk_b"], weights["wv_b"]
    read, seen = latents.squeeze(1), mask
    if indexer is not None:
        read, seen = _gathered(read, mask, indexer.topk)
    y = absorbed_attend(q, read, wk_b, wv_b, seen, scale=settings.scale)
    cache = cache._replace(latents=latents, index_keys=index_keys)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo")), cache, mask


@torch_body
def latent_self_attention(
    x: Tensor,
    lengths: Tensor,
    weights: LatentAttentionWeights,
    rotary: Rotary | None,
    *,
    settings: LatentAttention,
    causal: bool = False,
) -> Tensor:
    """Projections around `expanded_attend`."""
    at = torch.arange(x.shape[1], device=x.device)
    angles = None if rotary is None else Rotary(rotary.cos.unsqueeze(0), rotary.sin.unsqueeze(0))
    q = _queries(_query_source(x, weights, settings), weights, angles, settings)
    q = _scaled(q, at.unsqueeze(0), settings)
    latents = _latents(x, weights, angles, settings).squeeze(2)
    mask = padding_mask(at, lengths).unsqueeze(1).expand(-1, x.shape[1], -1)
    if causal:
        mask = causal_mask(at.unsqueeze(0), at) & mask
    y = expanded_attend(q, latents, weights["wk_b"], weights["wv_b"], mask, scale=settings.scale)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo"))


def _gathered(latents: Tensor, mask: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Those of the latents [B, S, C+2J] that may be seen, and the mask [B, T, S] over them.

    T tokens that choose `topk` each see T·`topk` at most together: of a long text one token reads few, a
    prompt all. There is one graph for both, so the number follows from the shapes. What any token sees comes
    first in topk's order; the mask hides what is behind it, up to the number.
    """
    count = cast("int", torch.sym_min(latents.shape[1], mask.shape[1] * topk))
    places = mask.any(1).to(latents.dtype).topk(count, dim=-1).indices
    rows = torch.arange(latents.shape[0], device=latents.device).unsqueeze(-1)
    return latents[rows, places], mask.mT[rows, places].mT


def _query_source(x: Tensor, weights: LatentAttentionWeights, settings: LatentAttention) -> Tensor:
    """What queries are made of: x, or a latent of their own."""
    if "wq_a" not in weights:
        return x
    latent = linear(x, weights["wq_a"], weights.get("bq_a"))
    return rms_norm(latent, weights.get("q_norm"), eps=settings.norm_eps)


def _queries(
    source: Tensor, weights: LatentAttentionWeights, angles: Rotary | None, settings: LatentAttention
) -> Tensor:
    """Queries [B, T, H, K], of which the last part is rotated where there are angles."""
    queries = linear(source, weights["wq"]).unflatten(-1, (settings.heads, settings.head_size))
    if angles is None:
        return queries
    plain, turned = queries.tensor_split([settings.key_size], -1)
    return torch.cat((plain, rotate(turned, *angles, interleaved=settings.interleaved)), -1)


def _scaled(q: Tensor, at: Tensor, settings: LatentAttention) -> Tensor:
    """Queries times the factor of their position `at` [B, T]."""
    if (scale := settings.query_scale) is None:
        return q
    return q * query_factors(at, **scale.settings).to(q.dtype).unsqueeze(-1).unsqueeze(-1)


def _latents(
    x: Tensor, weights: LatentAttentionWeights, angles: Rotary | None, settings: LatentAttention
) -> Tensor:
    """Normalized latents and shared keys [B, T, 1, C+2J]."""
    both = linear(x, weights["wkv_a"], weights.get("bkv_a")).unsqueeze(2)
    latent = rms_norm(both[..., : settings.rank], weights["kv_norm"], eps=settings.norm_eps)
    key = both[..., settings.rank :]
    if angles is not None:
        key = rotate(key, *angles, interleaved=settings.interleaved)
    return torch.cat((latent, key), -1)


def _index_queries_keys(
    x: Tensor, source: Tensor, weights: Mapping[str, Tensor], rotary: Rotary, indexer: Indexer
) -> tuple[Tensor, Tensor]:
    """The indexer's queries [B, T, X, P], made of the queries' latent, and keys [B, T, 1, P], made of x."""

    def turned(y: Tensor) -> Tensor:
        return rotate(y, rotary.cos, rotary.sin, interleaved=indexer.interleaved)

    norm, bias = weights["index_norm"], weights["index_bias"]
    key = layer_norm(linear(x, weights["wk_index"]), norm, bias, eps=indexer.eps)
    index_q = linear(source, weights["wq_index"]).unflatten(-1, (indexer.heads, indexer.size))
    return turned(index_q), turned(key.unsqueeze(2))
