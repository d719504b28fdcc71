"""The whole model: a decoder, an encoder, or an encoder and a decoder that reads it.

In all three, `context` is the number of tokens that the model was made for: no text is longer, and scalings
of positions that depend on a length take this one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

from .heads import LM, Head, ReadingHead
from .layers import Layer
from .mtp import MTP
from .positions import DynamicNTK, LongRope, Rope
from .record import Record
from .stack import DecoderReader, Embedding, Stack, Stem
from .token_mixers import KVFormat
from .validate import check, check_mtp, check_reader


class _Model(Record):
    """Properties that all models derive from their stacks."""

    @property
    def stacks(self) -> dict[str, Stack]:
        """The stacks by the names of their parameter trees, in the order in which they run."""
        raise NotImplementedError

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that keep a cache: those of a decoder."""
        stacks = self.stacks
        return stacks["decoder"].layers if "decoder" in stacks else ()

    @property
    def stem(self) -> Stem | None:
        """What reads a sound in the place of a token table; None for a model of text."""
        stack = self.stacks.get("encoder")
        return None if stack is None else stack.stem

    @property
    def text_context(self) -> int:
        """How many positions an encoder's text, or a sound, has at most."""
        raise NotImplementedError

    @property
    def frames(self) -> tuple[int | str, ...] | None:
        """The shape of what a model of sound reads of one: frames of bands, or samples; None for a model of
        text."""
        return None if self.stem is None else self.stem.row(self.text_context)

    def positions(self, time: int) -> int:
        """How many positions an encoder makes of so many tokens, frames or samples."""
        return time if self.stem is None else self.stem.positions(time)

    @property
    def rounds_cache(self) -> bool:
        """Whether a layer keeps its keys and values in few bits."""
        return self.kv != "float"

    @property
    def kv(self) -> KVFormat:
        """How a decoder keeps keys and values: the first of its layers that has codes says it."""
        stack = self.stacks.get("decoder")
        for attention in () if stack is None else stack.attentions:
            if attention.kv != "float":
                return attention.kv
        return "float"

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings, in the order of their first layer."""
        return tuple(dict.fromkeys(rope for stack in self.stacks.values() for rope in stack.ropes))


class Decoder(_Model):
    """A decoder alone: generates a text token by token. `mtp` is a module that drafts tokens for it."""

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
        """The same model with its keys and values cached as `kv`."""
        mtp = self.mtp
        if mtp is not None:
            (layer,) = Stack((mtp.layer,), mtp.norm).with_kv(kv).layers
            mtp = replace(mtp, layer=layer)
        return replace(self, stack=self.stack.with_kv(kv), mtp=mtp)

    @property
    def mtp_decoder(self) -> Decoder:
        """The module as a decoder of one layer, with the tables of this one: what its cache, its positions
        and its head follow from."""
        assert self.mtp is not None
        return replace(self, stack=Stack((self.mtp.layer,), self.mtp.norm), mtp=None)


class Encoder(_Model):
    """An encoder alone: reads a whole text at once. A decoder that only reads is one with a causal stack.

    Where its stack is `stepwise`, it computes what a decoder does from an empty cache.
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
        """The same model, as an encoder keeps no cache."""
        return self


class EncoderDecoder(_Model):
    """An encoder, and a decoder whose layers read it by `cross`: to generate, or as a `DecoderReader`.

    With `encoder_context` the encoder reads texts of that many tokens, and `context` is the decoder's.
    """

    embedding: Embedding
    encoder: Stack
    decoder: Stack | DecoderReader
    head: Head
    context: int
    encoder_context: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.decoder, DecoderReader):
            check_reader(self.decoder, self.embedding)
        check(self.embedding, self.stacks, self.head, self.context, self.encoder_context)

    @property
    def stacks(self) -> dict[str, Stack]:
        if isinstance(self.decoder, DecoderReader):
            return {"encoder": self.encoder, "reader": self.decoder.stack}
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def text_context(self) -> int:
        return self.context if self.encoder_context is None else self.encoder_context

    def with_kv(self, kv: KVFormat) -> EncoderDecoder:
        """The same model with its decoder's keys and values cached as `kv`."""
        if isinstance(self.decoder, DecoderReader):
            return self
        return replace(self, decoder=self.decoder.with_kv(kv))


Config = Decoder | Encoder | EncoderDecoder


def has_mtp(config: Config) -> TypeGuard[Decoder]:
    """Whether a model has a module that drafts tokens for it."""
    return isinstance(config, Decoder) and config.mtp is not None


def longer_context(config: Config) -> str:
    """The scaling that is made for a larger `context` than this one: "LongRoPE", "dynamic NTK", or "" for
    none."""
    for scaling in (rope.scaling for rope in config.ropes):
        if isinstance(scaling, LongRope | DynamicNTK) and config.context <= scaling.original_context:
            return "LongRoPE" if isinstance(scaling, LongRope) else "dynamic NTK"
    return ""
