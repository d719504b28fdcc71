"""A layer: a token mixer, an mlp, and how they are put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .mlps import Activation, Mlp
from .norms import Norm, RMSNorm
from .record import Record
from .token_mixers import Attention, StateSpace, TokenMixer


class NeighbourConv(Record):
    """A convolution over a token and its `neighbours` on either side, followed by an activation
    (`ops.neighbour_conv`). Its output is added to another vector; `after` normalizes the sum.
    """

    neighbours: int
    activation: Activation
    after: Norm


class Beside(Record):
    """A state space beside the attention of a layer: both read the same input, and their outputs are added.

    The input and the output of both are multiplied by factors; a factor of None means 1 (Falcon-H1). The
    norms are those of the attention.
    """

    mixer: StateSpace
    scale_in: float | None = None
    scale_out: float | None = None
    attention_in: float | None = None
    attention_out: float | None = None


class PerLayerInput(Record):
    """A vector of `width` elements for each token, which a layer gates and adds to its output
    (`ops.per_layer`). `post` normalizes the vector that is added. With `scaled` the gate's input is
    multiplied by a learned vector of the model's width.
    """

    width: int
    activation: Activation
    post: Norm | None = None
    scaled: bool = False

    def numbers(self) -> Iterator[float]:
        yield self.width**0.5


class AltUp(Record):
    """Alternating updates: each token has `streams` vectors, and a layer computes only the vector with index
    `active`.

    All vectors are first predicted from each other, then corrected by the layer's output (`ops.altup`).
    `norm` comes before the map that makes the coefficients.
    """

    streams: int
    active: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield from (1e-5, float(self.streams))


class Laurel(Record):
    """A learned residual of `rank` beside a layer's mixer (`ops.laurel`). `norm` normalizes the output of its
    two projections."""

    rank: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield 0.5**0.5


class Layer(Record):
    """Attention and mlp, one after the other or (`parallel`) side by side on the same input.

    Another mixer may replace attention. The mixer's `place` says whether it may be in a decoder or in an
    encoder. A parallel mlp without a norm `pre` of its own takes the output of the attention's `pre` (GPT-J,
    Cohere). `cross` comes between attention and mlp, in a decoder that reads an encoder. If it is `merged`,
    there is no such sublayer: the attention reads the keys of `cross` too, in the same softmax (T5Gemma 2).

    `residual` says what a sublayer's output is added to: its input, or that input after the norm `pre`
    (BLOOM's option). `scale` multiplies each sublayer's output before it is added (Granite). `conv` reads the
    layer's input, and its output is added to the layer's output (DeBERTa v2). `beside` is a second mixer on
    the attention's input, in a decoder. With `scalar` the layer's whole output, residual included, is
    multiplied by a learned number (Gemma 4). `per_layer` is a vector of the token that the layer gets in
    addition to the output of the previous layer. `laurel` reads the mixer's input; its output is averaged
    with the sum of the mixer and its residual. With `altup` a token has several vectors, and the layer
    computes one of them (both Gemma 3n).
    """

    attention: TokenMixer
    mlp: Mlp
    parallel: bool = False
    cross: Attention | None = None
    residual: Literal["input", "norm"] = "input"
    scale: float | None = None
    conv: NeighbourConv | None = None
    beside: Beside | None = None
    scalar: bool = False
    per_layer: PerLayerInput | None = None
    laurel: Laurel | None = None
    altup: AltUp | None = None
    merged: bool = False

    @property
    def kv_layer(self) -> int | None:
        """The index of the layer whose keys and values this one reads; None if it has its own keys and
        values, or has none.
        """
        return self.attention.kv_layer if isinstance(self.attention, Attention) else None
