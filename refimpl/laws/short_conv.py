"""Laws of short convolutions: the sum over the latest inputs, and the state. Some of these laws also check
the states of layers with a convolution and a matrix for each head.
"""

from __future__ import annotations

import numpy as np

from ..ops.linear import linear
from ..ops.short_conv import causal_conv as plain
from . import Draw, Subject, law
from .kit.one_pass import in_two


@law("causal_conv")
def each_token_sums_its_own_inputs(causal_conv: Subject, draw: Draw) -> None:
    """`causal_conv` returns for each token a sum over the latest inputs and the token's own input. The law
    computes it by einsum.
    """
    call = draw(causal_conv.calls())
    x, kernel = call["x"].astype(np.float64), call["kernel"].astype(np.float64)
    m = len(kernel) - 1
    tail = np.zeros((len(x), m, x.shape[2])) if call["tail"] is None else call["tail"]
    inputs = np.concatenate([tail, x], 1)
    y = [np.einsum("bmf,mf->bf", inputs[:, t : t + m + 1], kernel) for t in range(x.shape[1])]
    bias = 0 if call["bias"] is None else call["bias"]
    causal_conv.near(causal_conv(call), np.stack(y, 1) + bias, call)


@law("causal_conv")
def a_tail_is_what_stood_before(causal_conv: Subject, draw: Draw) -> None:
    """`causal_conv` gives the same result whether earlier inputs are in `tail` or are the first inputs of
    the call.
    """
    call = draw(causal_conv.calls(tail=True))
    joined = call.but(x=np.concatenate([call["tail"], call["x"]], 1), tail=None)
    m = call["tail"].shape[1]
    causal_conv.near(causal_conv(call), causal_conv(joined)[:, m:], call, joined)


@law("short_conv", "gated_delta", "lightning", "mamba", "mamba2", "rg_lru", "time_mix", "channel_mix")
def any_split_of_the_tokens_is_one_pass(mixer: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text give the same outputs and states as one call over the whole text."""
    call = draw(mixer.calls(lengths=None, T=5))
    in_two(mixer, draw, call, lambda cut, cache: {"cache": cache, "past": call["past"] + cut})


@law("short_conv", "gated_delta", "lightning", "mamba", "mamba2", "rg_lru", "time_mix", "channel_mix")
def a_padded_row_is_the_row_alone(mixer: Subject, draw: Draw) -> None:
    """Padding at the end of a row changes neither the row's outputs nor its state."""
    call = draw(mixer.calls(lengths=True))
    y, cache = mixer(call)
    got, expected = [], []
    for row, n in enumerate(call["lengths"]):
        alone = mixer.take(mixer.take(call, "B", [row]), "T", range(n))
        z, state = mixer(alone.but(cache=alone["cache"]._replace(lengths=None)))
        # A row without tokens keeps what it has, which counts for nothing where none came before.
        got += [y[row, :n].ravel(), *(kept[row].ravel() for kept in cache[:-1])]
        expected += [z[0].ravel(), *(kept[0].ravel() for kept in state[:-1])]
    mixer.near(np.concatenate(got), np.concatenate(expected), call, call)


@law("short_conv")
def the_sublayer_is_its_parts(short_conv: Subject, draw: Draw) -> None:
    """The sublayer equals its parts computed one by one: projection, gate, convolution, gate, projection.
    At the beginning of a row, earlier inputs are zeros."""
    call = draw(short_conv.calls(wi=True, wo=True))
    b, c, v = np.split(linear(call["x"].astype(np.float64), call["wi"], call["bi"]), 3, -1)
    tail = np.array([kept * (count > 0) for kept, count in zip(call["tail"], call["past"], strict=True)])
    y = c * plain(b * v, call["conv"], tail.astype(np.float64), call["conv_bias"])
    got, _ = short_conv(call)
    short_conv.near(got, linear(y, call["wo"], call["bo"]), call)
