"""Linear attention with decay and the delta rule: the four rules of ONNX's LinearAttention, and the gated
delta rule token by token and in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..dispatch import replaceable
from ..scan import scan, tiles

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

__all__ = ["delta_attend", "gated_delta_chunked", "gated_delta_rule"]


def delta_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    state: Float[Array, "B G K V"],
    decay: Float[Array, "B T G K"] | None = None,
    beta: Float[Array, "B T G"] | None = None,
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B G K V"]]:
    """Scan over the tokens."""
    inputs = {"q": q.unflatten(2, (k.shape[2], -1)), "k": k, "v": v, "decay": decay, "beta": beta}
    there = {n: a.transpose(0, 1) for n, a in inputs.items() if a is not None}

    def step(state: Array, *slices: Array) -> list[Array]:
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


@replaceable
def gated_delta_rule(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    state: Float[Array, "B H K V"],
    decay: Float[Array, "B T H"],
    beta: Float[Array, "B T H"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Scan over the tokens."""
    return delta_attend(q, k, v, state, decay.unsqueeze(-1).expand(k.shape), beta)


def gated_delta_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    state: Float[Array, "B H K V"],
    decay: Float[Array, "B T H"],
    beta: Float[Array, "B T H"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Scan over the chunks; a token past the end neither decays nor writes."""
    length = q.shape[1]

    def step(*operands: Array) -> list[Array]:
        state, at, real, *shared = operands
        q, k, v, decay, beta = (a.index_select(1, at) for a in shared)
        real = real[:, None]
        y, state = one_chunk(q, k, v, state, decay * real, beta * real, longest=chunk)
        return [state, y]

    state, out = scan(step, [state], tiles(length, chunk, q.device), [q, k, v, decay, beta])
    padded = out.transpose(0, 1).flatten(1, 2)  # [n, B, chunk, H, V] -> [B, n · chunk, H, V]
    return padded.index_select(1, torch.arange(length, device=q.device)), state


def one_chunk(
    q: Array, k: Array, v: Array, state: Array, decay: Array, beta: Array, *, longest: int
) -> tuple[Array, Array]:
    """The gated delta rule over T tokens as one chunk, without a loop; T may be `longest` at most.

    The inverse of a lower triangle with ones on its diagonal is made from those of its two halves,
    [[P, 0], [C, Q]]⁻¹ = [[P⁻¹, 0], [−Q⁻¹ C P⁻¹, Q⁻¹]], for all blocks of 1, 2, 4, … tokens at a time.
    Unlike a series of powers, each step has the inverse's own numbers, which stay small.
    """
    q, k, v = (a.transpose(1, 2) for a in (q * q.shape[3] ** -0.5, k, v))
    decay, beta = decay.transpose(1, 2), beta.transpose(1, 2).unsqueeze(-1)
    at = torch.arange(q.shape[2], device=q.device)
    before, upto = at < at[:, None], at <= at[:, None]
    sums = torch.cumsum(decay.unsqueeze(-1) * before, 2)
    between = torch.exp(sums) * upto
    since = torch.exp(torch.cumsum(decay, 2)).unsqueeze(-1)
    reads = beta * between * (k @ k.mT) * before
    inverse = (at == at[:, None]).to(q.dtype).expand(reads.shape)
    for level in range((longest - 1).bit_length()):
        half, whole = at // 2**level, at // 2 ** (level + 1)
        corner = reads * ((whole == whole[:, None]) & (half != half[:, None]))
        inverse = inverse - inverse @ corner @ inverse
    new = inverse @ (beta * (v - since * (k @ state)))
    y = since * (q @ state) + (between * (q @ k.mT)) @ new
    # The last row, which index_select finds for any T.
    last = at[-1:]
    kept = k * between.index_select(2, last).transpose(2, 3)
    state = since.index_select(2, last) * state + kept.mT @ new
    return y.transpose(1, 2), state
