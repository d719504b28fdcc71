"""The layers of a model: each layer combines a token mixer and an mlp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .mlps import Activation, Mlp
from .norms import Norm, RMSNorm
from .record import Record
from .token_mixers import Attention, StateSpace, TokenMixer


class NeighbourConv(Record):
    """A convolution over a token and the `neighbours` tokens on either side, followed by an activation.

    The layer adds the activation's result to the layer's output, and normalizes the sum with `after`
    (`ops.neighbour_conv`).
    """

    neighbours: int
    activation: Activation
    after: Norm


class Beside(Record):
    """A state space mixer that runs in parallel to a layer's attention (Falcon-H1).

    Both mixers read the same input, and the layer adds their outputs. `scale_in` and `scale_out` multiply the
    state space's input and output; `attention_in` and `attention_out` multiply the attention's. A factor of
    None means 1. The norms of the attention are used for both.
    """

    mixer: StateSpace
    scale_in: float | None = None
    scale_out: float | None = None
    attention_in: float | None = None
    attention_out: float | None = None


class PerLayerInput(Record):
    """A vector of `width` elements for each token, which a layer gates and adds to its output.

    `post` normalizes the vector before it is added. With `scaled`, a learned vector of the model's width
    multiplies the gate's input (`ops.per_layer`).
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

    First, each vector is predicted from all vectors of the token. The layer's output then corrects the
    predictions (`ops.altup`). `norm` is applied before the linear map that computes the coefficients.
    """

    streams: int
    active: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield from (1e-5, float(self.streams))


class HyperConnections(Record):
    """Hyper-connections: each token has `streams` vectors. A sublayer reads a mixture of them, made through
    gates of `rank` numbers, and adds its output to each (`ops.hyper_connections`).

    `norm` normalizes each vector before the mixture.
    """

    streams: int
    rank: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield 1 / self.streams


class Laurel(Record):
    """A learned residual of `rank` in parallel to a layer's mixer: two projections, then `norm`
    (`ops.laurel`).
    """

    rank: int
    norm: RMSNorm

    def numbers(self) -> Iterator[float]:
        yield 0.5**0.5


class Layer(Record):
    """A token mixer and an mlp, one after the other or (`parallel`) side by side on the same input.

    **Mixer.** `attention` is the token mixer: attention, or another mixer in its place. The mixer's `place`
    says whether it may be in a decoder or in an encoder. In a decoder, `beside` adds a second mixer that
    reads the attention's input. `cross` is the cross-attention between mixer and mlp, in a decoder that reads
    an encoder. With `merged` the cross-attention is no separate sublayer: the self-attention also reads the
    keys of `cross`, in the same softmax (T5Gemma 2).

    **Mlp.** A parallel mlp that has no norm `pre` reads the output of the attention's norm `pre` (GPT-J,
    Cohere).

    **Sums.** `residual` says what a sublayer's output is added to: the sublayer's input, or this input after
    the norm `pre` (an option of BLOOM). `scale` multiplies each sublayer's output before it is added
    (Granite). With `scalar`, a learned number multiplies the layer's whole output, including the residual
    (Gemma 4).

    **Additions.** `conv` is a convolution that reads the layer's input and is added to the layer's output
    (DeBERTa v2). `per_layer` is a vector for each token that the layer reads in addition to the previous
    layer's output. `laurel` reads the mixer's input; its output is averaged with the sum of the mixer's
    output and the residual. With `altup` a token has several vectors, and the layer computes one of them
    (`per_layer`, `laurel` and `altup`: Gemma 3n). With `hyper` a token also has several vectors, and each
    sublayer reads and changes all of them (Qwen4-Exp).
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
    hyper: HyperConnections | None = None

    @property
    def kv_layer(self) -> int | None:
        """The index of the earlier layer whose keys and values this layer reads.

        It is None if this layer computes its own keys and values, or if its mixer isn't attention.
        """
        return self.attention.kv_layer if isinstance(self.attention, Attention) else None
