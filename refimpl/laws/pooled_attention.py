"""Laws of attention to blocks that are scored by the mean of their keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ops.attention import attention
from ..ops.cache import KVCache
from ..ops.linear import linear
from ..ops.norm import rms_norm
from ..ops.pooled_attention import PooledAttention
from ..ops.position import rotate
from . import Draw, Subject, law
from .kit.call import Call
from .kit.one_pass import in_two


@law("pooled_attention")
def any_split_of_the_tokens_is_one_pass(pooled_attention: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text give the same outputs and the same cache as one call."""
    call = draw(pooled_attention.calls(T=5))
    in_two(pooled_attention, draw, call, lambda cut, cache: {"cache": cache, "past": call["past"] + cut})


@law("pooled_attention")
def with_room_for_all_blocks_it_is_plain_attention(pooled_attention: Subject, draw: Draw) -> None:
    """If at least as many blocks are chosen as there are, the sublayer is its attention alone."""
    call = draw(pooled_attention.calls())
    call = call.but(settings=replace(call["settings"], blocks=call["cache"].keys.shape[2]))
    pooled_attention.near(pooled_attention(call)[0], _plain(call, call["settings"]), call)


@law("pooled_attention")
def of_whole_blocks_the_best_are_seen(pooled_attention: Subject, draw: Draw) -> None:
    """For a text's first tokens, the sublayer is its attention over the tokens after a token's last whole
    block, and over the blocks with the largest scores, of equal ones the earlier.
    """
    call = draw(pooled_attention.calls(O=0))
    a, x = call["settings"], call["x"].astype(np.float64)
    (b, t, _), size = x.shape, a.block_size
    cos, sin = (call[name].astype(np.float64) for name in ("cos", "sin"))

    def turned(y: np.ndarray, norm: str, at: np.ndarray) -> np.ndarray:
        y = rms_norm(y, call[norm].astype(np.float64), eps=a.index_eps)
        angles = (np.broadcast_to(table[at], (b, len(at), table.shape[1])) for table in (cos, sin))
        return rotate(y, *angles, interleaved=a.attention.interleaved)

    queries = linear(x, call["wq_index"]).reshape(b, t, a.index_heads, a.index_size)
    queries = turned(queries, "index_q_norm", np.arange(t))
    keys = linear(x, call["wk_index"])[:, : t // size * size].reshape(b, -1, size, a.index_size).mean(2)
    keys = turned(keys[:, :, None], "index_k_norm", np.arange(t // size) * size)[:, :, 0]
    scores = np.maximum(np.einsum("bthk,bzk->bthz", queries, keys), 0).sum(2)
    bias = np.full((b, a.heads, t, call["cache"].keys.shape[2]), -np.inf)
    for row, i in np.ndindex(b, t):
        whole = (i + 1) // size
        best = sorted(range(whole), key=lambda z: (-scores[row, i, z], z))[: a.blocks]
        seen = [s for z in best for s in range(z * size, z * size + size)] + [*range(whole * size, i + 1)]
        bias[row, :, i, seen] = 0
    pooled_attention.near(pooled_attention(call)[0], _plain(call, a, bias.astype(call["x"].dtype)), call)


def _plain(call: Call, settings: PooledAttention, bias: np.ndarray | None = None) -> np.ndarray:
    """Return the attention inside of the sublayer alone, with a bias of its scores."""
    cache = KVCache(call["cache"].keys, call["cache"].values)
    weights: Any = {**call["weights"], "sink_logits": None}
    inputs = call["x"], cache, call["past"], weights, call["rotary"], bias
    return attention(*inputs, settings=settings.attention)[0]
