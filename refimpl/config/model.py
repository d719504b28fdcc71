"""The whole model: tables, stacks of layers, a head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .heads import Head
from .layers import Layer, Norm
from .positions import Learned, Rope, Sinusoidal
from .validate import check


@dataclass(frozen=True)
class Stack:
    """Layers in order, what comes before the first, and the norm after the last.

    Where whole texts are read, in an encoder or a reader, a token sees no later one if the stack is `causal`:
    the form of a decoder that reads, to classify for one. A decoder that writes needn't say so.
    """

    layers: tuple[Layer, ...]
    final_norm: Norm | None
    positions: Learned | Sinusoidal | None = None
    first_norm: Norm | None = None
    causal: bool = False


@dataclass(frozen=True)
class DecoderReader:
    """A decoder that reads a text which its encoder has read, before a head says something of it.

    It is given the text from the token `start` on, one place later than the encoder, so that its last vector
    has seen all but the last token itself, and the encoder's output (Lewis et al. 2020, §3.1).
    """

    stack: Stack
    start: int


@dataclass(frozen=True)
class EmbeddingProjection:
    """Tables of a width of their own, and a linear map from it to the model's, with `bias`.

    The map stands before positions, types and first norm, which then have the model's width (OPT), or
    `late` after them (ELECTRA). A language model's output goes back by a map of its own without a
    bias; a masked one's by its head's dense map.
    """

    width: int
    bias: bool = False
    late: bool = False


@dataclass(frozen=True)
class Embedding:
    """The token table; `scale` multiplies the vectors it gives. `token_types` is the rows of a second table,
    which says to which text of a pair a token belongs. `projection` gives the tables a width of their own."""

    vocabulary: int
    width: int
    scale: float | None = None
    token_types: int | None = None
    projection: EmbeddingProjection | None = None


@dataclass(frozen=True)
class Config:
    """A model; `context` is the length in tokens that it was made for: no text is longer, and scalings
    of positions that depend on a length take this one.

    A decoder alone, an encoder alone, or a decoder whose layers read an encoder by `cross`: one that writes,
    or a `reader`.
    """

    embedding: Embedding
    decoder: Stack | None
    head: Head
    context: int
    encoder: Stack | None = None
    reader: DecoderReader | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def stacks(self) -> dict[str, Stack]:
        """Those that the model has, by the names of their trees, in the order in which they run."""
        reader = None if self.reader is None else self.reader.stack
        found = {"encoder": self.encoder, "reader": reader, "decoder": self.decoder}
        return {name: stack for name, stack in found.items() if stack is not None}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers, which are those that keep a cache."""
        return () if self.decoder is None else self.decoder.layers

    @property
    def rounds_cache(self) -> bool:
        """Whether a layer of the decoder keeps its keys and values in 8 bits."""
        return any(layer.attention.kv == "int8" for layer in self.layers)

    def keeping(self, kv: Literal["float", "int8"]) -> Config:
        """The same model, its decoder's keys and values kept so in all layers."""
        if self.decoder is None:
            return self
        layers = tuple(replace(layer, attention=replace(layer.attention, kv=kv)) for layer in self.layers)
        return replace(self, decoder=replace(self.decoder, layers=layers))

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings, in the order of their first layer."""
        found = (layer.attention.position for stack in self.stacks.values() for layer in stack.layers)
        return tuple(dict.fromkeys(p for p in found if isinstance(p, Rope)))
