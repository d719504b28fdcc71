"""Laws of attention over whole texts, and of what is read off them."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attention
from . import Call, Draw, Subject, law
from .kit.strategies import permutations


def _full(call: Call, letter: str) -> Call:
    """The call with rows that hold no padding."""
    return call.but(lengths=np.full_like(call["lengths"], call.sizes[letter]))


@law("self_attention")
def tokens_without_positions_are_a_set(self_attention: Subject, draw: Draw) -> None:
    """Man eats shark, shark eats man: tokens in another order give the same vectors in that order."""
    call = _full(draw(self_attention.calls(cos=None, bias=None, window=None, causal=False)), "T")
    order = draw(permutations(call["x"].shape[1]))
    other = call.but(x=call["x"][:, order])
    self_attention.near(self_attention(other), self_attention(call)[:, order], other, call)


@law("self_attention")
def padding_changes_nothing(self_attention: Subject, draw: Draw) -> None:
    """Whatever stands past a row's length, its tokens are what they are alone."""
    call = draw(self_attention.calls())
    past = np.arange(call["x"].shape[1]) >= call["lengths"][:, None]
    other = call.but(x=np.where(past[:, :, None], call["x"] + 1, call["x"]))
    got, wanted = (np.where(past[:, :, None], 0, self_attention(c)) for c in (other, call))
    self_attention.near(got, wanted, other, call)


@law("self_attention")
def causal_it_is_a_decoders_without_a_past(self_attention: Subject, draw: Draw) -> None:
    """A whole text read at once, up to each token, is what attention with an empty cache makes of it."""
    call = draw(self_attention.calls(causal=True))
    whole = {"lengths", "head_size", "causal"}
    given = {n: a for n, a in (call.arrays | call.settings).items() if n not in whole}
    b, t = call["x"].shape[:2]
    empty = np.zeros((b, call.sizes["G"], t, call["head_size"]), call["x"].dtype)
    wanted = attention(past_k=empty, past_v=empty, past=np.zeros(b, np.int64), **given)[0]
    real = (np.arange(t) < call["lengths"][:, None])[:, :, None]
    got, wanted = (np.where(real, y, 0) for y in (self_attention(call), wanted))
    self_attention.near(got, wanted, call)


@law("self_attention", "cross_attention")
def a_row_is_itself_beside_any_neighbour(attention: Subject, draw: Draw) -> None:
    """Rows of a batch don't see each other."""
    call = draw(attention.calls())
    alone = attention.take(call, "B", [0])
    attention.near(attention(alone), attention(call)[:1], alone, call)


@law("cross_attention")
def keys_are_a_set(cross_attention: Subject, draw: Draw) -> None:
    """The other text's keys and values in another order, both alike, are the same text."""
    call = _full(draw(cross_attention.calls()), "S")
    other = cross_attention.take(call, "S", draw(permutations(call["k"].shape[2])))
    cross_attention.near(cross_attention(other), cross_attention(call), other, call)


@law("cross_attention")
def keys_past_the_length_are_not_seen(cross_attention: Subject, draw: Draw) -> None:
    """Whatever stands there."""
    call = draw(cross_attention.calls())
    past = (np.arange(call["k"].shape[2]) >= call["lengths"][:, None])[:, None, :, None]
    other = call.but(**{n: np.where(past, 100, call[n]).astype(cross_attention.dtype) for n in "kv"})
    cross_attention.near(cross_attention(other), cross_attention(call), call)


@law("cross_keys")
def each_state_has_its_own_key(cross_keys: Subject, draw: Draw) -> None:
    """States in another order give keys and values in that order."""
    call = draw(cross_keys.calls())
    order = draw(permutations(call["states"].shape[1]))
    k, v = cross_keys(call)
    other = cross_keys.take(call, "S", order)
    cross_keys.near(cross_keys(other), (k[:, :, order], v[:, :, order]), other, call)


@law("pool")
def padding_does_not_count(pool: Subject, draw: Draw) -> None:
    """A text's vector is that of its real tokens."""
    call = draw(pool.calls())
    past = (np.arange(call["x"].shape[1]) >= call["lengths"][:, None])[:, :, None]
    other = call.but(x=np.where(past, 1000, call["x"]).astype(pool.dtype))
    pool.near(pool(other), pool(call), call)


@law("pool")
def all_ways_to_pool_one_token_are_one(pool: Subject, draw: Draw) -> None:
    """A text of one token is that token's vector; none at all gives zeros."""
    call = draw(pool.calls())
    ones = call.but(lengths=np.ones_like(call["lengths"]))
    pool.near(pool(ones), call["x"][:, 0], ones)
    assert not pool(call.but(lengths=np.zeros_like(call["lengths"]))).any(), "a vector of no tokens"


@law("pool")
def mean_and_maximum_have_no_order(pool: Subject, draw: Draw) -> None:
    """First and last are exchanged when the order of a text is turned round, the others stay."""
    call = _full(draw(pool.calls()), "T")
    turned = call.but(x=call["x"][:, ::-1])
    match call["pooling"]:
        case "first" | "last":
            other = {"first": "last", "last": "first"}[call["pooling"]]
            pool.near(pool(turned.but(pooling=other)), pool(call))
        case _:
            pool.near(pool(turned), pool(call), turned, call)


@law("unit")
def lengths_become_one(unit: Subject, draw: Draw) -> None:
    """Unless a vector is as short as eps, its length is 1, and any multiple of it gives the same."""
    call = draw(unit.calls(eps=1e-5))
    y, long = unit(call), np.linalg.norm(call["x"], axis=-1) > 1e-3
    unit.near((y * y).sum(-1)[long], np.ones(long.sum()), call, times=2 * y.shape[-1])
    other = call.but(x=call["x"] * 2)
    unit.near(unit(other)[long], y[long], call, other)
