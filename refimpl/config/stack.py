"""The building blocks of a model: the embedding, and stacks of layers."""

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
    """Tables with a `width` of their own, and a linear map, with or without `bias`, to the model's width.

    The map comes before positions, token types and the first norm, which then have the model's width (OPT).
    With `late`, the map comes after these (ELECTRA). With `trigram`, the map reads three rows side by side:
    the row of the next token, the token's own row, and the row of the previous token. Before and after a
    text, the rows are zeros (MobileBERT). A language model's output is mapped back to the tables' width by a
    separate map without a bias. A masked language model's output is mapped back by its head's dense map.
    """

    width: int
    bias: bool = False
    late: bool = False
    trigram: bool = False


class PerLayerEmbedding(Record):
    """A second table with rows for `rows` tokens. A row has one vector of the token for each layer
    (`ops.per_layer`).

    Tokens without a row in this table get its first row. The vectors have a second part, a map of the token's
    embedding, which `norm` normalizes. Without `rows` this part is the only one (EmbeddingGemma 2).
    """

    rows: int | None
    norm: RMSNorm


class TokenDropout(Record):
    """Mask tokens are treated as dropped: their vectors are 0, and the vectors of the other tokens are scaled
    up.

    In training, this `share` of the tokens was masked. A text with a different share of masks is scaled to
    the magnitude that was usual in training (`ops.embedding`).
    """

    mask: int = bounded("vocabulary", "the mask's token", least=0)
    share: float = 0.12

    def numbers(self) -> Iterator[float]:
        yield 1 - self.share


class Embedding(Record):
    """The token table and what is added to it.

    `scale` multiplies the token vectors. `token_types` is the number of rows of a second table, which tells
    the two texts of a pair apart. `task_types` is the number of rows of a third table, whose first row is
    added to every token (ERNIE). `projection` gives the tables a width of their own. `per_layer` is the table
    of per-layer embeddings. Only encoders have `token_dropout` (ESM). The token `apart` has a vector of its
    own, which isn't scaled, in the place of its row (T5Gemma 2).
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
    """The part of a speech encoder that reads a recording, in the place of a token table."""

    def row(self, positions: int) -> tuple[int | str, ...]:
        """The shape of one recording as an encoder with room for this many positions reads it.

        A named axis may have any size."""
        raise NotImplementedError

    def positions(self, time: int) -> int:
        """Return the number of vectors that the stem makes from `time` frames or samples."""
        raise NotImplementedError

    def least(self, positions: int) -> int:
        """Return the smallest number of frames or samples from which the stem makes this many vectors."""
        raise NotImplementedError

    def describe(self) -> str:
        """The text that `inspect` shows for the stem."""
        raise NotImplementedError

    def check(self, at: str, width: int) -> None:
        """Raise ConfigError if the stem's sizes are out of bounds, or don't fit a model of this `width`. The
        message begins with `at`.
        """
        check_bounds(at, self)

    def epsilons(self) -> Iterator[tuple[str, float]]:
        """A dict from the parameter of each norm of the stem to the norm's eps."""
        yield from ()


class ConvStem(Stem):
    """Two convolutions over frames of `bands` numbers, which make one vector from every two frames
    (`ops.conv_stem`). The encoder always reads as many frames as it has room for.
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
    """A convolution over `length` vectors, with `width` output channels and a step of `stride` vectors."""

    width: int = bounded("width", "channels of a convolution")
    length: int = bounded("kernel", "length of a convolution")
    stride: int = bounded("kernel", "stride of a convolution")


class SampleStem(Stem):
    """A stem of convolutions over the samples themselves. It reads a recording of any length."""

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
        """The number of samples from one vector to the next."""
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
            "one before it",
        )

    def integers(self) -> Iterator[int]:
        yield self.stride
        yield from divmod(self.least(1), self.stride)


class WaveStem(SampleStem):
    """Convolutions over the samples, then `norm`, then a map to the model's width (`ops.wave_stem`).

    With `normalized` "first" each channel of the first convolution is normalized over the whole recording.
    With "each", the output vectors of each convolution are normalized. `eps` is the eps of these norms.
    `bias` says whether the convolutions have one.
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
    """Convolutions over the samples, the last one as wide as the model (`ops.moonshine_stem`).

    After the first convolution come a tanh and a norm with `eps` over all channels of the whole recording.
    The other convolutions have biases, and are followed by a GELU.
    """

    eps: float = 1e-5

    def check(self, at: str, width: int) -> None:
        super().check(at, width)
        last = self.convolutions[-1].width
        need(last == width, f"{at}the last convolution must be as wide as the model ({width}), got {last}")

    def numbers(self) -> Iterator[float]:
        yield float(self.convolutions[0].width)  # its norm divides a sum of channels


class Stack(Record):
    """Layers in order, with the parts before the first layer and the norm after the last.

    `causal` is for stacks that read a whole text at once: an encoder or a `DecoderReader`. It hides later
    tokens from each token, for example in a decoder that classifies texts. A decoder that generates is always
    causal, and its stack must not set `causal`. With `norm_before_positions` the positions are added to the
    output of the first norm, not to its input (Blenderbot Small's decoder). With a `stem` an encoder reads a
    recording instead of tokens.
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
        """The attention of each layer whose mixer is attention."""
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
        """The alternating updates of the first layer, if the layers have them.

        All layers have the same number of streams."""
        return self.layers[0].altup

    @property
    def stepwise(self) -> bool:
        """Whether the stack has a layer that only a decoder's pass can compute.

        Such a layer has a state, a state space beside its attention, an indexer, several streams of a token,
        a learned residual, the keys and values of another layer, or experts that the next layer adds. In a
        causal stack, a layer with per-layer embeddings is such a layer too.
        """
        return any(
            layer.attention.keeps == "state"
            or (layer.beside, layer.altup, layer.laurel, layer.kv_layer) != (None,) * 4
            or (self.causal and layer.per_layer is not None)
            or getattr(layer.attention, "indexer", None) is not None
            or getattr(layer.mlp, "late", False)
            for layer in self.layers
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings of the layers, in the order in which they first occur."""
        return tuple(dict.fromkeys(p for p in self._settings("position") if isinstance(p, Rope)))

    @property
    def distances(self) -> Distances | None:
        """The table of distances that the layers share, if any layer has disentangled attention."""
        return next(self._settings("distances"), None)

    @property
    def segments(self) -> bool:
        """Whether layers compare token types. If so, token types have no table."""
        return any(self._settings("segments"))

    @property
    def separator(self) -> int | None:
        """The token that ends the question, in a stack that lets all tokens see the question."""
        seen = self._settings("global_tokens")
        return next((g.separator for g in seen if isinstance(g, QuestionTokens)), None)

    def with_kv(self, kv: KVFormat) -> Stack:
        """Return the same stack with the keys and values of all layers cached as `kv`."""

        def cached(layer: Layer) -> Layer:
            if not isinstance(layer.attention, Attention):
                return layer
            return replace(layer, attention=replace(layer.attention, kv=kv))

        return replace(self, layers=tuple(map(cached, self.layers)))


class DecoderReader(Record):
    """A decoder that reads the encoder's text once more and gives its vectors to a head, instead of
    generating text (Lewis et al. 2020, §3.1).

    The decoder reads the encoder's output and the text. The decoder's first token is `start`, or without
    `start` the last token of the text (mBART). The text without its last token follows. The decoder's last
    vector depends on all tokens of the text, but on the last token only through the encoder.
    """

    stack: Stack
    start: int | None
