"""A stack of the mirror over whole texts, layer by layer: `refimpl.engine.stack_walk` in PyTorch.

Weights are handed over one layer at a time, so this serves who can't hold all of them, or observes what is
between layers. The same is exported as a whole from `ops.model.model` and `ops.encoder.encode`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..refimpl.config import Config, DecoderReader, EncoderDecoder, Stack
from ..refimpl.engine.cache_kinds import layer_kind
from ..refimpl.ops.altup import enter_streams, leave_streams
from ..refimpl.ops.arrays import shifted_right
from ..refimpl.ops.block import (
    BlockWeights,
    LayerInputs,
    MixerCache,
    Positions,
    block,
    encoder_block,
    normalize,
)
from ..refimpl.ops.cache import KVCache
from ..refimpl.ops.encoder import layer_kv
from ..refimpl.ops.longformer import question_end
from ..refimpl.ops.model import (
    EmbeddingWeights,
    StackWeights,
    distance_biases,
    distance_table,
    embed,
    layer_vectors,
    score_biases,
)
from ..refimpl.ops.position import Rotary
from ..refimpl.ops.position_tables import position_tables
from ..refimpl.ops.shared_attention import SharedKV

__all__ = ["Shared", "StackWalk"]


@dataclass
class Shared:
    """Vectors [B, T, C, F] of the tokens for each layer, keys and values that later layers read, and what the
    nearest indexer chose [B, T, T]."""

    vectors: Tensor | None = None
    kv: dict[int, KVCache] = field(default_factory=dict)
    chosen: Tensor | None = None


@dataclass(frozen=True)
class StackWalk:
    """The stack of a Config with this name: encoder, reader or decoder."""

    config: Config
    name: str

    @property
    def stack(self) -> Stack:
        return self.config.stacks[self.name]

    def shifted(self, tokens: Tensor) -> Tensor:
        """The tokens [B, T] that the stack reads: those of the text, which a reader gets one place later."""
        if isinstance(self.config, EncoderDecoder) and isinstance(self.config.decoder, DecoderReader):
            return shifted_right(tokens, self.config.decoder.start) if self.name == "reader" else tokens
        return tokens

    def enter(self, tokens: Tensor, embedding: EmbeddingWeights, weights: StackWeights) -> Tensor:
        """The vectors [B, T, D] before the first layer, of tokens as `shifted` gives them, or streams of them
        [B, T, X, D] where layers have alternating updates."""
        e = self.config.embedding
        typed = self.name == "encoder" and e.token_types is not None and not self.stack.segments
        token_types = torch.zeros_like(tokens) if typed else None
        at = torch.arange(tokens.shape[1])[None]
        x = embed(tokens, at, embedding, weights, token_types, config=e, stack=self.stack)
        if self.stack.altup is None:
            return x
        assert "streams" in weights
        return enter_streams(x, weights["streams"])

    def shared(self, tokens: Tensor, x: Tensor, embedding: EmbeddingWeights) -> Shared:
        """What the layers of a walk share, of the tokens and of what `enter` gave."""
        embedded = x if self.stack.altup is None else x[:, :, 0]
        return Shared(layer_vectors(tokens, embedded, embedding, config=self.config.embedding))

    def positions(self, time: int, weights: StackWeights, dtype: torch.dtype) -> Positions:
        """What all layers need to know of the positions 0 … time − 1."""
        at = torch.arange(time)
        rotary = {
            rope: Rotary(cos.to(dtype), sin.to(dtype))
            for rope, (cos, sin) in position_tables(at, config=self.config).items()
        }
        both = self.name != "decoder" and not self.stack.causal
        biases = score_biases(at[None], at, weights, dtype, stack=self.stack, bidirectional=both)
        return Positions(
            rotary,
            biases,
            distance_table(at, weights, stack=self.stack),
            distance_biases=distance_biases(weights, stack=self.stack),
        )

    def question(self, tokens: Tensor) -> Tensor | None:
        """Where the question of each row ends, for `Positions`, in a stack whose question is global."""
        separator = self.stack.separator
        return None if separator is None else question_end(tokens, separator=separator)

    def layer(
        self,
        index: int,
        x: Tensor,
        lengths: Tensor,
        positions: Positions,
        weights: BlockWeights,
        shared: Shared,
        states: Tensor | None = None,
    ) -> tuple[Tensor, MixerCache | None]:
        """The vectors [B, T, D] after a layer, and what a decoder's keeps of the text.

        A layer with cross-attention reads `states` [B, S, D], an encoder's output. `lengths` [B] are those
        of the text: of an encoder's, where a decoder reads one.
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
        past = torch.zeros(batch, dtype=torch.int64)
        vectors = None if shared.vectors is None else shared.vectors[:, :, index]
        inputs = LayerInputs(encoder_kv, vectors, shared.chosen)
        if layer.kv_layer is not None:
            read = shared.kv[layer.kv_layer]
            y, *_ = block(x, read, past, positions, weights, inputs, config=layer)
            return y, SharedKV()
        kind = layer_kind(layer, self.config.context)
        shapes = kind.shapes(batch, time)
        cache = kind.value([torch.zeros(shape, dtype=x.dtype) for shape in shapes])
        y, kept, shared.chosen = block(x, cache, past, positions, weights, inputs, config=layer)
        if index in self.stack.shared_kv and isinstance(kept, KVCache):
            shared.kv[index] = kept
        return y, kept

    def leave(self, x: Tensor, weights: StackWeights) -> Tensor:
        """The vectors [B, T, D] after the last norm, if the stack has one; of several streams, their mean."""
        if self.stack.altup is not None:
            assert "streams" in weights
            x = leave_streams(x, weights["streams"])
        return normalize(x, weights.get("norm"), norm=self.stack.final_norm)
