"""Compute recurrences in a bundle's graph without loops.

An LSTM becomes ONNX's LSTM operator. Linear attention is computed as one chunk. Rules that update a state are
computed as one chunk or by ONNX Runtime's operator.

Convolutions over few tokens stay products and sums, which tfm's own kernels replace by one node
(`graph.recurrences`). ONNX Runtime 1.31's CausalConvWithState computes the same numbers, but isn't faster
where speed matters. Medians with SiLU, two threads of a Xeon with AMX:

    channels   tokens   products and sums   operator   operator, SiLU apart
    6,144           1               98 µs     211 µs                 169 µs
    6,144         512             33.9 ms    45.4 ms                35.3 ms
    1,536           1               53 µs      59 µs                  52 µs
    1,536         512             10.0 ms    12.8 ms                 6.9 ms
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.onnx import ops as onnx

from ...refimpl.engine.cache_kinds import CHUNK
from ...refimpl.ops.linear_attention import LinearAttention, LinearState, attend_from
from ...refimpl.ops.lstm import LstmWeights
from ...refimpl.ops.ssd import ssd_quadratic
from ...refimpl.ops.wkv import PADDING
from .group_query_attention import AttentionLeaves, three_products
from .ort_ops import MICROSOFT, linear


def lstm(
    x: Tensor, weights: LstmWeights, h0: Tensor, c0: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute an LSTM with ONNX's LSTM operator. The operator loses the initial state of a row without
    tokens, so this function restores the state.
    """
    batch, time, _ = x.shape
    width = weights["wh"].shape[0]
    wx, wh = (_gates_as_rows(weights[name].T) for name in ("wx", "wh"))
    bias = None
    if "bias" in weights:  # the operator's second bias is zero
        bias = torch.cat([_gates_as_rows(weights["bias"]), weights["bias"].new_zeros(4 * width)])[None]
    y, h, c = onnx.symbolic_multi_out(
        "::LSTM",
        (x.transpose(0, 1), wx[None], wh[None], bias, lengths.to(torch.int32), h0[None], c0[None]),
        {"hidden_size": width},
        dtypes=(x.dtype,) * 3,
        shapes=((time, 1, batch, width), (1, batch, width), (1, batch, width)),
    )
    real = (lengths > 0).unsqueeze(1)
    return y[:, 0].transpose(0, 1), torch.where(real, h[0], h0), torch.where(real, c[0], c0)


def _gates_as_rows(a: Tensor) -> Tensor:
    """Reorder the rows of the gates i, f, g, o into ONNX's order i, o, f, g."""
    i, f, g, o = a.chunk(4)
    return torch.cat((i, o, f, g))


def linear_attention(
    x: Tensor, cache: LinearState, past: Tensor, weights: AttentionLeaves, *, settings: LinearAttention
) -> tuple[Tensor, LinearState]:
    """Compute the sublayer of linear attention as the specification does, over the parameters in this
    target's stored form.
    """
    a = settings
    if "wqkv" in weights:
        widths = [a.heads * a.head_size, a.kv_heads * a.head_size, a.kv_heads * a.head_size]
        q, k, v = linear(x, weights["wqkv"], weights.get("bqkv")).split(widths, dim=-1)
    else:
        q, k, v = three_products(x, weights, clip=None)
    q, k, v = (y.unflatten(-1, (-1, a.head_size)) for y in (q, k, v))
    y, cache = attend_from(q, k, v, cache, past, settings=a)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo")), cache


def gated_delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule over the tokens of a run as one chunk."""
    return one_chunk(q, k, v, state, decay, _of_a_run(beta), longest=CHUNK)


def _of_a_run(a: Tensor) -> Tensor:
    """Return the numbers [B, T, …] unchanged if a run may have T tokens. Otherwise return NaN, so that the
    result isn't silently wrong.
    """
    count = torch.arange(a.shape[1])[-1:] + 1
    return torch.where(count <= CHUNK, a, torch.nan)


def one_chunk(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor, *, longest: int
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule over T tokens as one chunk, without a loop. T may be `longest` at most.

    Decays are [B, T, H] or [B, T, H, K]. The second form needs T · T · K temporary numbers for each head.

    The chunk needs the inverse of a lower triangular matrix with ones on its diagonal. The inverse is made
    from the inverses of the matrix's two halves, [[P, 0], [C, Q]]⁻¹ = [[P⁻¹, 0], [−Q⁻¹ C P⁻¹, Q⁻¹]], for all
    blocks of 1, 2, 4, … tokens at a time. Unlike in a series of powers, the intermediate results are numbers
    of the inverse itself, which stay small.
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
    """Return decays as [B, T, H, K], or as [B, T, H, 1] if each head has one decay."""
    return decay.unsqueeze(-1) if decay.dim() == 3 else decay


def _decayed_products(a: Tensor, keys: Tensor, between: Tensor) -> Tensor:
    """Compute Σ_c a_tc k_sc between_tsc for each head. `between` is [B, H, T, T, K] or [B, H, T, T, 1]."""
    if between.shape[-1] == 1:
        return (a @ keys.mT) * between.squeeze(-1)
    return (a.unsqueeze(-2) * keys.unsqueeze(2) * between).sum(-1)


def gated_delta_operator(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule, scaled by 1/√K, with ONNX Runtime's LinearAttention. Each channel of a
    key may have a decay of its own.
    """
    scale, decay = q.shape[3] ** -0.5, decay.flatten(2)
    return _linear_attention(q, k, v, state, decay, beta, rule="gated_delta", scale=scale)


