"""Multi-head latent attention: what is kept of a token is one short vector, from which each head makes its
keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict, cast

import torch
from torch.nn import functional

from ...refimpl.config import Indexer, LatentAttention
from .attention import attend, softmax
from .cache import append
from .indexer import best_keys, index_scores
from .linear import linear
from .mask import causal_mask
from .norm import layer_norm, rms_norm
from .position import Rotary, rotate
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["LatentAttentionWeights", "LatentCache", "absorbed_attend", "expanded_attend", "latent_attention"]


class LatentAttentionWeights(TypedDict):
    """The leaves of latent attention, by the names of DeepSeek's code."""

    wq: Float[Array, "F H*K"] | Blocks | Float[Array, "D H*K"]
    wkv_a: Float[Array, "D C+2*J"] | Blocks
    kv_norm: Float[Array, " C"]
    wk_b: Float[Array, "C H*U"]
    wv_b: Float[Array, "C H*V"]
    wo: Float[Array, "H*V D"] | Blocks
    wq_a: NotRequired[Float[Array, "D F"] | Blocks]
    q_norm: NotRequired[Float[Array, " F"]]
    bq_a: NotRequired[Float[Array, " F"]]
    bkv_a: NotRequired[Float[Array, " C+2*J"]]
    bo: NotRequired[Float[Array, " D"]]
    wq_index: NotRequired[Float[Array, "F X*W+2*X*J"]]
    wk_index: NotRequired[Float[Array, "D W+2*J"]]
    w_index: NotRequired[Float[Array, "D X"]]
    index_norm: NotRequired[Float[Array, " W+2*J"]]
    index_bias: NotRequired[Float[Array, " W+2*J"]]


class LatentCache(NamedTuple):
    """What a layer keeps of earlier tokens: latent and rotary key, and the indexer's key."""

    latents: Float[Array, "B 1 L C+2*J"]
    index_keys: Float[Array, "B 1 L W+2*J"] | None = None


def _by_head(weight: Array, heads: int) -> Array:
    """[C, H·F] as [H, C, F]."""
    return weight.unflatten(1, (heads, weight.shape[1] // heads)).transpose(0, 1)


def expanded_attend(
    q: Float[Array, "B T H K"],
    latents: Float[Array, "B S C+2*J"],
    wk_b: Float[Array, "C H*U"],
    wv_b: Float[Array, "C H*V"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """A product for each head; the rotary key is repeated."""
    h, rank = q.shape[2], wk_b.shape[0]
    latent = latents[..., :rank].unsqueeze(1)
    k, v = (latent @ _by_head(w, h) for w in (wk_b, wv_b))
    rotary_key = latents[..., rank:].unsqueeze(1).expand(-1, h, -1, -1)
    return attend(q, torch.cat((k, rotary_key), -1).transpose(1, 2), v.transpose(1, 2), mask, scale=scale)


def absorbed_attend(
    q: Float[Array, "B T H K"],
    latents: Float[Array, "B S C+2*J"],
    wk_b: Float[Array, "C H*U"],
    wv_b: Float[Array, "C H*V"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
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


def latent_attention(
    x: Float[Array, "B T D"],
    cache: LatentCache,
    past: Index[Array, " B", "< O+1"],
    weights: LatentAttentionWeights,
    rotary: Rotary,
    *,
    settings: LatentAttention,
) -> tuple[Float[Array, "B T D"], LatentCache]:
    """Projections around `absorbed_attend`."""
    at = past[:, None] + torch.arange(x.shape[1], device=past.device)
    cos, sin = functional.embedding(at, rotary.cos), functional.embedding(at, rotary.sin)

    def turned(y: Array) -> Array:
        return rotate(y, cos, sin, interleaved=settings.position.interleaved)

    source = x
    if "wq_a" in weights:
        source = linear(x, weights["wq_a"], weights.get("bq_a"))
        source = rms_norm(source, weights.get("q_norm"), eps=settings.norm_eps)
    queries = linear(source, weights["wq"]).unflatten(-1, (settings.heads, settings.head_size))
    both = linear(x, weights["wkv_a"], weights.get("bkv_a")).unsqueeze(2)
    latent = rms_norm(both[..., : settings.rank], weights["kv_norm"], eps=settings.norm_eps)
    new = torch.cat((latent, turned(both[..., settings.rank :])), -1)
    latents = append(cache.latents, new, past)
    mask = causal_mask(at, torch.arange(latents.shape[2], device=at.device))
    q = torch.cat((queries[..., : settings.key_size], turned(queries[..., settings.key_size :])), -1)
    index_keys = cache.index_keys
    if (indexer := settings.indexer) is not None:
        assert index_keys is not None
        # Where there is an indexer, all of its leaves are there.
        leaves = cast("Mapping[str, Array]", weights)
        index_q, new_key = _index_queries_keys(x, source, leaves, Rotary(cos, sin), indexer)
        index_keys = append(index_keys, new_key, past)
        scores = index_scores(index_q, index_keys.squeeze(1), linear(x, leaves["w_index"]))
        mask = best_keys(scores, mask, topk=indexer.topk)
    wk_b, wv_b = weights["wk_b"], weights["wv_b"]
    y = absorbed_attend(q, latents.squeeze(1), wk_b, wv_b, mask, scale=settings.scale)
    cache = cache._replace(latents=latents, index_keys=index_keys)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo")), cache


def _index_queries_keys(
    x: Array, source: Array, weights: Mapping[str, Array], rotary: Rotary, indexer: Indexer
) -> tuple[Array, Array]:
    """The indexer's queries [B, T, X, P], made of the queries' latent, and keys [B, T, 1, P], made of x."""
    dims = 2 * rotary.cos.shape[-1]

    def turned(y: Array) -> Array:
        rotated = rotate(y[..., :dims], rotary.cos, rotary.sin, interleaved=indexer.interleaved)
        return torch.cat((rotated, y[..., dims:]), -1)

    norm, bias = weights["index_norm"], weights["index_bias"]
    key = layer_norm(linear(x, weights["wk_index"]), norm, bias, eps=indexer.eps)
    index_q = linear(source, weights["wq_index"]).unflatten(-1, (indexer.heads, indexer.size))
    return turned(index_q), turned(key.unsqueeze(2))
