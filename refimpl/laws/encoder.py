"""Laws of attention over whole texts, and of pooling."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attention
from ..ops.cache import KVCache
from . import Call, Draw, Subject, law
from .kit.strategies import permutations


def _full(call: Call, letter: str) -> Call:
    """Return the call with rows without padding."""
    return call.but(lengths=np.full_like(call["lengths"], call.sizes[letter]))


@law("self_attention")
def tokens_without_positions_are_a_set(self_attention: Subject, draw: Draw) -> None:
    """Without positions, the order of tokens doesn't matter: permuted tokens give permuted vectors."""
    calls = self_attention.calls(rotary=None, bias=None, query_scale=None, window=None, causal=False)
    call = _full(draw(calls), "T")
    order = draw(permutations(call["x"].shape[1]))
    other = call.but(x=call["x"][:, order])
    self_attention.near(self_attention(other), self_attention(call)[:, order], other, call)


@law(
    "self_attention", "latent_self_attention", "disentangled_attention", "longformer_attention",
    "longt5_attention", "xlnet_attention", "convbert_attention", "mobilebert_bottleneck", "neighbour_conv",
)  # fmt: skip
def padding_changes_nothing(sublayer: Subject, draw: Draw) -> None:
    """Padding doesn't change the results for a row's real tokens: they equal the results for the row by
    itself.
    """
    call = draw(sublayer.calls())
    past = np.arange(call["x"].shape[1]) >= call["lengths"][:, None]
    other = call.but(x=np.where(past[:, :, None], call["x"] + 1, call["x"]))
    got, expected = (np.where(past[:, :, None], 0, sublayer(c)) for c in (other, call))
    sublayer.near(got, expected, other, call)


@law("self_attention")
def causal_it_equals_attention_with_an_empty_cache(self_attention: Subject, draw: Draw) -> None:
    """Causal self-attention over a whole text equals attention with an empty cache."""
    call = draw(self_attention.calls(causal=True))
    (b, t, _), settings = call["x"].shape, call["settings"]
    empty = np.zeros((b, settings.kv_heads, t, settings.head_size), call["x"].dtype)
    inputs = call["weights"], call["rotary"], call["bias"]
    expected, _ = attention(
        call["x"], KVCache(empty, empty), np.zeros(b, np.int64), *inputs, settings=settings
    )
    real = (np.arange(t) < call["lengths"][:, None])[:, :, None]
    got, expected = (np.where(real, y, 0) for y in (self_attention(call), expected))
    self_attention.near(got, expected, call)


@law(
    "self_attention", "latent_self_attention", "cross_attention", "disentangled_attention",
    "longformer_attention", "longt5_attention", "xlnet_attention", "convbert_attention",
    "mobilebert_bottleneck", "neighbour_conv",
)  # fmt: skip
def rows_do_not_depend_on_each_other(attention: Subject, draw: Draw) -> None:
    """A row of a batch gives the same result as the row by itself, because rows don't see each other."""
    call = draw(attention.calls())
    alone = attention.take(call, "B", [0])
    attention.near(attention(alone), attention(call)[:1], alone, call)


@law("cross_attention")
def keys_are_a_set(cross_attention: Subject, draw: Draw) -> None:
    """Cross-attention doesn't depend on the order of the encoder's keys, if the values are permuted like
    the keys.
    """
    call = _full(draw(cross_attention.calls()), "S")
    other = cross_attention.take(call, "S", draw(permutations(call["keys"].shape[2])))
    cross_attention.near(cross_attention(other), cross_attention(call), other, call)


@law("cross_attention")
def keys_past_the_length_are_not_seen(cross_attention: Subject, draw: Draw) -> None:
    """Cross-attention doesn't see keys beyond a row's length: they don't change the result."""
    call = draw(cross_attention.calls())
    past = (np.arange(call["keys"].shape[2]) >= call["lengths"][:, None])[:, None, :, None]
    far = {n: np.where(past, 100, call[n]).astype(cross_attention.dtype) for n in ("keys", "values")}
    other = call.but(**far)
    cross_attention.near(cross_attention(other), cross_attention(call), call)


@law("cross_keys")
def each_state_has_its_own_key(cross_keys: Subject, draw: Draw) -> None:
    """If the encoder's vectors are permuted, `cross_keys` returns keys and values permuted in the same
    way.
    """
    call = draw(cross_keys.calls())
    order = draw(permutations(call["states"].shape[1]))
    k, v = cross_keys(call)
    other = cross_keys.take(call, "S", order)
    cross_keys.near(cross_keys(other), (k[:, :, order], v[:, :, order]), other, call)


@law("pool")
def padding_does_not_count(pool: Subject, draw: Draw) -> None:
    """The pooled vector of a text depends only on the text's real tokens."""
    call = draw(pool.calls())
    past = (np.arange(call["x"].shape[1]) >= call["lengths"][:, None])[:, :, None]
    other = call.but(x=np.where(past, 1000, call["x"]).astype(pool.dtype))
    pool.near(pool(other), pool(call), call)


@law("pool")
def pooling_one_token_gives_that_token(pool: Subject, draw: Draw) -> None:
    """A text of one token is pooled to the vector of this token. A text without tokens is pooled to zeros."""
    call = draw(pool.calls())
    ones = call.but(lengths=np.ones_like(call["lengths"]))
    pool.near(pool(ones), call["x"][:, 0], ones)
    assert not pool(call.but(lengths=np.zeros_like(call["lengths"]))).any(), (
        "the vector of a text without tokens isn't 0"
    )


@law("pool")
def mean_and_maximum_have_no_order(pool: Subject, draw: Draw) -> None:
    """If a text is reversed, its pooled first and last vectors are exchanged. The mean and the maximum
    stay the same.
    """
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
    """`unit` returns vectors of length 1, and any positive multiple of a vector gives the same result.
    Vectors as short as eps are the exception."""
    call = draw(unit.calls(eps=1e-5))
    y, long = unit(call), np.linalg.norm(call["x"], axis=-1) > 1e-3
    unit.near((y * y).sum(-1)[long], np.ones(long.sum()), call, times=2 * y.shape[-1])
    other = call.but(x=call["x"] * 2)
    unit.near(unit(other)[long], y[long], call, other)
