"""Token mixers move information between tokens: the base class of all mixers, and attention.

Each mixer is one class in one file of `ops`. The class contains the mixer's settings, weights, cache and
function, and everything else that other packages need to know about the mixer. Other packages only call the
methods of `TokenMixer` and don't depend on which mixers exist. `refimpl.components` imports all mixers.
`Attention` is in this file because other parts of a layer are built from it; `ops.block` calls its
function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

from .bounds import check_bounds, need
from .masks import FULL, Mask
from .mlps import Gated, Plain
from .norms import HeadNorm, LayerNorm, Norm, RMSNorm, Sublayer, epsilons
from .positions import Position, QueryScale, Rope
from .record import Record, SmoothingSite, bounded

# How a decoder keeps keys and values: as they are, or as codes with a scale for each channel.
KVFormat = Literal["float", "int8", "int4"]
KV_BITS = {"int8": 8, "int4": 4}  # of codes
# φ of linear attention: elu(x) + 1, or max(x, 0).
FeatureMap = Literal["elu", "relu"]


class Scoring(TypedDict):
    """The arguments of `attend` that change the products of queries and keys before the softmax."""

    scale: float | None
    softcap: float | None


class TokenMixer(Sublayer):
    """The base class of token mixers: the settings of a mixer, and what other packages derive from the
    settings.

    Its methods name parameters as `weights` does, without the path of the layer.
    """

    # The leaves that it may have, a TypedDict with their shapes as jaxtyping has them.
    weights: ClassVar[type] = dict
    # Its name in errors, and where it may be: an "encoder", or also a decoder that reads a "text".
    title: ClassVar[str] = ""
    place: ClassVar[Literal["decoder", "text", "encoder"] | None] = None
    # What a decoder's layer keeps of earlier tokens: something of each, a state of all, or nothing.
    keeps: ClassVar[Literal["tokens", "state", "nothing"]] = "nothing"
    # Whether a step computes several tokens at once, in parts of a power of two.
    in_parts: ClassVar[bool] = False
    # Whether a graph joins the sums of tokens in an order that depends on where a run of tokens begins.
    in_rounds: ClassVar[bool] = False
    # Whether it is one softmax over all tokens, whose weights `ops.attention.attention_weights` computes.
    has_map: ClassVar[bool] = False
    # Whether it reads all streams of a token and adds to each, instead of reading a mixture of them.
    reads_streams: ClassVar[bool] = False
    # The base of the wavelengths of sines and cosines that it computes itself, over the model's width.
    wavelengths: ClassVar[float | None] = None
    # The values of settings that laws draw, beside those that follow from the arrays (`drawn`).
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # Leaves that laws draw where another one is there, or not at all.
    together: ClassVar[Mapping[str, str]] = {}
    # The maps that make inputs of gates, whose sigmoids kernels only approximate: laws draw these below 4.
    gates: ClassVar[tuple[str, ...]] = ()
    # The largest number that laws draw for leaves of which exponentials or high powers are computed.
    largest: ClassVar[Mapping[str, float]] = {}

    @property
    def stepwise(self) -> bool:
        """Whether it can only be computed as in a decoder, with a cache."""
        return self.place == "decoder"

    def check(self, at: str) -> None:
        """Raise ConfigError if the mixer's sizes contradict each other. The message begins with `at`."""
        check_bounds(at, self)

    def check_before(self, at: str, before: Sequence[TokenMixer]) -> None:
        """Raise ConfigError if this mixer can't follow `before`, the mixers of all earlier layers."""

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Any], width: int, vocabulary: int) -> None:
        """Raise ConfigError if these mixers can't be in the same stack.

        All the mixers are of this class. `name` is the stack's name in the message.
        """

    def sizes(self, width: int) -> Mapping[str, float]:
        """Return a dict from each axis letter in `weights` to the axis's size, in a model of this width."""
        raise NotImplementedError

    def leaves(self) -> Sequence[str]:
        """Return the optional parameters that this mixer has. They are marked `NotRequired` in `weights`."""
        return ()

    def form(self, leaf: str) -> int:
        """Return which of a parameter's possible shapes applies, as an index into the shapes in `weights`."""
        return 0

    @property
    def inner_width(self) -> int:
        """The width of the norms and mlps inside the mixer; 0 if the mixer has none."""
        return 0

    def inner_norms(self) -> Mapping[str, Norm]:
        """Return the norms inside the mixer that have their own parameters, by their names in `weights`."""
        return {}

    def inner_mlps(self) -> Sequence[Plain]:
        """Return the mlps inside the mixer, which `weights` stores as `mlps`. Each mlp includes the norm
        after it.
        """
        return ()

    @property
    def inner_mlp(self) -> Gated | None:
        """The mlp of the model's width inside the mixer, which `weights` stores as `mlp`; None if it has no
        such mlp.
        """
        return None

    @property
    def softmax_attention(self) -> Attention | None:
        """The attention that caches keys and values in a decoder: the mixer itself or a part of it; None
        without one.
        """
        return None

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return a dict from the name of each table that all mixers of a stack share to its shape.

        `width` is the model's width.
        """
        return {}

    def cache_kind(self) -> Any:
        """Return the kind of cache that this mixer needs in a decoder's layer, an
        `ops.cache_kind.CacheKind`.
        """
        raise AssertionError("a Config's check keeps this attention for encoders")

    def cache_kind_beside(self, attention: Any) -> Any:
        """Return the kind of cache for a decoder's layer that has this mixer and attention.

        The attention is beside this mixer or inside it. `attention` is the attention's own `CacheKind`.
        """
        raise AssertionError("a Config's check keeps attention beside Mamba 2")

    def mix(
        self, x: Any, cache: Any, past: Any, weights: Any, positions: Any, chosen: Any
    ) -> tuple[Any, Any, Any]:
        """Compute the sublayer in a decoder; return its output, its new cache, and the tokens that an indexer
        chose.

        `positions` is an `ops.block.Positions`. `chosen` contains the tokens chosen by the nearest earlier
        layer that has an indexer.
        """
        raise AssertionError("a Config's check keeps this attention for encoders")

    def mix_whole(self, x: Any, lengths: Any, weights: Any, positions: Any, causal: bool) -> Any:
        """Compute the sublayer for whole texts at once, without a cache, and return its output."""
        raise AssertionError("a Config's check keeps this mixer for decoders")

    def readers(self) -> tuple[str, ...]:
        """Return the names of the matrices that multiply the mixer's input, or () if the input can't be
        smoothed.
        """
        return ()

    @property
    def reads_more(self) -> bool:
        """Whether the `readers` also multiply something other than the mixer's input, such as distance
        vectors.

        If so, smoothing can't divide the mixer's input by changing a norm.
        """
        return False

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        """Return the activations inside the mixer that can be smoothed before quantization.

        `read_later` says whether other layers read this mixer's values.
        """
        return []

    def group_query_limit(self) -> str | None:
        """Return why a decoder with this mixer can't use GroupQueryAttention in its layers, or None if it
        can.

        By default there is no reason: a step reads a recurrent state before it writes the new state to the
        same buffer.
        """
        if self.keeps == "nothing":
            raise AssertionError("a Config's check keeps this attention for encoders")
        return None

    def float16_limit(self) -> str | None:
        """Return why a bundle in float16 can't contain this mixer, or None if it can. The cache isn't
        considered here.
        """
        return None

    def describe(self) -> str:
        """Return the text that `inspect` shows for the mixer."""
        raise NotImplementedError

    def describe_positions(self) -> str | None:
        """Return the text that `inspect` shows for the mixer's positions, or None if the mixer has no
        positions.
        """
        return None

    def borrows(self) -> str | None:
        """Return the text that `inspect` shows for what the mixer takes from an earlier layer, or None for
        nothing.
        """
        return None

    def epsilons(self) -> dict[str, float]:
        """Return a dict from the parameter of each norm inside the mixer to the norm's eps."""
        return {}

    def plain_numbers(self) -> int:
        """Return how many numbers an unshared cache would need per token: own keys and values for each
        head.
        """
        return 0

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> TokenMixer:
        """Build a mixer for a random test, with axes of these sizes.

        `chosen` maps each setting in `choices` to a value, and each optional array's name to the array, or to
        None if it is absent.
        """
        raise NotImplementedError


