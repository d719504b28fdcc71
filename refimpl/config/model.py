"""A whole model: a decoder, an encoder, or an encoder with a decoder that reads the encoder's output.

All three kinds of model have a field `context`: the largest number of tokens in a text. Position scalings
that depend on a text length use `context` as that length.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeGuard

from .heads import LM, Head, ReadingHead
from .layers import Layer
from .mtp import MTP
from .positions import DynamicNTK, LongRope, Rope
from .record import Record
from .stack import DecoderReader, Embedding, Stack, Stem
from .token_mixers import KVFormat
from .validate import check, check_mtp, check_reader


class _Model(Record):
    """The properties that every kind of model derives from its stacks."""

    embedding: Embedding

    @property
    def stacks(self) -> dict[str, Stack]:
        """A dict from the name of each stack's parameter tree to the stack, in the order in which the stacks
        run.
        """
        raise NotImplementedError

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that keep a cache: the decoder's layers. It is empty for a model without a decoder."""
        stacks = self.stacks
        return stacks["decoder"].layers if "decoder" in stacks else ()

    @property
    def stem(self) -> Stem | None:
        """The part of a speech model that reads the recording; None for a text model."""
        stack = self.stacks.get("encoder")
        return None if stack is None else stack.stem

    @property
    def text_context(self) -> int:
        """The largest number of positions in the text or recording that the model's encoder reads."""
        raise NotImplementedError

    @property
    def text_embedding(self) -> Embedding:
        """The encoder's embedding. In a model without an encoder, it is the decoder's embedding."""
        return self.embedding

    @property
    def text_tables(self) -> Literal["embedding", "encoder_embedding"]:
        """The name under which the weights store the parameters of `text_embedding`."""
        return "embedding"

    def width(self, stack: str) -> int:
        """Return the number of elements in each hidden state of the stack with this name."""
        return (self.text_embedding if stack == "encoder" else self.embedding).width

    @property
    def sound_shape(self) -> tuple[Any, ...] | None:
        """The shape of a recording that a speech model reads: frames × bands, or samples. It is None for a
        text model.
        """
        return None if self.stem is None else self.stem.row(self.text_context)

    def positions(self, time: int) -> int:
        """Return the number of positions that an encoder computes for `time` tokens, frames or samples."""
        return time if self.stem is None else self.stem.positions(time)

    @property
    def rounds_cache(self) -> bool:
        """Whether any layer of the decoder caches its keys and values as integer codes."""
        return self.kv != "float"

    @property
    def kv(self) -> KVFormat:
        """The format in which the decoder caches keys and values.

        If layers differ, it is the format of the first layer that caches integer codes.
        """
        stack = self.stacks.get("decoder")
        for attention in () if stack is None else stack.attentions:
            if attention.kv != "float":
                return attention.kv
        return "float"

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings of the layers, in the order in which they first occur."""
        return tuple(dict.fromkeys(rope for stack in self.stacks.values() for rope in stack.ropes))


class Decoder(_Model):
    """A decoder-only model, which generates text token by token.

    `mtp` is an optional module that drafts the decoder's next tokens (multi-token prediction).
    """

    embedding: Embedding
    stack: Stack
    head: LM
    context: int
    mtp: MTP | None = None

    def __post_init__(self) -> None:
        check(self.embedding, self.stacks, self.head, self.context)
        if self.mtp is not None:
            check_mtp(self.mtp, self.embedding, self.stack)

    @property
    def stacks(self) -> dict[str, Stack]:
        return {"decoder": self.stack}

    @property
    def text_context(self) -> int:
        return self.context

    def with_kv(self, kv: KVFormat) -> Decoder:
        """Return the same model, caching keys and values in the format `kv`."""
        mtp = self.mtp
        if mtp is not None:
            (layer,) = Stack((mtp.layer,), mtp.norm).with_kv(kv).layers
            mtp = replace(mtp, layer=layer)
        return replace(self, stack=self.stack.with_kv(kv), mtp=mtp)

    @property
    def mtp_decoder(self) -> Decoder:
        """The module `mtp` as a Config: a decoder with one layer and with this decoder's embedding and head.

        tfm derives the module's cache and positions from this Config, as for any other decoder.
        """
        assert self.mtp is not None
        return replace(self, stack=Stack((self.mtp.layer,), self.mtp.norm), mtp=None)


class Encoder(_Model):
    """An encoder-only model, which reads a whole text at once.

    A causal model that doesn't generate text, such as a classifier, is also an Encoder: its stack is causal.
    If the stack is `stepwise`, the encoder runs its layers as a decoder would, starting from an empty
    cache.
    """

    embedding: Embedding
    stack: Stack
    head: ReadingHead
    context: int

    def __post_init__(self) -> None:
        check(self.embedding, self.stacks, self.head, self.context)

    @property
    def stacks(self) -> dict[str, Stack]:
        return {"encoder": self.stack}

    @property
    def text_context(self) -> int:
        return self.context

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.stack.layers if self.stack.stepwise else ()

    def with_kv(self, kv: KVFormat) -> Encoder:
        """Return the model unchanged, since an encoder keeps no cache."""
        return self


class EncoderDecoder(_Model):
    """An encoder, and a decoder that reads the encoder's output through cross-attention (`cross`).

    The decoder generates text, unless it is a `DecoderReader`. `encoder_context` is the largest number of
    tokens that the encoder reads; `context` is then the decoder's limit alone. `encoder_embedding` is a
    separate token table for the encoder, and may have another width than the decoder's table (T5Gemma).
    """

    embedding: Embedding
    encoder: Stack
    decoder: Stack | DecoderReader
    head: Head
    context: int
    encoder_context: int | None = None
    encoder_embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if isinstance(self.decoder, DecoderReader):
            check_reader(self.decoder, self.embedding)
        own = self.encoder_embedding
        check(self.embedding, self.stacks, self.head, self.context, self.encoder_context, own)

    @property
    def stacks(self) -> dict[str, Stack]:
        if isinstance(self.decoder, DecoderReader):
            return {"encoder": self.encoder, "reader": self.decoder.stack}
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def text_context(self) -> int:
        return self.context if self.encoder_context is None else self.encoder_context

    @property
    def text_embedding(self) -> Embedding:
        return self.encoder_embedding or self.embedding

    @property
    def text_tables(self) -> Literal["embedding", "encoder_embedding"]:
        return "embedding" if self.encoder_embedding is None else "encoder_embedding"

    def with_kv(self, kv: KVFormat) -> EncoderDecoder:
        """Return the same model, with its decoder caching keys and values in the format `kv`."""
        if isinstance(self.decoder, DecoderReader):
            return self
        return replace(self, decoder=self.decoder.with_kv(kv))


Config = Decoder | Encoder | EncoderDecoder


def has_mtp(config: Config) -> TypeGuard[Decoder]:
    """Return whether a model has a multi-token prediction module (MTP), which drafts tokens."""
    return isinstance(config, Decoder) and config.mtp is not None


def longer_context(config: Config) -> str:
    """Return which position scaling would allow a larger `context`: "LongRoPE" or "dynamic NTK".

    The result is "" if the model has no such scaling, or if `context` is already above the original
    context.
    """
    for scaling in (rope.scaling for rope in config.ropes):
        if isinstance(scaling, LongRope | DynamicNTK) and config.context <= scaling.original_context:
            return "LongRoPE" if isinstance(scaling, LongRope) else "dynamic NTK"
    return ""
