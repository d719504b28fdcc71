"""Laws of gated delta networks: their state and their parts."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law
from .kit.strategies import splits


@law("gated_delta")
def any_split_of_the_tokens_is_one_pass(gated_delta: Subject, draw: Draw) -> None:
    """Two calls equal one call: outputs, the convolution's tail and states."""
    call = draw(gated_delta.calls(lengths=None, T=5))
    cut = draw(splits(5))
    first, second = gated_delta.take(call, "T", range(cut)), gated_delta.take(call, "T", range(cut, 5))
    y, cache = gated_delta(first)
    if cut == 0:
        cache = call["cache"]
    second = second.but(cache=cache, past=call["past"] + cut)
    z, last = gated_delta(second)
    gated_delta.near((np.concatenate([y, z], 1), last), gated_delta(call), call, first, second)


@law("gated_delta")
def a_padded_row_is_the_row_alone(gated_delta: Subject, draw: Draw) -> None:
    """Padding past a row's length changes neither its outputs nor what it keeps."""
    call = draw(gated_delta.calls(lengths=True))
    y, cache = gated_delta(call)
    got, expected = [], []
    for row, n in enumerate(call["lengths"]):
        alone = gated_delta.take(gated_delta.take(call, "B", [row]), "T", range(n))
        z, state = gated_delta(alone.but(cache=alone["cache"]._replace(lengths=None)))
        got += [y[row, :n].ravel(), cache.tail[row].ravel(), cache.state[row].ravel()]
        expected += [z[0].ravel(), state.tail[0].ravel(), state.state[0].ravel()]
    gated_delta.near(np.concatenate(got), np.concatenate(expected), call, call)


@law("gated_delta")
def a_row_that_begins_knows_nothing(gated_delta: Subject, draw: Draw) -> None:
    """Without tokens before the call, what the cache holds doesn't matter."""
    call = draw(gated_delta.calls())
    call = call.but(past=np.zeros_like(call["past"]))
    cache = call["cache"]
    other = call.but(cache=cache._replace(tail=cache.tail + 1, state=cache.state + 1))
    gated_delta.near(gated_delta(other), gated_delta(call), call)


@law("gated_delta")
def a_closed_gate_gives_nothing(gated_delta: Subject, draw: Draw) -> None:
    """Where the output's gate is zero, so is the output, whatever the state."""
    call = draw(gated_delta.calls(wi=True, wz=True, wo=True))
    call = call.but(wz=np.zeros_like(call["wz"]))
    gated_delta.near(gated_delta(call)[0], np.zeros_like(call["x"]), call)