def ssd_operator(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the state-space recurrence with ONNX Runtime's LinearAttention, by its rule with decay alone.
    Keys and queries are repeated for each head.
    """
    b, c = (a.repeat_interleave(x.shape[2] // a.shape[2], dim=2) for a in (b, c))
    return _linear_attention(c, b, x, state, decay, rule="gated", scale=1.0)


def selective_scan_chunk(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the selective scan over the tokens of a run in parallel."""
    return in_parallel(_of_a_run(x), step, rates, b, c, state, longest=CHUNK)


def in_parallel(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor, *, longest: int
) -> tuple[Tensor, Tensor]:
    """Compute the selective scan over T tokens without a loop. T may be `longest` at most. The function works
    in rounds, and each round reaches twice as far back as the round before.

    Each token maps a state h to a new state. Before the first token, the map is the identity.
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


def wkv_chunk(
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    bonus: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    exponent: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute RWKV's averages over the tokens of a run without a loop. The function works in rounds, and each
    round reaches twice as far back as the round before.

    After a round, each token has the sums over the tokens that it reaches so far, and the decay of an earlier
    sum over these tokens. Before the first token, the sums are empty.
    """
    at = torch.arange(k.shape[1], device=k.device)
    n, d, m, lost = _of_a_run(v), torch.ones_like(v), k, decay
    for level in range((CHUNK - 1).bit_length()):
        before = (at - 2**level).clamp(min=0)
        there = (at >= 2**level)[:, None]
        n0, d0, m0, lost0 = (a.index_select(1, before) for a in (n, d, m, lost))
        n, d, m = _joined(n0, d0, torch.where(there, m0, PADDING) + lost, n, d, m)
        lost = lost + torch.where(there, lost0, 0)
    first = numerator.unsqueeze(1), denominator.unsqueeze(1), exponent.unsqueeze(1)
    n, d, m = _joined(first[0], first[1], first[2] + lost, n, d, m)
    # What a token reads: the sums after the token before it.
    n0, d0, m0 = (torch.cat((a, b), 1)[:, : k.shape[1]] for a, b in zip(first, (n, d, m), strict=True))
    ny, dy, _ = _joined(n0, d0, m0, v, torch.ones_like(v), k + bonus)
    last = at[-1:]  # which index_select finds for any T
    n, d, m = (a.index_select(1, last).squeeze(1) for a in (n, d, m))
    return ny / dy, n, d, m


def _joined(
    n0: Tensor, d0: Tensor, m0: Tensor, n: Tensor, d: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums n0 e^m0 + n e^m and d0 e^m0 + d e^m, both divided by e^M, and M, the larger exponent of
    m0 and m."""
    most = torch.maximum(m0, m)
    old, new = torch.exp(m0 - most), torch.exp(m - most)
    return old * n0 + new * n, old * d0 + new * d, most


def selective_scan_operator(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the selective scan with ONNX Runtime's LinearAttention, by its rule with decay alone. Each
    channel is a head with a single number as its value, and all heads share one key.
    """
    decay = (step.unsqueeze(3) * rates).flatten(2)
    values, state = (step * x).unsqueeze(3), state.unsqueeze(3)
    one_head = (a.unsqueeze(2) for a in (c, b))
    y, after = _linear_attention(*one_head, values, state, decay, rule="gated", scale=1.0)
    return y.squeeze(3), after.squeeze(3)


def _linear_attention(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *rates: Tensor, rule: str, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute a recurrence with ONNX Runtime's LinearAttention, which goes token by token. Several heads of
    values may share one head of keys.
    """
    batch, time, heads, size = v.shape
    y, after = onnx.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        (q.flatten(2), k.flatten(2), v.flatten(2), state, *rates),
        {"q_num_heads": q.shape[2], "kv_num_heads": heads, "update_rule": rule, "scale": scale},
        dtypes=(v.dtype, state.dtype),
        shapes=((batch, time, heads * size), state.shape),
        version=MICROSOFT,
    )
    return y.unflatten(-1, (heads, size)), after


# What a graph has in the place of loops, where its target has no operator for it.
EMITS = {
    "lstm": lstm,
    "gated_delta_rule": gated_delta_chunk,
    "ssd_recurrent": ssd_quadratic,
    "selective_scan": selective_scan_chunk,
    "wkv": wkv_chunk,
}
