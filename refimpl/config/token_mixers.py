"""What moves information from token to token: attention and what stands in its place."""

from __future__ import annotations

from typing import Literal, TypedDict

from .masks import FULL, Mask, Window
from .norms import HeadNorm, LayerNorm, Norm, RMSNorm
from .positions import Position, QueryScale, RelativeBias, Rope
from .record import Record

# How a decoder keeps keys and values: as they are, or as 8-bit codes with a scale for each channel.
KVFormat = Literal["float", "int8"]
# φ of linear attention: elu(x) + 1, or max(x, 0).
FeatureMap = Literal["elu", "relu"]


class Scoring(TypedDict):
    """What is done to products of queries and keys before the softmax: arguments of `attend`."""

    scale: float | None
    softcap: float | None


class Attention(Record):
    """One attention sublayer; `scale` None means 1/sqrt(head_size).

    `clip` bounds queries, keys and values to ± itself as they leave their projections (MPT). `kv` says how
    a decoder keeps its keys and values: as they are, or rounded to 8 bits with a scale for each channel.
    With `sink_logits` each head has a learned logit that takes its share of the softmax (gpt-oss).
    `query_scale` multiplies queries by a factor of their position. With `output_gate` each number of the
    output is multiplied by a sigmoid of the token's own, before the last map (Qwen3-Next), and with
    `head_gate` all numbers of a head by the same one, without a bias (LFM3); in their place `out_norm`
    normalizes the output of all heads together (BitNet). `value_norm`
    normalizes each head's values, without a weight; with `keys_as_values` a token's values are its keys
    before their norm and rotation, and there is no map to values (both Gemma 4). With `kv_layer` it makes no
    keys and values, but reads those of that layer of its stack, and keeps nothing (`ops.shared_attention`).
    """

    heads: int
    kv_heads: int
    head_size: int
    position: Position | None = None
    mask: Mask = FULL
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: HeadNorm | None = None
    scale: float | None = None
    softcap: float | None = None
    clip: float | None = None
    query_scale: QueryScale | None = None
    kv: KVFormat = "float"
    sink_logits: bool = False
    output_gate: bool = False
    value_norm: RMSNorm | None = None
    keys_as_values: bool = False
    kv_layer: int | None = None
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    head_gate: bool = False
    out_norm: RMSNorm | None = None

    @property
    def window(self) -> int | None:
        """How many positions are seen, the current one included; None for all."""
        return self.mask.size if isinstance(self.mask, Window) else None

    @property
    def scoring(self) -> Scoring:
        """The settings that say how scores are made, to be passed on together."""
        return {"scale": self.scale, "softcap": self.softcap}

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions turn neighbours (2j, 2j + 1) of a head, not (j, j + J)."""
        return isinstance(self.position, Rope) and self.position.interleaved


class LinearAttention(Record):
    """Linear attention, φ(q)·φ(k) in the place of exp(q·k); `features` says what φ is.

    What it keeps of earlier tokens doesn't grow with their number. It has no positions of its own.
    """

    heads: int
    kv_heads: int
    head_size: int
    features: FeatureMap = "elu"
    qkv_bias: bool = False
    out_bias: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class LSTM(Record):
    """A long short-term memory of `width` units, and a linear map back to the model's width (`ops.lstm`).

    `bias` is that of the gates.
    """

    width: int
    bias: bool = True
    out_bias: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class ShortConv(Record):
    """A convolution over the `length` latest tokens, in `width` channels between gates (`ops.short_conv`).

    `bias` is that of the convolution and of both maps.
    """

    width: int
    length: int = 3
    bias: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class GatedDelta(Record):
    """A gated delta network: a state [key_size, value_size] for each of `heads` (`ops.gated_delta`).

    `key_heads` of queries and keys are shared by `heads` of values. Each sees the `length` latest tokens by a
    convolution. `eps` is that of the norm of each head's output. With `allow_neg_eigval` a token may write up
    to twice its error (OLMo Hybrid). With `rank` it is Kimi Delta Attention: each number of a key decays by
    itself, and decay and the output's gate, which is a sigmoid, are each made through `rank` numbers.
    """

    heads: int
    key_heads: int
    key_size: int
    value_size: int
    length: int = 4
    eps: float = 1e-6
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    allow_neg_eigval: bool = False
    rank: int | None = None

    @property
    def channels(self) -> int:
        """How many numbers of a token the convolution takes: queries, keys and values."""
        return 2 * self.key_heads * self.key_size + self.heads * self.value_size


class Mamba(Record):
    """Mamba's layer: a state of `state_size` numbers for each of `width` channels (`ops.mamba`).

    Each channel sees the `length` latest tokens by a convolution, with a bias or without (`conv_bias`). Its
    steps are made through `rank` numbers. `bias` is that of the maps in and back. `norms` says that what
    steps, keys and queries are made of is normalized, with weights or without (Jamba, Falcon Mamba).
    """

    width: int
    state_size: int
    rank: int
    length: int = 4
    conv_bias: bool = True
    bias: bool = False
    norms: Literal["weighted", "bare"] | None = None
    eps: float = 1e-6
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class Mamba2(Record):
    """Mamba 2's layer: a state [state_size, head_size] for each of `heads` (`ops.mamba2`).

    `groups` of keys and queries are shared by `heads` of values. Each sees the `length` latest tokens by a
    convolution, with a bias or without (`conv_bias`). `bias` is that of the maps in, `out_bias` that of the
    map back. `norm` says where each group's output is normalized: after the gate multiplied it, before, or
    not at all. `multipliers` are numbers by which gate, values, keys, queries and steps are multiplied as
    they leave their maps, in this order (Falcon-H1).
    """

    heads: int
    groups: int
    state_size: int
    head_size: int
    length: int = 4
    conv_bias: bool = True
    bias: bool = False
    out_bias: bool = False
    norm: Literal["after_gate", "before_gate"] | None = "after_gate"
    eps: float = 1e-5
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    multipliers: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """The numbers of all heads."""
        return self.heads * self.head_size

    @property
    def channels(self) -> int:
        """How many numbers of a token the convolution takes: values, keys and queries."""
        return self.width + 2 * self.groups * self.state_size


class Indexer(Record):
    """Which tokens latent attention sees: the `topk` best by the scores of narrow heads (`ops.indexer`).

    There are `heads` of `size` numbers; the first are rotated, as many as of the attention's own, in pairs of
    neighbours where `interleaved`. `eps` is that of the norm of keys.
    """

    heads: int
    size: int
    topk: int
    interleaved: bool = False
    eps: float = 1e-6


class SharedIndexer(Record):
    """The `topk` tokens that the indexer of the nearest layer before chose, without maps (GLM-5)."""

    topk: int


class LatentAttention(Record):
    """Multi-head latent attention: a token is kept as a latent of `rank` numbers and a rotary key.

    A head's key has `key_size` numbers made of the latent, and as many rotated ones as `position` has dims,
    which all heads share; its value has `value_size`. Without a `position` those that are shared are
    `shared_size`, and nothing is rotated (Kimi Linear). Queries come from a latent of their own of
    `query_rank` numbers, if there is one. `bias` is that of the maps to latents and of the map back;
    `scale` None means 1/sqrt(head_size). An `indexer` chooses the tokens that are seen (DeepSeek-V3.2).
    `query_scale` multiplies queries by a factor of their position (Mistral Small 4).
    """

    heads: int
    rank: int
    key_size: int
    value_size: int
    position: Rope | None
    query_rank: int | None = None
    bias: bool = False
    norm_eps: float = 1e-6
    scale: float | None = None
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    indexer: Indexer | SharedIndexer | None = None
    query_scale: QueryScale | None = None
    shared_size: int | None = None

    @property
    def key_dims(self) -> int:
        """The numbers of the key that all heads share."""
        return (self.shared_size or 0) if self.position is None else self.position.dims

    @property
    def head_size(self) -> int:
        """The numbers of a query, and of a key with its shared part."""
        return self.key_size + self.key_dims

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions turn neighbours (2j, 2j + 1), not (j, j + J)."""
        return self.position is not None and self.position.interleaved


