"""Linear attention: φ(q)·φ(k) instead of exp(q·k), so that sums over keys are kept and not the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.attention import heads
from ...refimpl.ops.linear import linear
from ...refimpl.ops.linear_attention import LinearAttention, LinearAttentionWeights, LinearState
from ..scan import scan, tiles
from ..torch_bodies import torch_body


@torch_body
def elu_features(x: Tensor) -> Tensor:
    """torch's elu."""
    return torch.nn.functional.elu(x) + 1


@torch_body
def relu_features(x: Tensor) -> Tensor:
    """torch's relu."""
    return torch.relu(x)


@torch_body
def random_features(x: Tensor, projection: Tensor) -> Tensor:
    """The projection as a linear map."""
    square = (x**2).sum(-1, keepdim=True) / 2
    return torch.exp(torch.nn.functional.linear(x, projection) - square) * projection.shape[0] ** -0.5


@torch_body
def linear_attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
    """Sums over keys, then one product."""
    if keys is not None:
        k = k * keys[:, :, None, None]
    state = k.permute(0, 2, 3, 1) @ v.transpose(1, 2)
    grouped = q.unflatten(2, (k.shape[2], -1))
    total = (grouped @ k.sum(1)[:, None, :, :, None]).squeeze(-1)
    return _normed(grouped @ state.unsqueeze(1), total).flatten(2, 3)


@torch_body
def linear_parallel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The lower triangle by comparing places."""
    at = torch.arange(q.shape[1], device=q.device)
    grouped = q.unflatten(2, (k.shape[2], -1)).permute(0, 2, 3, 1, 4)
    weights = grouped @ k.permute(0, 2, 3, 1).unsqueeze(2) * (at <= at[:, None])
    out = _normed(weights @ v.transpose(1, 2).unsqueeze(2), weights.sum(-1))
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3)


@torch_body
def linear_recurrent(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan over the tokens."""

    def step(*operands: Tensor) -> list[Tensor]:
        state, norm, q, k, v = operands
        state = state + k.unsqueeze(-1) * v.unsqueeze(-2)
        norm = norm + k
        return [state, norm, _normed(q @ state, (q @ norm.unsqueeze(-1)).squeeze(-1))]

    along = [a.transpose(0, 1) for a in (q.unflatten(2, (k.shape[2], -1)), k, v)]
    state, norm, out = scan(step, [state, norm], along)
    return out.transpose(0, 1).flatten(2, 3), state, norm


@torch_body
def linear_chunked(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, norm: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan over the chunks; a token past the end has features of zero."""
    length, g = q.shape[1], k.shape[2]

    def step(*operands: Tensor) -> list[Tensor]:
        state, norm, at, real, q, k, v = operands
        some = q.index_select(3, at)
        near_k, near_v = k.index_select(2, at) * real.unsqueeze(-1), v.index_select(2, at)
        place = torch.arange(chunk, device=at.device)
        weights = some @ near_k.transpose(-1, -2).unsqueeze(2) * (place <= place[:, None])
        sums = weights @ near_v.unsqueeze(2) + some @ state.unsqueeze(2)
        total = weights.sum(-1) + (some @ norm[:, :, None, :, None]).squeeze(-1)
        state = state + near_k.transpose(-1, -2) @ near_v
        return [state, norm + near_k.sum(2), _normed(sums, total)]

    grouped = q.unflatten(2, (g, -1)).permute(0, 2, 3, 1, 4)
    shared = [grouped, k.transpose(1, 2), v.transpose(1, 2)]
    state, norm, out = scan(step, [state, norm], tiles(length, chunk, q.device), shared)
    # [n, B, G, R, chunk, V] -> [B, n · chunk, G · R, V], and only what exists of it.
    padded = out.permute(1, 0, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)
    return padded.index_select(1, torch.arange(length, device=q.device)), state, norm


@torch_body
def linear_attention(
    x: Tensor, cache: LinearState, past: Tensor, weights: LinearAttentionWeights, *, settings: LinearAttention
) -> tuple[Tensor, LinearState]:
    """Projections around `attend_from`."""
    size = settings.head_size
    q = heads(x, weights["wq"], weights.get("bq"), size=size)
    k = heads(x, weights["wk"], weights.get("bk"), size=size)
    v = heads(x, weights["wv"], weights.get("bv"), size=size)
    y, cache = attend_from(q, k, v, cache, past, settings=settings)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo")), cache


def attend_from(
    q: Tensor, k: Tensor, v: Tensor, cache: LinearState, past: Tensor, *, settings: LinearAttention
) -> tuple[Tensor, LinearState]:
    """The tokens of the call as one chunk: their lower triangle, and one product with the earlier sums.

    A graph needs no loop then; who runs it keeps the chunks short. q [B, T, H, K], k and v [B, T, G, K].
    """
    features = elu_features if settings.features == "elu" else relu_features
    q, k, v = features(q), features(k).transpose(1, 2), v.transpose(1, 2)
    at = torch.arange(q.shape[1], device=q.device)
    if cache.lengths is not None:
        k = k * (at < cache.lengths[:, None])[:, None, :, None]
    begun = (past > 0)[:, None, None]
    state = torch.where(begun.unsqueeze(-1), cache.state, 0)
    norm = torch.where(begun, cache.norm, 0)
    grouped = q.unflatten(2, (k.shape[1], -1)).permute(0, 2, 3, 1, 4)
    weights = grouped @ k.mT.unsqueeze(2) * (at <= at[:, None])
    sums = weights @ v.unsqueeze(2) + grouped @ state.unsqueeze(2)
    total = weights.sum(-1) + (grouped @ norm[:, :, None, :, None]).squeeze(-1)
    y = _normed(sums, total).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return y, cache._replace(state=state + k.mT @ v, norm=norm + k.sum(2), lengths=None)


def _normed(sums: Tensor, total: Tensor) -> Tensor:
    return sums / total.masked_fill(total == 0, 1).unsqueeze(-1)
