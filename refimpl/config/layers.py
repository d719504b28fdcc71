"""A layer: a token mixer, an mlp, and how they are put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .mlps import Activation, Mlp
from .norms import Norm, RMSNorm
from .record import Record
from .token_mixers import Attention, StateSpace, TokenMixer


class NeighbourConv(Record):
    """A convolution over a token and its `neighbours` on either side, and an activation
    (`ops.neighbour_conv`). `after` normalizes the sum of it and what it is added to.
    """

    neighbours: int
    activation: Activation
    after: Norm


class Beside(Record):
    """A state space beside the attention of a layer: both read the same input, and their outputs are added.

    What each reads and gives is multiplied by a number, None for 1 (Falcon-H1). The norms are those of the
    attention.
    """

    mixer: StateSpace
    scale_in: float | None = None
    scale_out: float | None = None
    attention_in: float | None = None
    attention_out: float | None = None


class PerLayerInput(Record):
    """A vector of `width` numbers that a layer gets for each token, and adds to its output behind a gate
    (`ops.per_layer`). `post` normalizes what is added. With `scaled` what the gate reads is multiplied by
    numbers that are learned, one for each of the model's width.
    """

    width: int
    activation: Activation
    post: Norm | None = None
    scaled: bool = False

    def numbers(self) -> Iterator[float]:
        yield self.width**0.5


class AltUp(Record):
    """Alternating updates: `streams` vectors for each token, of which a layer computes the one at `active`.

    The others are predicted of it and of each other, and corrected by what came out (`ops.altup`). `norm` is
    before the map that makes the coefficients.
    """

    streams: int
    active: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield from (1e-5, float(self.streams))


class Laurel(Record):
    """A learned residual of `rank` beside a layer's mixer (`ops.laurel`); `norm` is after its maps."""

    rank: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield 0.5**0.5


class Layer(Record):
    """Attention and mlp, one after the other or (`parallel`) side by side on the same input.

    Another mixer may be in the place of attention; its `place` says whether in a decoder or in an encoder.
    A parallel mlp without a norm `pre` of its own takes what the attention's gives (GPT-J, Cohere).
    `cross` stands between them, in a decoder that reads an encoder. `residual` says what a sublayer's
    output is added to: its input, or that input after the norm `pre` (BLOOM's option). `scale`
    multiplies each sublayer's output before it is added (Granite). `conv` reads the layer's input and is
    added to its output (DeBERTa v2). `beside` is a second mixer on the attention's input, in a decoder.
    With `scalar` the layer's output, what it passes on of its input too, is multiplied by a number that it
    learns (Gemma 4). `per_layer` is what the layer gets of the token itself, beside the layer before.
    `laurel` reads what the mixer reads, and is averaged with the sum of the mixer and its residual. With
    `altup` a token has several vectors, and all of this is computed for one of them (both Gemma 3n).
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

    @property
    def kv_layer(self) -> int | None:
        """The layer whose keys and values this one reads, None where it has its own or none."""
        return self.attention.kv_layer if isinstance(self.attention, Attention) else None