class Distances(Record):
    """Vectors of distances between tokens, in a table that the layers of a stack share.

    There are 2 · `span` of them, for distances from −span to span − 1; what is farther has the first or the
    last one. With `log_until` each distance below half the span has its own vector, and farther ones up to
    `log_until` share vectors, more of them the farther they are (`ops.disentangled.distance_rows`). `norm`
    normalizes the table.
    """

    span: int
    log_until: int | None = None
    norm: LayerNorm | None = None


class DisentangledAttention(Record):
    """Attention whose scores have terms of content and position apart (`ops.disentangled`).

    Beside a query and a key there may be the products of a query and a distance (`content_to_position`) and
    of a key and a distance (`position_to_content`). Distances are mapped by matrices of their own, or those
    of queries and keys with `shared`. `bias` is that of all maps, but for distances as keys only with
    `position_bias`. `scale` None means 1/sqrt(head_size · number of terms).
    """

    heads: int
    head_size: int
    distances: Distances
    content_to_position: bool = True
    position_to_content: bool = True
    shared: bool = False
    bias: bool = True
    position_bias: bool = True
    scale: float | None = None
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None

    @property
    def factor(self) -> float:
        """What scores are multiplied by: each term adds to their variance."""
        terms = 1 + self.content_to_position + self.position_to_content
        return (self.head_size * terms) ** -0.5 if self.scale is None else self.scale


class FirstToken(Record):
    """The first token of a text is global."""


class QuestionTokens(Record):
    """All tokens before the first `separator`, the id of a token, are global: a question before its text."""

    separator: int


GlobalTokens = FirstToken | QuestionTokens


class LongformerAttention(Record):
    """Attention within a window, and of global tokens with all (`ops.longformer`).

    A token sees the `reach` tokens on each side of it. Global tokens see all and are seen by all, with maps
    of their own to queries, keys and values. All maps have a bias.
    """

    heads: int
    head_size: int
    reach: int
    global_tokens: GlobalTokens | None = None
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class LongT5Attention(Record):
    """T5's attention within a window, and of summaries of the text's blocks (`ops.longt5`).

    A token sees the `radius` tokens on each side of it, and with `global_block_size` the sum of each block of
    that many tokens, normalized with a weight (`norm_eps`). `position` are the biases of both; one table of
    each is shared by all layers, which have one radius and block size. Maps have no bias and scores no scale.
    """

    heads: int
    head_size: int
    radius: int
    position: RelativeBias
    global_block_size: int | None = None
    norm_eps: float = 1e-6
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


class XLNetAttention(Record):
    """Attention with terms of the distance, of its sines and cosines, and of segments (`ops.xlnet`).

    Distances beyond `clamp` are as that one. With `segments` scores also have a term of whether two tokens
    are of one segment: the embedding's token types, which have no table then. Maps have no bias.
    """

    heads: int
    head_size: int
    clamp: int | None = None
    segments: bool = True
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


# What moves information from token to token.
TokenMixer = (
    Attention
    | LinearAttention
    | LSTM
    | ShortConv
    | GatedDelta
    | Mamba
    | Mamba2
    | LatentAttention
    | DisentangledAttention
    | LongformerAttention
    | LongT5Attention
    | XLNetAttention
)
