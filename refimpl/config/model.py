"""The whole model: a decoder, an encoder, or an encoder and a decoder that reads it.

In all three kinds of model, `context` is the largest number of tokens of a text. Position scalings that
depend on a length use `context` as that length.
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
    """Properties that every model derives from its stacks."""

    embedding: Embedding

    @property
    def stacks(self) -> dict[str, Stack]:
        """The stacks by the names of their parameter trees, in the order in which they run."""
        raise NotImplementedError

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that keep a cache, which are the layers of a decoder."""
        stacks = self.stacks
        return stacks["decoder"].layers if "decoder" in stacks else ()

    @property
    def stem(self) -> Stem | None:
        """The part that reads a recording instead of tokens, or None for a text model."""
        stack = self.stacks.get("encoder")
        return None if stack is None else stack.stem

    @property
    def text_context(self) -> int:
        """The largest number of positions of an encoder's text or recording."""
        raise NotImplementedError

    @property
    def text_embedding(self) -> Embedding:
        """The embedding of the encoder's text, or of the decoder's text if there is no encoder."""
        return self.embedding

    @property
    def text_tables(self) -> Literal["embedding", "encoder_embedding"]:
        """The name of the parameters of the embedding `text_embedding`."""
        return "embedding"

    def width(self, stack: str) -> int:
        """The width of a stack's vectors."""
        return (self.text_embedding if stack == "encoder" else self.embedding).width

    @property
    def sound_shape(self) -> tuple[Any, ...] | None:
        """The shape of a recording as a speech model reads it: frames of bands, or samples. It is None for a
        text model.
        """
        return None if self.stem is None else self.stem.row(self.text_context)

    def positions(self, time: int) -> int:
        """Return the number of positions that an encoder makes from `time` tokens, frames or samples."""
        return time if self.stem is None else self.stem.positions(time)

    @property
    def rounds_cache(self) -> bool:
        """Whether any layer caches its keys and values in few bits."""
        return self.kv != "float"

    @property
    def kv(self) -> KVFormat:
        """How the decoder caches keys and values: the setting of its first layer that caches
        integer codes.
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
    """A plain decoder, which generates text token by token. `mtp` is a module that drafts tokens for it."""

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
        """Return the same model with its keys and values cached as `kv`."""
        mtp = self.mtp
        if mtp is not None:
            (layer,) = Stack((mtp.layer,), mtp.norm).with_kv(kv).layers
            mtp = replace(mtp, layer=layer)
        return replace(self, stack=self.stack.with_kv(kv), mtp=mtp)

    @property
    def mtp_decoder(self) -> Decoder:
        """The module `mtp` as a decoder of one layer, with the tables of this decoder.

        The module's cache, positions and head can be derived from that decoder.
        """
        assert self.mtp is not None
        return replace(self, stack=Stack((self.mtp.layer,), self.mtp.norm), mtp=None)


class Encoder(_Model):
    """A plain encoder, which reads a whole text at once.

    A decoder that doesn't generate text is an Encoder with a causal stack. If the stack is `stepwise`, the
    encoder computes its layers as a decoder does, starting from an empty cache.
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
    """An encoder, and a decoder whose layers read the encoder's output by `cross`.

    The decoder generates text, or it is a `DecoderReader`. With `encoder_context`, the encoder reads texts of
    up to that many tokens, and `context` limits only the decoder. With `encoder_embedding`, the encoder has a
    table of its own, whose width may differ from that of the decoder's table (T5Gemma).
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
        """Return the same model with its decoder's keys and values cached as `kv`."""
        if isinstance(self.decoder, DecoderReader):
            return self
        return replace(self, decoder=self.decoder.with_kv(kv))


Config = Decoder | Encoder | EncoderDecoder


def has_mtp(config: Config) -> TypeGuard[Decoder]:
    """Return whether a model has a module that drafts tokens for it (MTP)."""
    return isinstance(config, Decoder) and config.mtp is not None


def longer_context(config: Config) -> str:
    """Return the position scaling that allows a larger `context` than this one: "LongRoPE", "dynamic NTK", or
    "" if there is none.
    """
    for scaling in (rope.scaling for rope in config.ropes):
        if isinstance(scaling, LongRope | DynamicNTK) and config.context <= scaling.original_context:
            return "LongRoPE" if isinstance(scaling, LongRope) else "dynamic NTK"
    return ""
