"""Laws of attention to a text and to an encoder's text in one softmax."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attention
from . import Draw, Subject, law
from .kit.strategies import permutations


@law("merged_attention")
def without_another_text_it_is_attention(merged_attention: Subject, draw: Draw) -> None:
    """Keys and values past the other text's length have no weight. If the other text is empty, merged
    attention equals attention to the first text.
    """
    call = draw(merged_attention.calls())
    alone = call.but(lengths=np.zeros_like(call["lengths"]))
    x, cache = call["x"].astype(np.float64), call["cache"]
    wide = cache._replace(keys=cache.keys.astype(np.float64), values=cache.values.astype(np.float64))
    inputs = call["past"], call["weights"], call["rotary"]
    y, kept = attention(x, wide, *inputs, settings=call["settings"])
    merged_attention.near(merged_attention(alone), (y, kept), alone)


@law("merged_attention")
def the_other_text_is_a_set(merged_attention: Subject, draw: Draw) -> None:
    """Permuting the other text's keys together with their values doesn't change the result. Changing keys
    and values past the other text's length doesn't change it either."""
    call = draw(merged_attention.calls())
    order = draw(permutations(call.sizes["S"]))
    whole = call.but(lengths=np.full_like(call["lengths"], call.sizes["S"]))
    other = merged_attention.take(whole, "S", order)
    merged_attention.near(merged_attention(other), merged_attention(whole), other, whole)
    past = np.arange(call.sizes["S"]) >= call["lengths"][:, None]
    sides = {n: call[n] + past[:, None, :, None] for n in ("encoder_keys", "encoder_values")}
    beyond = call.but(**sides)
    merged_attention.near(merged_attention(beyond), merged_attention(call), beyond, call)


@law("merged_attention")
def a_key_counts_alike_in_both_texts(merged_attention: Subject, draw: Draw) -> None:
    """Keys and values give the same result in the cache as in the other text, if nothing is rotated and
    there is no window.
    """
    call = draw(merged_attention.calls(window=None, rotary=None, k_scale=None, query_scale=None))
    (b, g, _, k), s = call["encoder_keys"].shape, call.sizes["S"]
    t = call["x"].shape[1]
    whole = call.but(lengths=np.full(b, s), past=np.zeros(b, np.int64))
    room = np.zeros((b, g, t, k), call["keys"].dtype)
    near = [np.concatenate([call[f"encoder_{n}"], room], 2) for n in ("keys", "values")]
    far = whole.but(keys=room, values=room)
    moved = whole.but(keys=near[0], values=near[1], past=np.full(b, s), lengths=np.zeros(b, np.int64))
    merged_attention.near(merged_attention(far)[0], merged_attention(moved)[0], far, moved)
