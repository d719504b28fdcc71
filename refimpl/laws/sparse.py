"""Laws of sparse attention: only the listed pairs of blocks are computed."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from ..ops.sparse import longformer_mask as tokens_meet
from . import Call, Draw, Subject, law
from .kit.strategies import permutations


def _distinct(call: Call) -> Call:
    """Return the call with each pair listed once."""
    _, first = np.unique(np.stack([call["rows"], call["columns"]]), axis=1, return_index=True)
    mask = None if call["mask"] is None else call["mask"][first]
    return call.but(rows=call["rows"][first], columns=call["columns"][first], mask=mask)


def _dense(call: Call) -> np.ndarray:
    """Return the mask over all tokens that a call's pairs of blocks represent."""
    (b, y, a), z = call["q"].shape[:3], call["k"].shape[1]
    seen = np.zeros((b, y, a, z, a), bool)
    for m, (row, column) in enumerate(zip(call["rows"], call["columns"], strict=True)):
        seen[:, row, :, column] = True if call["mask"] is None else call["mask"][m]
    if call["keys"] is not None:
        seen &= call["keys"][:, None, None]
    return seen.reshape(b, y * a, z * a)


def _plain(call: Call, mask: np.ndarray | None) -> np.ndarray:
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])  # noqa: E731
    out = attend(flat(q), flat(k), flat(v), mask, scale=call["scale"], softcap=call["softcap"])
    return out.reshape(*q.shape[:4], v.shape[4])


@law("sparse_attend")
def sparse_is_plain_attention_under_the_mask(sparse_attend: Subject, draw: Draw) -> None:
    """Block-sparse attention equals attention over the whole matrix with all other pairs of tokens masked."""
    call = _distinct(draw(sparse_attend.calls()))
    sparse_attend.near(sparse_attend(call), _plain(call, _dense(call)), call)


@law("sparse_attend")
def with_every_pair_it_is_plain_attention(sparse_attend: Subject, draw: Draw) -> None:
    """If all pairs of blocks are listed, block-sparse attention equals plain attention."""
    call = draw(sparse_attend.calls(mask=None, keys=None))
    rows, columns = np.nonzero(np.ones((call["q"].shape[1], call["k"].shape[1])))
    full = call.but(rows=rows, columns=columns)
    sparse_attend.near(sparse_attend(full), _plain(full, None), full)


@law("sparse_attend")
def pairs_are_a_set(sparse_attend: Subject, draw: Draw) -> None:
    """The order in which pairs of blocks are listed doesn't change the result."""
    call = draw(sparse_attend.calls())
    other = sparse_attend.take(call, "M", draw(permutations(len(call["rows"]))))
    sparse_attend.near(sparse_attend(other), sparse_attend(call), call, other)


@law("block_pairs")
def the_list_is_the_layout(block_pairs: Subject, draw: Draw) -> None:
    """`block_pairs` lists each True of the pattern exactly once, row by row, and no False."""
    call = draw(block_pairs.calls())
    rows, columns = block_pairs(call)
    back = np.zeros(call["pattern"].shape, int)
    np.add.at(back, (rows, columns), 1)
    assert (back == call["pattern"]).all(), "the list of blocks doesn't give the pattern again"
    assert (np.diff(rows) >= 0).all(), "the rows of the list aren't in order"


@law("block_mask")
def tokens_see_each_other_where_their_blocks_do(block_mask: Subject, draw: Draw) -> None:
    """`block_mask` lets two tokens see each other if the pattern lets their blocks see each other."""
    call = draw(block_mask.calls())
    queries, keys, pattern = call["queries"], call["keys"], call["pattern"]
    expected = [[[pattern[y, z] for z in keys] for y in row] for row in queries]
    block_mask.near(block_mask(call), np.array(expected))


@law("bigbird_pattern")
def window_global_and_random_blocks_and_no_other(bigbird_pattern: Subject, draw: Draw) -> None:
    """`bigbird_pattern` is true exactly for window, global and random blocks. The law checks each element,
    for blocks in ascending order.
    """
    call = draw(bigbird_pattern.calls())
    y, z = len(call["rows"]), len(call["columns"])
    call = call.but(rows=np.arange(y), columns=np.arange(z))
    reach, first, chosen = call["reach"], call["first"], call["chosen"]
    expected = [
        [abs(i - j) <= reach or min(i, j) < first or bool((chosen[i] == j).any()) for j in range(z)]
        for i in range(y)
    ]
    bigbird_pattern.near(bigbird_pattern(call), np.array(expected))


@law("longformer_mask")
def near_tokens_and_global_ones(longformer_mask: Subject, draw: Draw) -> None:
    """Without global tokens, `longformer_mask` depends only on distance. If all tokens are global,
    everything is seen.
    """
    call = draw(longformer_mask.calls())
    some = {n: call[n] for n in ("query_global", "key_global")}
    none = longformer_mask(call.but(**{n: np.zeros_like(a) for n, a in some.items()}))
    distance = abs(call["queries"][:, :, None] - call["keys"][:, None])
    longformer_mask.near(none, distance <= call["reach"])
    spread = some["query_global"][:, :, None] | some["key_global"][:, None]
    longformer_mask.near(longformer_mask(call), none | spread)


@law("longformer_layout")
def a_block_pair_is_listed_if_tokens_see_each_other(longformer_layout: Subject, draw: Draw) -> None:
    """`longformer_layout` lists a pair of blocks if any token of one block may see any token of the other."""
    call = draw(longformer_layout.calls())
    y, a = call["is_global"].shape
    at, flags = np.arange(y * a)[None], call["is_global"].reshape(1, -1)
    mask = tokens_meet(at, at, flags, flags, reach=call["reach"])
    longformer_layout.near(longformer_layout(call), mask.reshape(y, a, y, a).any((1, 3)))
