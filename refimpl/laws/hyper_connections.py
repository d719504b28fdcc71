"""Laws of hyper-connections: what a sublayer reads of several streams, and how much it adds to each."""

from __future__ import annotations

import numpy as np

from ..ops.activation import sigmoid, silu
from ..ops.linear import linear
from . import Draw, Subject, law
from .kit.strategies import permutations


@law("mixture_of_streams")
def a_sublayer_reads_a_mean_of_gated_streams(mixture_of_streams: Subject, draw: Draw) -> None:
    """The mixture is the mean of the streams, each times its gates. It is computed here stream by stream."""
    call = draw(mixture_of_streams.calls(down=True, up=True))
    normed, count = call["normed"].astype(np.float64), call["streams"]
    parts = np.split(normed, count, axis=-1)
    narrow = [linear(n, down) for n, down in zip(parts, np.split(call["down"], count), strict=True)]
    inner = silu(np.sum(narrow, axis=0) / count)
    gates = [sigmoid(linear(inner, up)) for up in np.split(call["up"], count, axis=1)]
    read = np.mean([gate * n for gate, n in zip(gates, parts, strict=True)], axis=0)
    mixture_of_streams.near(mixture_of_streams(call), read, call)


@law("mixture_of_streams")
def streams_are_a_set(mixture_of_streams: Subject, draw: Draw) -> None:
    """If the streams are permuted together with their weights, the mixture stays the same."""
    call = draw(mixture_of_streams.calls(down=True, up=True))
    count = call["streams"]
    rows = np.split(np.arange(call["normed"].shape[-1]), count)
    order = np.concatenate([rows[i] for i in draw(permutations(count))])
    other = call.but(normed=call["normed"][:, :, order], down=call["down"][order], up=call["up"][:, order])
    mixture_of_streams.near(mixture_of_streams(other), mixture_of_streams(call), call, other)


@law("stream_openings")
def an_opening_and_its_opposite_make_two(stream_openings: Subject, draw: Draw) -> None:
    """Openings are between 0 and 2. With opposite weights, they are what was missing to 2."""
    call = draw(stream_openings.calls())
    openings, others = stream_openings(call), stream_openings(other := call.but(weight=-call["weight"]))
    assert (openings >= 0).all()
    assert (openings <= 2).all()
    stream_openings.near(openings + others, np.full(openings.shape, 2.0), call, other)


@law("stream_openings")
def an_opening_is_a_mean_through_a_sigmoid(stream_openings: Subject, draw: Draw) -> None:
    """An opening is twice the sigmoid of a product that is divided by the number of streams. Here the sigmoid
    is written with tanh, which doesn't overflow.
    """
    call = draw(stream_openings.calls())
    product = call["normed"].astype(np.float64) @ call["weight"].astype(np.float64)
    stream_openings.near(stream_openings(call), 1 + np.tanh(product / product.shape[-1] / 2), call)
