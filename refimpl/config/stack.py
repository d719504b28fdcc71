"""The building blocks of a model: the embedding, and stacks of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from .bounds import LIMITS, check_bounds, need, within
from .layers import AltUp, HyperConnections, Layer
from .mlps import Activation
from .norms import LayerNorm, Norm, RMSNorm
from .positions import ConvPositions, Learned, Rope, Sinusoidal
from .record import Record, bounded
from .token_mixers import Attention, Distances, KVFormat, QuestionTokens, TokenMixer


class EmbeddingProjection(Record):
    """Token tables of `width` elements, and a linear map, with or without `bias`, to the model's width.

    The map comes before positions, token types and the first norm (OPT). With `late` it comes after all three
    (ELECTRA). With `trigram`, the map reads the rows of the next token, the token itself and the previous
    token, side by side; rows outside of the text are zeros (MobileBERT). A language model maps its output
    back to the tables' width by another map without a bias. A masked language model uses its head's dense map
    for this.
    """

    width: int
    bias: bool = False
    late: bool = False
    trigram: bool = False


class PerLayerEmbedding(Record):
    """A second token table with `rows` rows, which gives each token one vector for each layer
    (`ops.per_layer`).

    A token that has no row in this table gets the first row. A linear map of the token's embedding,
    normalized by `norm`, is added to the row. If `rows` is None, the map is used without a table
    (EmbeddingGemma 2).
    """

    rows: int | None
    norm: RMSNorm


class TokenDropout(Record):
    """ESM's token dropout: the vectors of mask tokens are set to 0, and the vectors of all tokens are
    rescaled.

    `mask` is the id of the mask token. `share` is the share of tokens that were masked in training. A text
    with a different share of masks is rescaled to the magnitude that was usual in training
    (`ops.embedding`).
    """

    mask: int = bounded("vocabulary", "the mask's token", least=0)
    share: float = 0.12

    def numbers(self) -> Iterator[float]:
        yield 1 - self.share


class Embedding(Record):
    """The token table, and the vectors that are added to a token's vector.

    `scale` multiplies the token vectors. `token_types` is the number of rows in a second table, which tells
    the two texts of a pair apart. `task_types` is the number of rows in a third table; the first row is added
    to every token (ERNIE). With `projection` the tables have a width of their own. `per_layer` is the table
    of per-layer embeddings. `token_dropout` is only for encoders (ESM). `apart` is the id of a token that has
    a separate, unscaled vector instead of its row in the table (T5Gemma 2).
    """

    vocabulary: int
    width: int
    scale: float | None = None
    token_types: int | None = None
    projection: EmbeddingProjection | None = None
    per_layer: PerLayerEmbedding | None = None
    task_types: int | None = None
    token_dropout: TokenDropout | None = None
    apart: int | None = bounded("vocabulary", "the token with a vector of its own", least=0, default=None)

    def numbers(self) -> Iterator[float]:
        yield from () if self.per_layer is None else (self.width**-0.5, 2**-0.5)


class Stem(Record):
    """The first part of a speech encoder, which reads a recording in place of a token table."""

    def row(self, positions: int) -> tuple[int | str, ...]:
        """Return the shape of one recording for an encoder with this many positions.

        An axis that may have any size is a name instead of a number."""
        raise NotImplementedError

    def positions(self, time: int) -> int:
        """Return how many vectors the stem computes from `time` frames or samples."""
        raise NotImplementedError

    def least(self, positions: int) -> int:
        """Return the smallest number of frames or samples from which the stem computes `positions`
        vectors.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """The text that `inspect` shows for the stem."""
        raise NotImplementedError

    def check(self, at: str, width: int) -> None:
        """Raise ConfigError if the stem's sizes are out of bounds or don't fit a model of this `width`.

        The message begins with `at`.
        """
        check_bounds(at, self)

    def epsilons(self) -> Iterator[tuple[str, float]]:
        """Yield the name of each norm of the stem, with the norm's eps."""
        yield from ()


