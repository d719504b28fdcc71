"""Laws of disentangled attention: which rows of the distance table are read, and the score's terms with
positions.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.attention import attend
from ..ops.linear import linear
from ..ops.mask import padding_mask
from . import Draw, Subject, law
from .kit.strategies import permutations

shifts = st.integers(0, 1000)


@law("distance_rows")
def a_shift_changes_no_row(distance_rows: Subject, draw: Draw) -> None:
    """If queries and keys are shifted by the same distance, they read the same rows of the distance table."""
    call, shift = draw(distance_rows.calls()), draw(shifts)
    moved = call.but(queries=call["queries"] + shift, keys=call["keys"] + shift)
    distance_rows.near(distance_rows(moved), distance_rows(call))


@law("distance_rows")
def rows_grow_with_the_distance(distance_rows: Subject, draw: Draw) -> None:
    """The rows of the distance table are in order: keys after the query come first, then the query's own
    position, then keys before the query. Near keys have a row each. Far keys share the first and the last
    row.
    """
    span, until = draw(st.sampled_from(((4, None), (1, None), (8, 20), (6, 5), (256, 512))))
    reach = 2 * (span if until is None else until)
    call = distance_rows.call(np.array([reach]), np.arange(2 * reach + 1), span=span, log_until=until)
    rows = distance_rows(call)[0][::-1]  # of distances −reach … reach
    near = span - 1 if until is None else span // 2
    own = rows[reach - near : reach + near + 1]
    assert own.tolist() == list(range(span - near, span + near + 1)), f"two near distances share a row: {own}"
    assert (np.diff(rows) >= 0).all(), f"a farther key has a lower row: {rows}"
    assert (rows[0], rows[-1]) == (0, 2 * span - 1), (
        f"the farthest keys aren't in the first and the last row: {rows}"
    )
    mirrored = np.clip(2 * span - rows[::-1], 0, 2 * span - 1)
    assert (rows[1:-1] == mirrored[1:-1])[reach - near : reach + near - 1].all()
    last = reach + (span if until is None else until) - 1
    assert rows[last] == 2 * span - 1, f"distance {last - reach} isn't in the last row: {rows}"


@law("distance_scores")
def each_pair_has_its_own_distance(distance_scores: Subject, draw: Draw) -> None:
    """The score of a query and a key contains two products with their distance: the query times the
    distance's key, and the key times the distance's query."""
    call = draw(distance_scores.calls())
    q, k = (call[n].astype(np.float64) for n in ("q", "k"))
    (b, t, h, size), s = q.shape, k.shape[1]
    scale = size**-0.5 if call["scale"] is None else call["scale"]
    scores = np.zeros((b, h, t, s))
    for i, j in np.ndindex(t, s):
        row = call["rows"][i, j]
        if call["k_pos"] is not None:
            scores[:, :, i, j] += (q[:, i] * call["k_pos"][row]).sum(-1)
        if call["q_pos"] is not None:
            scores[:, :, i, j] += (k[:, j] * call["q_pos"][row]).sum(-1)
    distance_scores.near(distance_scores(call), scale * scores, call)


@law("disentangled_attention")
def the_sublayer_is_its_parts(disentangled_attention: Subject, draw: Draw) -> None:
    """The sublayer of disentangled attention equals its formula, computed head by head. Tokens and
    distances both have queries and keys.
    """
    call = draw(disentangled_attention.calls())
    a, x, vectors = call["settings"], call["x"].astype(np.float64), call["vectors"].astype(np.float64)[None]
    own = "" if a.shared else "_pos"

    def heads(x: np.ndarray, name: str) -> np.ndarray:
        y = linear(x, call[f"w{name}"], call[f"b{name}"])
        return y.reshape(*x.shape[:2], a.heads, a.head_size)

    q, k, v = (heads(x, name) for name in "qkv")
    bias = np.zeros((len(x), a.heads, x.shape[1], x.shape[1]))
    if a.content_to_position:
        bias += np.einsum("bthk,tshk->bhts", q, heads(vectors, f"k{own}")[0][call["rows"]])
    if a.position_to_content:
        bias += np.einsum("bshk,tshk->bhts", k, heads(vectors, f"q{own}")[0][call["rows"]])
    terms = 1 + a.content_to_position + a.position_to_content
    scale = (a.head_size * terms) ** -0.5 if a.scale is None else a.scale
    seen = padding_mask(np.arange(x.shape[1]), call["lengths"])[:, None]
    y = attend(q, k, v, np.broadcast_to(seen, bias[:, 0].shape), scale * bias, scale=scale)
    y = linear(y.reshape(*x.shape[:2], -1), call["wo"], call["bo"])
    disentangled_attention.near(disentangled_attention(call), y, call)


@law("disentangled_attention")
def tokens_at_one_distance_are_a_set(disentangled_attention: Subject, draw: Draw) -> None:
    """If all distances have the same vector, the order of tokens doesn't matter: permuted tokens give
    permuted vectors.
    """
    call = draw(disentangled_attention.calls())
    call = call.but(
        lengths=np.full_like(call["lengths"], call["x"].shape[1]),
        table=call["table"]._replace(rows=np.zeros_like(call["rows"])),
    )
    order = draw(permutations(call["x"].shape[1]))
    other = call.but(x=call["x"][:, order])
    got, expected = disentangled_attention(other), disentangled_attention(call)[:, order]
    disentangled_attention.near(got, expected, other, call)
