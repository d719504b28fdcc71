"""What a model is put together from: the embedding, and stacks of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from .bounds import LIMITS, check_bounds, need, within
from .layers import AltUp, Layer
from .mlps import Activation
from .norms import LayerNorm, Norm, RMSNorm
from .positions import ConvPositions, Learned, Rope, Sinusoidal
from .record import Record, bounded
from .token_mixers import Attention, Distances, KVFormat, QuestionTokens, TokenMixer


class EmbeddingProjection(Record):
    """Tables of their own `width`, and a linear map from it to the model's width, with `bias`.

    The map comes before positions, token types and first norm, which then have the model's width (OPT), or
    `late` after them (ELECTRA). A language model's output goes back through a map of its own without a
    bias; a masked language model's output goes back through its head's dense map.
    """

    width: int
    bias: bool = False
    late: bool = False


class PerLayerEmbedding(Record):
    """A second table of `rows` tokens, with a vector of each for every layer (`ops.per_layer`).

    Tokens that it has no row for get its first one. `norm` is that of the vectors' other part, a map of the
    token's embedding; without `rows` it is the only one (EmbeddingGemma 2).
    """

    rows: int | None
    norm: RMSNorm


class TokenDropout(Record):
    """Masked tokens count as dropped: their vectors are 0, and the others make up for them.

    In training the `share` of tokens was masked; a text of which another share is masked is scaled to what
    was usual there (`ops.embedding`).
    """

    mask: int = bounded("vocabulary", "the mask's token", least=0)
    share: float = 0.12

    def numbers(self) -> Iterator[float]:
        yield 1 - self.share


class Embedding(Record):
    """The token table and what is added to it.

    `scale` multiplies the token vectors. `token_types` is the number of rows of a second table, which tells
    the two texts of a pair apart, `task_types` that of a third, whose first row is added to every token
    (ERNIE). `projection` gives the tables a width of their own. `per_layer` is the
    table of what each layer gets of a token. `token_dropout` is an encoder's (ESM).
    """

    vocabulary: int
    width: int
    scale: float | None = None
    token_types: int | None = None
    projection: EmbeddingProjection | None = None
    per_layer: PerLayerEmbedding | None = None
    task_types: int | None = None
    token_dropout: TokenDropout | None = None

    def numbers(self) -> Iterator[float]:
        yield from () if self.per_layer is None else (self.width**-0.5, 2**-0.5)


class Stem(Record):
    """What an encoder of sound has in the place of a token table."""

    def row(self, positions: int) -> tuple[int | str, ...]:
        """The shape of what an encoder with room for so many positions reads of one sound; an axis with a
        name may have any size."""
        raise NotImplementedError

    def positions(self, time: int) -> int:
        """How many vectors it makes of so many frames or samples."""
        raise NotImplementedError

    def least(self, positions: int) -> int:
        """The fewest frames or samples that it makes so many vectors of."""
        raise NotImplementedError

    def describe(self) -> str:
        """What `inspect` says of it."""
        raise NotImplementedError

    def check(self, at: str) -> None:
        """Raise ConfigError where its sizes leave their bounds; `at` begins the error."""
        check_bounds(at, self)

    def epsilons(self) -> Iterator[tuple[str, float]]:
        """The eps of its norms, by their leaves."""
        yield from ()


class ConvStem(Stem):
    """Two convolutions over frames of `bands` numbers, which make a vector of every two frames
    (`ops.conv_stem`). The encoder always reads as many frames as it has room for."""

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
    """A convolution that makes `width` channels of `length` vectors, one for every `stride` of them."""

    width: int = bounded("width", "channels of a convolution")
    length: int = bounded("kernel", "length of a convolution")
    stride: int = bounded("kernel", "stride of a convolution")


class WaveStem(Stem):
    """Convolutions over the samples themselves, and a map of what they give to the model's width, before it
    `norm` (`ops.wave_stem`).

    With `normalized` "first" the first convolution's channels are normalized, each over the whole sound; with
    "each" the vectors of each convolution. `eps` is that of these norms, `bias` the convolutions'.
    """

    convolutions: tuple[Convolution, ...]
    normalized: Literal["first", "each"]
    activation: Activation
    bias: bool = False
    norm: LayerNorm | None = None
    eps: float = 1e-5

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
        """How many samples it is from one vector to the next."""
        return math.prod(one.stride for one in self.convolutions)

    def describe(self) -> str:
        count = len(self.convolutions)
        return f"{count} convolutions over the samples of a sound, a vector of every {self.stride}"

    def check(self, at: str) -> None:
        within(f"{at}number of convolutions", len(self.convolutions), LIMITS["clusters"])
        for one in self.convolutions:
            check_bounds(at, one)
        most = LIMITS["samples"]
        fits = max(self.least(1), self.stride) <= most
        need(
            fits,
            f"{at}a vector must be of at most {most} samples, and begin at most as many after the one before",
        )

    def epsilons(self) -> Iterator[tuple[str, float]]:
        if self.normalized == "each":
            yield from ((f"convolutions.{i}.norm", self.eps) for i in range(len(self.convolutions)))
        if self.norm is not None:
            yield "norm", self.norm.eps


class Stack(Record):
    """Layers in order, with what comes before the first and the norm after the last.

    Where a whole text is read at once, by an encoder or a `DecoderReader`, `causal` hides later tokens from
    each token: the form of a decoder that reads, for example to classify. A decoder that generates is causal
    anyway, and its stack must not say so. With `norm_before_positions` the positions are added to what the
    first norm gives, not to what it takes (Blenderbot Small's decoder). With a `stem` an encoder reads a
    sound instead of tokens.
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
        """The mixer of each layer."""
        return tuple(layer.attention for layer in self.layers)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of each layer that has one, and not another mixer."""
        return tuple(mixer for mixer in self.mixers if isinstance(mixer, Attention))

    def _settings(self, name: str) -> Iterator[Any]:
        """The setting of that name of each layer whose mixer has it."""
        return (getattr(mixer, name) for mixer in self.mixers if hasattr(mixer, name))

    @property
    def shared_kv(self) -> frozenset[int]:
        """The layers whose keys and values other layers read."""
        return frozenset(a.kv_layer for a in self.attentions if a.kv_layer is not None)

    @property
    def altup(self) -> AltUp | None:
        """The alternating updates of the first layer, if layers have them: all have as many streams."""
        return self.layers[0].altup

    @property
    def stepwise(self) -> bool:
        """Whether only a decoder's pass computes a layer of it: one with a state, an indexer, streams of a
        token, a learned residual, or the keys and values of another; where no token sees later ones, also one
        with vectors of its own."""
        return any(
            layer.attention.keeps == "state"
            or (layer.beside, layer.altup, layer.laurel, layer.kv_layer) != (None,) * 4
            or (self.causal and layer.per_layer is not None)
            or getattr(layer.attention, "indexer", None) is not None
            for layer in self.layers
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings, in the order of their first layer."""
        return tuple(dict.fromkeys(p for p in self._settings("position") if isinstance(p, Rope)))

    @property
    def distances(self) -> Distances | None:
        """The table of distances that the layers share, if any has disentangled attention."""
        return next(self._settings("distances"), None)

    @property
    def segments(self) -> bool:
        """Whether layers compare token types, which have no table then."""
        return any(self._settings("segments"))

    @property
    def separator(self) -> int | None:
        """The token that ends the question, in a stack that lets all tokens see the question."""
        seen = self._settings("global_tokens")
        return next((g.separator for g in seen if isinstance(g, QuestionTokens)), None)

    def with_kv(self, kv: KVFormat) -> Stack:
        """The same stack with the keys and values of all layers cached as `kv`."""

        def cached(layer: Layer) -> Layer:
            if not isinstance(layer.attention, Attention):
                return layer
            return replace(layer, attention=replace(layer.attention, kv=kv))

        return replace(self, layers=tuple(map(cached, self.layers)))


class DecoderReader(Record):
    """A decoder that reads the encoder's text for a head, instead of generating (Lewis et al. 2020, §3.1).

    Its input is the token `start`, or without one the text's own last token (mBART), followed by the text
    without that, and the encoder's output. So its last vector depends on all tokens of the text: through the
    encoder on the last one.
    """

    stack: Stack
    start: int | None