class ConvStem(Stem):
    """Two convolutions over frames of `bands` numbers, which compute one vector from every two frames.

    The encoder always reads the full number of frames: twice its number of positions (`ops.conv_stem`).
    """

    bands: int = bounded("width", "bands of a frame")

    def row(self, positions: int) -> tuple[int | str, ...]:
        return 2 * positions, self.bands

    def positions(self, time: int) -> int:
        return time // 2

    def least(self, positions: int) -> int:
        return 2 * positions

    def describe(self) -> str:
        return f"a convolution stem over frames of {self.bands} bands of a sound"


class Convolution(Record):
    """A one-dimensional convolution: kernel of `length` vectors, `width` output channels, step of `stride`
    vectors.
    """

    width: int = bounded("width", "channels of a convolution")
    length: int = bounded("kernel", "length of a convolution")
    stride: int = bounded("kernel", "stride of a convolution")


class SampleStem(Stem):
    """A stem of convolutions that read a recording's samples directly. The recording may have any length."""

    convolutions: tuple[Convolution, ...]

    def row(self, positions: int) -> tuple[int | str, ...]:
        return ("samples",)

    def positions(self, time: int) -> int:
        for one in self.convolutions:
            time = (time - one.length) // one.stride + 1
        return time

    def least(self, positions: int) -> int:
        for one in reversed(self.convolutions):
            positions = (positions - 1) * one.stride + one.length
        return positions

    @property
    def stride(self) -> int:
        """The number of samples between the beginnings of two consecutive output vectors."""
        return math.prod(one.stride for one in self.convolutions)

    def describe(self) -> str:
        count = len(self.convolutions)
        return f"{count} convolutions over the samples of a sound, a vector of every {self.stride}"

    def check(self, at: str, width: int) -> None:
        within(f"{at}number of convolutions", len(self.convolutions), LIMITS["clusters"])
        for one in self.convolutions:
            check_bounds(at, one)
        most = LIMITS["samples"]
        fits = max(self.least(1), self.stride) <= most
        need(
            fits,
            f"{at}a vector must cover at most {most} samples, and begin at most {most} samples after the "
            "vector before",
        )

    def integers(self) -> Iterator[int]:
        yield self.stride
        yield from divmod(self.least(1), self.stride)


class WaveStem(SampleStem):
    """Convolutions over a recording's samples, then `norm`, then a map to the model's width
    (`ops.wave_stem`).

    If `normalized` is "first", each output channel of the first convolution is normalized over the whole
    recording. If it is "each", every output vector of every convolution is normalized. `eps` is the eps of
    these norms. `bias` says whether the convolutions have biases.
    """

    normalized: Literal["first", "each"]
    activation: Activation
    bias: bool = False
    norm: LayerNorm | None = None
    eps: float = 1e-5

    def epsilons(self) -> Iterator[tuple[str, float]]:
        if self.normalized == "each":
            yield from ((f"convolutions.{i}.norm", self.eps) for i in range(len(self.convolutions)))
        if self.norm is not None:
            yield "norm", self.norm.eps


class MoonshineStem(SampleStem):
    """Convolutions over a recording's samples; the last one has as many channels as the model's width.

    The first convolution is followed by a tanh and by a norm over all channels of the whole recording; `eps`
    is the norm's eps. Every other convolution has a bias and is followed by a GELU (`ops.moonshine_stem`).
    """

    eps: float = 1e-5

    def check(self, at: str, width: int) -> None:
        super().check(at, width)
        last = self.convolutions[-1].width
        need(last == width, f"{at}the last convolution must be as wide as the model ({width}), got {last}")

    def numbers(self) -> Iterator[float]:
        yield float(self.convolutions[0].width)  # its norm divides a sum of channels


