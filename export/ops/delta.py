"""Linear attention with decay and the delta rule: the four rules of ONNX's LinearAttention, and the gated
delta rule token by token and in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan, tiles
from ..torch_bodies import torch_body


@torch_body
def delta_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan over the tokens."""
    inputs = {"q": q.unflatten(2, (k.shape[2], -1)), "k": k, "v": v, "decay": decay, "beta": beta}
    there = {n: a.transpose(0, 1) for n, a in inputs.items() if a is not None}

    def step(state: Tensor, *slices: Tensor) -> list[Tensor]:
        at = dict(zip(there, slices, strict=True))
        if "decay" in at:
            state = torch.exp(at["decay"]).unsqueeze(-1) * state
        new, key = at["v"], at["k"]
        if "beta" in at:
            new = at["beta"].unsqueeze(-1) * (new - (key.unsqueeze(-2) @ state).squeeze(-2))
        state = state + key.unsqueeze(-1) * new.unsqueeze(-2)
        return [state, at["q"] @ state]

    state, out = scan(step, [state], list(there.values()))
    out = out * (q.shape[3] ** -0.5 if scale is None else scale)
    return out.transpose(0, 1).flatten(2, 3), state


@torch_body
def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan over the tokens."""
    return delta_attend(q, k, v, state, _by_channel(decay).expand(k.shape), beta)


@torch_body
def gated_delta_chunked(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan over the chunks; a token past the end neither decays nor writes."""
    length = q.shape[1]

    def step(*operands: Tensor) -> list[Tensor]:
        state, at, real, *shared = operands
        q, k, v, decay, beta = (a.index_select(1, at) for a in shared)
        real = real[:, None]
        y, state = one_chunk(q, k, v, state, decay * real[..., None], beta * real, longest=chunk)
        return [state, y]

    shared = [q, k, v, _by_channel(decay), beta]
    state, out = scan(step, [state], tiles(length, chunk, q.device), shared)
    padded = out.transpose(0, 1).flatten(1, 2)  # [n, B, chunk, H, V] -> [B, n · chunk, H, V]
    return padded.index_select(1, torch.arange(length, device=q.device)), state


def one_chunk(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor, *, longest: int
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over T tokens as one chunk, without a loop; T may be `longest` at most. Decays are
    [B, T, H], or [B, T, H, K], for which T · T · K numbers of each head are made.

    The inverse of a lower triangle with ones on its diagonal is made from those of its two halves,
    [[P, 0], [C, Q]]⁻¹ = [[P⁻¹, 0], [−Q⁻¹ C P⁻¹, Q⁻¹]], for all blocks of 1, 2, 4, … tokens at a time.
    Unlike a series of powers, each step has the inverse's own numbers, which stay small.
    """
    q, k, v = (a.transpose(1, 2) for a in (q * q.shape[3] ** -0.5, k, v))
    decay, beta = _by_channel(decay).transpose(1, 2), beta.transpose(1, 2).unsqueeze(-1)
    at = torch.arange(q.shape[2], device=q.device)
    before, upto = at < at[:, None], at <= at[:, None]
    sums = torch.cumsum(decay.unsqueeze(-2) * before.unsqueeze(-1), 2)
    between = torch.exp(sums) * upto.unsqueeze(-1)
    since = torch.exp(torch.cumsum(decay, 2))
    reads = beta * _decayed_products(k, k, between) * before
    inverse = (at == at[:, None]).to(q.dtype).expand(reads.shape)
    for level in range((longest - 1).bit_length()):
        half, whole = at // 2**level, at // 2 ** (level + 1)
        corner = reads * ((whole == whole[:, None]) & (half != half[:, None]))
        inverse = inverse - inverse @ corner @ inverse
    new = inverse @ (beta * (v - (since * k) @ state))
    y = (since * q) @ state + _decayed_products(q, k, between) @ new
    # The last row, which index_select finds for any T.
    last = at[-1:]
    kept = k * between.index_select(2, last).squeeze(2)
    state = since.index_select(2, last).mT * state + kept.mT @ new
    return y.transpose(1, 2), state


def _by_channel(decay: Tensor) -> Tensor:
    """Decays [B, T, H, K], or [B, T, H, 1] where a head has one."""
    return decay.unsqueeze(-1) if decay.dim() == 3 else decay


def _decayed_products(a: Tensor, keys: Tensor, between: Tensor) -> Tensor:
    """Σ_c a_tc k_sc between_tsc of each head, for `between` [B, H, T, T, K] or [B, H, T, T, 1]."""
    if between.shape[-1] == 1:
        return (a @ keys.mT) * between.squeeze(-1)
    return (a.unsqueeze(-2) * keys.unsqueeze(2) * between).sum(-1)
