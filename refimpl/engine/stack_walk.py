"""A stack over whole texts, layer by layer: weights are handed over one layer at a time.

    x = walk.enter(tokens, embedding, weights)
    positions = walk.positions(T, weights, x.dtype)._replace(question=walk.question(tokens))
    shared = walk.shared(tokens, x, embedding)
    for i, layer_weights in enumerate(...):
        x, cache = walk.layer(i, x, lengths, positions, layer_weights, shared)
    x = walk.leave(x, weights)

It is for callers that can't hold all weights, or that observe values between layers. `ops.model.model` and
`ops.encoder.encode` specify what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..config import Config, DecoderReader, EncoderDecoder, Stack
from ..ops.altup import enter_streams, leave_streams
from ..ops.arrays import shifted_right
from ..ops.block import (
    BlockWeights,
    LayerInputs,
    MixerCache,
    Positions,
    block,
    encoder_block,
    normalize,
)
from ..ops.cache import KVCache
from ..ops.encoder import layer_kv
from ..ops.longformer import question_end
from ..ops.model import (
    EmbeddingWeights,
    StackWeights,
    distance_biases,
    distance_table,
    embed,
    layer_vectors,
    score_biases,
)
from ..ops.position import Rotary
from ..ops.position_tables import position_tables
from ..ops.shared_attention import SharedKV
from .cache_kinds import layer_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

__all__ = ["Shared", "StackWalk"]


@dataclass
class Shared:
    """What layers read beside the vectors of the layer before: vectors [B, T, C, F] of the tokens for each
    layer, and the keys and values of earlier ones and what the nearest indexer chose [B, T, T], which a walk
    puts here as it comes to them."""

    vectors: Array | None = None
    kv: dict[int, KVCache] = field(default_factory=dict)
    chosen: Array | None = None


@dataclass(frozen=True)
class StackWalk:
    """The stack of a Config with this name: encoder, reader or decoder.

    With a `half_cache` a decoder attends to keys and values that were rounded to float16.
    """

    config: Config
    name: str
    half_cache: bool = False

    @property
    def stack(self) -> Stack:
        return self.config.stacks[self.name]

    def shifted(self, tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
        """The tokens that the stack reads; a reader gets those of the text one position later."""
        if isinstance(self.config, EncoderDecoder) and isinstance(self.config.decoder, DecoderReader):
            return shifted_right(tokens, self.config.decoder.start) if self.name == "reader" else tokens
        return tokens

    def enter(
        self,
        tokens: Int[Array, "B T"],
        embedding: EmbeddingWeights,
        weights: StackWeights,
        token_types: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"] | Float[Array, "B T X D"]:
        """The vectors before the first layer, of tokens as `shifted` gives them; X streams of them where
        layers have alternating updates."""
        e = self.config.embedding
        if self.stack.segments:
            token_types = None  # the layers read them, as `Positions`
        elif self.name == "encoder" and e.token_types is not None and token_types is None:
            token_types = np.zeros_like(tokens)
        at = np.arange(tokens.shape[1])[None]
        x = embed(tokens, at, embedding, weights, token_types, config=e, stack=self.stack)
        if self.stack.altup is None:
            return x
        assert "streams" in weights
        return enter_streams(x, weights["streams"])

    def shared(
        self,
        tokens: Int[Array, "B T"],
        x: Float[Array, "B T D"] | Float[Array, "B T X D"],
        embedding: EmbeddingWeights,
    ) -> Shared:
        """What the layers of a walk share, of the tokens and of what `enter` gave."""
        embedded = x if self.stack.altup is None else x[:, :, 0]
        return Shared(layer_vectors(tokens, embedded, embedding, config=self.config.embedding))

    def positions(self, time: int, weights: StackWeights, dtype: np.dtype) -> Positions:
        """What all layers need to know of the positions 0 … time − 1."""
        at = np.arange(time)
        rotary = {
            rope: Rotary(cos.astype(dtype), sin.astype(dtype))
            for rope, (cos, sin) in position_tables(at, config=self.config).items()
        }
        biases = score_biases(
            at[None], at, weights, dtype, stack=self.stack, bidirectional=self.bidirectional
        )
        return Positions(
            rotary,
            biases,
            distance_table(at, weights, stack=self.stack),
            distance_biases=distance_biases(weights, stack=self.stack),
        )

    def question(self, tokens: Int[Array, "B T"]) -> Int[Array, " B"] | None:
        """Where the question of each row ends, for `Positions`, in a stack whose question is global."""
        separator = self.stack.separator
        return None if separator is None else question_end(tokens, separator=separator)

    @property
    def bidirectional(self) -> bool:
        """Whether a token sees the later ones too."""
        return self.name != "decoder" and not self.stack.causal

    def layer(
        self,
        index: int,
        x: Float[Array, "B T D"] | Float[Array, "B T X D"],
        lengths: Int[Array, " B"],
        positions: Positions,
        weights: BlockWeights,
        shared: Shared,
        states: Float[Array, "B S D"] | None = None,
    ) -> tuple[Float[Array, "B T D"] | Float[Array, "B T X D"], MixerCache | None]:
        """The vectors after a layer, and what a decoder's keeps of the text.

        A layer with cross-attention reads `states`, an encoder's output. `lengths` are those of the text: of
        an encoder's, where a decoder reads one.
        """
        layer = self.stack.layers[index]
        encoder_kv = None
        if layer.cross is not None and states is not None:
            encoder_kv = layer_kv(states, lengths, weights, layer=layer)
        if self.name != "decoder":
            causal = self.stack.causal
            y = encoder_block(x, lengths, positions, weights, encoder_kv, config=layer, causal=causal)
            return y, None
        batch, time = x.shape[:2]
        past = np.zeros(batch, np.int64)
        vectors = None if shared.vectors is None else shared.vectors[:, :, index]
        inputs = LayerInputs(encoder_kv, vectors, shared.chosen)
        if layer.kv_layer is not None:
            read = shared.kv[layer.kv_layer]
            y, *_ = block(x, read, past, positions, weights, inputs, config=layer)
            return y, SharedKV()
        kind = layer_kind(layer, self.config.context, half=self.half_cache)
        cache = kind.empty(batch, time, x.dtype)
        y, kept, shared.chosen = block(x, cache, past, positions, weights, inputs, config=layer)
        if index in self.stack.shared_kv and isinstance(kept, KVCache):
            shared.kv[index] = kept
        return y, kept

    def leave(
        self, x: Float[Array, "B T D"] | Float[Array, "B T X D"], weights: StackWeights
    ) -> Float[Array, "B T D"]:
        """The vectors after the last norm, if the stack has one; of several streams, their mean."""
        if self.stack.altup is not None:
            assert "streams" in weights
            x = leave_streams(x, weights["streams"])
        return normalize(x, weights.get("norm"), norm=self.stack.final_norm)
