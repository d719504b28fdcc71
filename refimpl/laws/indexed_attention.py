"""Laws of attention to blocks that an indexer chooses: which blocks a query sees, and what the sublayer
computes.
"""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from ..ops.indexed_attention import best_blocks as chosen_blocks
from ..ops.linear import linear
from ..ops.norm import rms_norm
from ..ops.position import rotate
from . import Draw, Subject, law
from .kit.one_pass import in_two


@law("best_blocks")
def no_block_left_out_is_better(best_blocks: Subject, draw: Draw) -> None:
    """A query sees `topk` blocks, or all that begin up to itself if there are fewer: the latest `local` ones
    first, then those with the largest score, of equal ones the earlier. Of these it sees the keys up to
    itself.

    Scores in this law are whole numbers, so that many are equal.
    """
    call = draw(best_blocks.calls())
    call = call.but(scores=np.round(call["scores"]))
    size, got = call["block_size"], best_blocks(call)
    for row, t in np.ndindex(*got.shape[:2]):
        last = int(call["at"][row, t])
        blocks = [range(s, min(s + size, last + 1)) for s in range(0, last + 1, size)]
        best = {b: max(call["scores"][row, t, s] for s in keys) for b, keys in enumerate(blocks)}
        best |= dict.fromkeys(range(max(len(blocks) - call["local"], 0), len(blocks)), np.inf)
        seen = sorted(best, key=lambda b: (-best[b], b))[: call["topk"]]
        expected = sorted(s for b in seen for s in blocks[b])
        assert np.flatnonzero(got[row, t]).tolist() == expected, (
            f"query {t} of row {row} reads other keys than the indexer chooses"
        )


@law("best_blocks")
def with_room_for_all_a_query_sees_all_before_it(best_blocks: Subject, draw: Draw) -> None:
    """If every block is chosen, a query sees all keys up to itself, whatever the size of a block."""
    call = draw(best_blocks.calls())
    every = best_blocks(call.but(topk=call["scores"].shape[2]))
    assert (every == (np.arange(every.shape[2]) <= call["at"][:, :, None])).all()


@law("indexed_attention")
def any_split_of_the_tokens_is_one_pass(indexed_attention: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text give the same outputs and the same cache as one call."""
    call = draw(indexed_attention.calls(T=5))
    in_two(indexed_attention, draw, call, lambda cut, cache: {"cache": cache, "past": call["past"] + cut})


@law("indexed_attention")
def the_sublayer_is_its_parts(indexed_attention: Subject, draw: Draw) -> None:
    """For a text's first tokens, the sublayer equals its parts computed one by one: projections, norms,
    rotations, and for each query head attention to the blocks of its key head.
    """
    call = draw(indexed_attention.calls(O=0))
    a, x = call["settings"], call["x"].astype(np.float64)
    b, t, _ = x.shape

    def made(name: str, count: int) -> np.ndarray:
        y = linear(x, call[f"w{name}"]).reshape(b, t, count, -1)
        y = rms_norm(y, call[f"{name}_norm"].astype(np.float64), eps=a.norm_eps)
        angles = (call[n][:t].astype(np.float64) for n in ("cos", "sin"))
        cos, sin = (np.broadcast_to(angle, (b, t, a.position.dims // 2)) for angle in angles)
        return rotate(y, cos, sin, interleaved=a.position.interleaved)

    q, k = made("q", a.heads), made("k", a.kv_heads)
    index_q, index_k = made("q_index", a.kv_heads), made("k_index", 1)[:, :, 0]
    v = linear(x, call["wv"]).reshape(b, t, a.kv_heads, -1)
    at, i = np.broadcast_to(np.arange(t), (b, t)), a.indexer
    ys = []
    for head in range(a.heads):
        group = head * a.kv_heads // a.heads
        scores = np.einsum("btp,bsp->bts", index_q[:, :, group], index_k)
        seen = chosen_blocks(scores, at, block_size=i.block, topk=i.topk, local=i.local)
        ys.append(attend(q[:, :, head, None], k[:, :, group, None], v[:, :, group, None], seen))
    got, _ = indexed_attention(call)
    indexed_attention.near(got, linear(np.concatenate(ys, 2).reshape(b, t, -1), call["wo"]), call)