class Stack(Record):
    """A sequence of layers, with the parts before the first layer and the norm after the last.

    `causal` hides later tokens from each token. It is for stacks that read a whole text at once: an encoder,
    for example one that classifies texts, or a `DecoderReader`. A decoder that generates is always causal, so
    its stack must not set `causal`. With `norm_before_positions` the positions are added to the output of the
    first norm instead of its input (Blenderbot Small's decoder). With a `stem` an encoder reads a recording
    instead of tokens.
    """

    layers: tuple[Layer, ...]
    final_norm: Norm | None
    positions: Learned | Sinusoidal | ConvPositions | None = None
    first_norm: Norm | None = None
    causal: bool = False
    norm_before_positions: bool = False
    stem: Stem | None = None

    @property
    def mixers(self) -> tuple[TokenMixer, ...]:
        """The token mixer of each layer."""
        return tuple(layer.attention for layer in self.layers)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of each layer that has attention as its mixer, in the order of the layers."""
        return tuple(mixer for mixer in self.mixers if isinstance(mixer, Attention))

    def _settings(self, name: str) -> Iterator[Any]:
        """Yield the setting with this name from each layer's mixer, skipping mixers without such a
        setting.
        """
        return (getattr(mixer, name) for mixer in self.mixers if hasattr(mixer, name))

    @property
    def shared_kv(self) -> frozenset[int]:
        """The indices of the layers whose keys and values are also read by other layers."""
        return frozenset(a.kv_layer for a in self.attentions if a.kv_layer is not None)

    @property
    def altup(self) -> AltUp | None:
        """The alternating updates (AltUp) of the first layer, or None if the layers don't use them.

        All layers have the same number of streams."""
        return self.layers[0].altup

    @property
    def hyper(self) -> HyperConnections | None:
        """The hyper-connections that all layers have, or None if they have none."""
        return self.layers[0].hyper

    @property
    def streams(self) -> int:
        """The number of vectors of a token between layers."""
        several = self.altup or self.hyper
        return 1 if several is None else several.streams

    @property
    def stepwise(self) -> bool:
        """Whether the stack has a layer that can only be computed as in a decoder, with a cache.

        Such a layer has at least one of these: a recurrent state, a state space beside its attention, an
        indexer, several streams for each token, a learned residual, another layer's keys and values, or
        experts that the next layer adds. In a causal stack a layer with per-layer embeddings is also such a
        layer.
        """
        return any(
            layer.attention.stepwise
            or (layer.beside, layer.altup, layer.hyper, layer.laurel, layer.kv_layer) != (None,) * 5
            or (self.causal and layer.per_layer is not None)
            or getattr(layer.mlp, "late", False)
            for layer in self.layers
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings of the layers, in the order in which they first occur."""
        return tuple(dict.fromkeys(p for p in self._settings("position") if isinstance(p, Rope)))

    @property
    def distances(self) -> Distances | None:
        """The table of distance vectors that layers with disentangled attention share; None without such
        layers.
        """
        return next(self._settings("distances"), None)

    @property
    def segments(self) -> bool:
        """Whether layers compare token types. If so, the embedding has no table of token types."""
        return any(self._settings("segments"))

    @property
    def separator(self) -> int | None:
        """The id of the token that ends the question, if all tokens of a text see the question; otherwise
        None.
        """
        seen = self._settings("global_tokens")
        return next((g.separator for g in seen if isinstance(g, QuestionTokens)), None)

    def with_kv(self, kv: KVFormat) -> Stack:
        """Return the same stack, with all layers caching keys and values in the format `kv`."""

        def cached(layer: Layer) -> Layer:
            if not isinstance(layer.attention, Attention):
                return layer
            return replace(layer, attention=replace(layer.attention, kv=kv))

        return replace(self, layers=tuple(map(cached, self.layers)))


class DecoderReader(Record):
    """A decoder that doesn't generate text: it reads the encoder's text again and gives its vectors to a head
    (Lewis et al. 2020, §3.1).

    The decoder reads the encoder's output and, as its own input, the text shifted by one token: first
    `start`, or without `start` the text's last token (mBART), then the text without its last token. So the
    decoder's last vector depends on the text's last token only through the encoder.
    """

    stack: Stack
    start: int | None