class StateSpace(TokenMixer):
    """A state space mixer, which may also be in parallel to a decoder's attention in the same layer
    (`Beside`).
    """

    keeps = "state"


class Attention(TokenMixer):
    """An attention sublayer. `scale` multiplies the scores; None means 1/sqrt(head_size).

    **Queries, keys and values.** `clip` limits queries, keys and values to ± `clip` right after their
    projections (MPT). `query_scale` multiplies queries by a factor that depends on their position.
    `value_norm` normalizes each head's values, without a weight. With `keys_as_values` there is no projection
    of values: a token's values are its keys before their norm and rotation (both Gemma 4). If `value_size` is
    set, only the first `value_size` elements of a head's values are nonzero (MiMo-V2-Flash).

    **Cache.** `kv` is the format in which a decoder caches keys and values: unchanged, or rounded to 8 or 4
    bits with a scale for each channel. With 4 bits the values are rotated (`ops.quantized_cache.hadamard`).
    With `kv_layer` the sublayer computes and caches no keys and values. It reads the keys and values of the
    layer with this index in its stack (`ops.shared_attention`).

    **Softmax and output.** With `sink_logits` each head has a learned logit that takes a share of the softmax
    (gpt-oss). With `output_gate` each element of the heads' output is multiplied by a gate that depends on
    the token, before the output projection (Qwen3-Next). With `head_gate` each head has one gate, computed
    without a bias (LFM3). A gate is a sigmoid, or with `softplus_gate` a softplus (Laguna). `value_scale`
    multiplies the heads' output (MiMo-V2-Flash). `out_norm` normalizes the output of all heads together and
    excludes gates (BitNet).
    """

    heads: int = bounded("heads")
    kv_heads: int = bounded("heads")
    head_size: int = bounded("width")
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
    head_gate: bool = False
    out_norm: RMSNorm | None = None
    softplus_gate: bool = False
    value_scale: float | None = None
    value_size: int | None = None

    @property
    def window(self) -> int | None:
        """The number of latest positions that a token sees, including its own, or None for all."""
        return self.mask.window

    @property
    def rotates_values(self) -> bool:
        """Whether a decoder rotates values before it caches them, as it does for 4-bit caches."""
        return self.kv == "int4"

    @property
    def scoring(self) -> Scoring:
        """The keyword arguments of `attend` that say how scores are computed."""
        return {"scale": self.scale, "softcap": self.softcap}

    @property
    def merged_keys(self) -> Attention:
        """The cross-attention that a `merged` layer with this attention must have.

        It has the same keys as this attention, without positions and masks.
        """
        return Attention(
            self.heads, self.kv_heads, self.head_size, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm,
            scale=self.scale, softcap=self.softcap,
        )  # fmt: skip

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions rotate neighbouring elements of a head, the pairs (2j, 2j + 1).

        Otherwise they rotate the pairs (j, j + J), where J is half the number of rotated elements.
        """
        return isinstance(self.position, Rope) and self.position.interleaved

    keeps, has_map = "tokens", True

    @property
    def softmax_attention(self) -> Attention:
        return self

    def check(self, at: str) -> None:
        super().check(at)
        check_groups(at, self.heads, self.kv_heads)
        self._check_head_norm(at)
        if self.query_scale is not None:
            check_bounds(at, self.query_scale)
        need(
            (self.value_size or 1) <= self.head_size,
            f"{at}values must be at most as wide as a head ({self.head_size}), got {self.value_size}",
        )
        alone = self.out_norm is None or not (self.output_gate or self.head_gate)
        need(alone, f"{at}the heads' output can have a gate or out_norm, but not both")
        biased = self.position is not None and self.position.adds
        self.mask.check(at, plain=not biased and not self.sink_logits)
        if self.position is not None:
            self.position.check(at, self.head_size)

    def _check_head_norm(self, at: str) -> None:
        one = self.qk_norm
        if one is None:
            return
        fits = one.norm.leaves() == ("weight",)
        need(fits, f"{at}a norm of queries and keys must have a weight and no bias, got {one.norm}")
        bare = one.weight or (one.over == "head" and one.rotated)
        need(
            bare,
            f"{at}a norm of queries and keys without a weight must be over each head and after the rotation",
        )
        turned = not one.rotated or isinstance(self.position, Rope)
        need(
            turned,
            f"{at}a norm of queries and keys after the rotation needs rotary positions, got {self.position}",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        own = {} if self.position is None else self.position.sizes()
        return {"H": self.heads, "G": self.kv_heads, "K": self.head_size, **own}

    def leaves(self) -> Sequence[str]:
        own = self.kv_layer is None
        values = own and not self.keys_as_values
        biases = self.qkv_bias
        normed = self.qk_norm is not None and self.qk_norm.weight
        there = {
            "wk": own, "wv": values, "bq": biases, "bk": biases and own, "bv": biases and values,
            "bo": self.out_bias, "q_norm": normed, "k_norm": normed and own, "sink_logits": self.sink_logits,
            "wg": self.output_gate, "bg": self.output_gate and biases, "w_head_gate": self.head_gate,
            "out_norm": self.out_norm is not None,
            **dict.fromkeys(("k_scale", "v_scale"), self.kv != "float" and own),
        }  # fmt: skip
        of_position = () if self.position is None else self.position.leaves()
        return [*(leaf for leaf, has in there.items() if has), *of_position]

    def form(self, leaf: str) -> int:
        if self.qk_norm is None or leaf not in ("q_norm", "k_norm"):
            return 0
        return ("head", "each", "all").index(self.qk_norm.over)

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        return {} if self.position is None else self.position.tables(self.heads)

    def readers(self) -> tuple[str, ...]:
        maps = "q" if self.kv_layer is not None else "qk" if self.keys_as_values else "qkv"
        maps += "g" if self.output_gate else ""
        return *(f"w{n}" for n in maps), *(["w_head_gate"] if self.head_gate else [])

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        if self.out_norm is not None:
            return [SmoothingSite(("out_norm",), ("wo",))]
        of_others = read_later or self.kv_layer is not None
        # Values in 4 bits are rotated before their channels have scales.
        if of_others or self.clip is not None or self.rotates_values:
            return []
        if self.keys_as_values or self.value_norm is not None:
            return []
        producers = ("wv", *(["bv"] if self.qkv_bias else []), *(["v_scale"] if self.kv == "int8" else []))
        return [SmoothingSite(producers, ("wo",), self.heads // self.kv_heads, self.head_size)]

    def group_query_limit(self) -> str | None:
        if self.mask.kernel_limit is not None:
            return self.mask.kernel_limit
        if self.position is not None:
            return self.position.group_query_limit(self.head_size)
        return f"head size must be a multiple of 8, got {self.head_size}" if self.head_size % 8 else None

    def describe(self) -> str:
        said = {
            " with sinks": self.sink_logits,
            " with a gate": self.output_gate,
            " with a gate each": self.head_gate,
            " with a norm of the output": self.out_norm,
            " whose values are the keys": self.keys_as_values,
        }
        heads = f"{self.heads} heads of {self.head_size} in {self.kv_heads} groups"
        return heads + "".join(text for text, has in said.items() if has) + self.mask.describe()

    def describe_positions(self) -> str | None:
        return None if self.position is None else self.position.describe()

    def borrows(self) -> str | None:
        return None if self.kv_layer is None else "the keys and values of earlier ones"

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5 if self.scale is None else self.scale

    def epsilons(self) -> dict[str, float]:
        of_heads = None if self.qk_norm is None else self.qk_norm.norm
        return epsilons({"q_norm": of_heads, "k_norm": of_heads, "out_norm": self.out_norm})

    def plain_numbers(self) -> int:
        return 2 * self.heads * self.head_size


def check_groups(at: str, heads: int, kv_heads: int) -> None:
    """Raise ConfigError unless `heads` is a multiple of `kv_heads`, so equally many heads share each
    key-value head.
    """
    divisible = heads % kv_heads == 0
    need(divisible, f"{at}heads must be a multiple of kv_heads, got {heads} and {kv_heads}")


class Indexer(Record):
    """An indexer for latent attention: a token attends only to the `topk` tokens that the indexer scores best
    (`ops.indexer`).

    The indexer computes scores with `heads` narrow heads of `size` elements. It rotates as many elements of a
    head as the attention does. With `interleaved`, the rotated pairs are neighbouring elements. `eps` is the
    eps of the norm of the indexer's keys.
    """

    heads: int = bounded("heads", "heads of the indexer")
    size: int = bounded("width", "size of the indexer's heads")
    topk: int = bounded("context", "topk of the indexer")
    interleaved: bool = False
    eps: float = 1e-6


class BlockIndexer(Record):
    """An indexer of blocks of `block` tokens: a token attends only to the `topk` blocks that the indexer
    scores best (`ops.indexed_attention`).

    The indexer has a narrow head of `size` elements for each key head of the attention. It rotates as many
    elements of a head as the attention does. The latest `local` blocks, which include the token's own, are
    always among the chosen blocks.
    """

    size: int = bounded("width", "size of the indexer's heads")
    block: int = bounded("context", "block of the indexer")
    topk: int = bounded("context", "topk of the indexer")
    local: int = bounded("context", "local blocks of the indexer", least=0, default=1)


class SharedIndexer(Record):
    """An indexer without parameters: the layer attends to the `topk` tokens that the nearest earlier indexer
    chose (GLM-5).
    """

    topk: int


class Distances(Record):
    """A table of vectors for the distances between tokens, which the layers of a stack share (DeBERTa).

    The table has 2 · `span` vectors, for distances from −span to span − 1. Distances outside of this range
    use the first or the last vector. With `log_until`, distances below span / 2 each have a vector, and
    larger distances up to `log_until` share vectors: the larger the distances, the more of them share one
    (`ops.disentangled.distance_rows`). `norm` normalizes the table.
    """

    span: int
    log_until: int | None = None
    norm: LayerNorm | None = None

    def integers(self) -> Iterator[int]:
        yield 2 * self.span


class FirstToken(Record):
    """Global attention for the first token of a text: it sees all tokens, and all tokens see it."""


class QuestionTokens(Record):
    """Global attention for all tokens before the first token with the id `separator`: the question before a
    text.
    """

    separator: int


GlobalTokens = FirstToken | QuestionTokens
