"""Token mixers move information from token to token: the base class of all mixers, and attention.

A mixer is one class in one file of `ops`. This class has the mixer's settings, weights, cache and function,
and everything else that other packages need to know about the mixer. Those packages only call the methods of
`TokenMixer`, and don't know which mixers exist. `refimpl.components` imports all mixers. `Attention` is in
this file, since other parts of a layer are built from it. `ops.block` calls its function.
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
    """The arguments of `attend` that say how products of queries and keys are changed before the softmax."""

    scale: float | None
    softcap: float | None


class TokenMixer(Sublayer):
    """The settings of a mixer, and the facts that other packages derive from them.

    Parameters are named as in `weights`, without the path of the layer. `context` is the Config's `context`.
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
    # Whether it is one softmax over all tokens, whose weights `ops.attention.attention_weights` computes.
    has_map: ClassVar[bool] = False
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

    def check(self, at: str) -> None:
        """Raise ConfigError if the mixer's sizes contradict each other. The message begins with `at`."""
        check_bounds(at, self)

    def check_before(self, at: str, before: Sequence[TokenMixer]) -> None:
        """Raise ConfigError if this mixer can't follow the mixers of the earlier layers."""

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Any], width: int, vocabulary: int) -> None:
        """Raise ConfigError if these mixers, which are all of this class, can't be together in one stack.
        `name` is the stack's name.
        """

    def sizes(self, width: int) -> Mapping[str, float]:
        """Return a dict from each axis letter in `weights` to its size, in a model of this width D."""
        raise NotImplementedError

    def leaves(self) -> Sequence[str]:
        """Return the parameters marked `NotRequired` that a mixer with these settings has."""
        return ()

    def form(self, leaf: str) -> int:
        """Return which of the shapes that `weights` lists for a parameter is the right one, as an index."""
        return 0

    @property
    def inner_width(self) -> int:
        """The width of the norms and mlps inside the mixer, if it has any."""
        return 0

    def inner_norms(self) -> Mapping[str, Norm]:
        """The norms inside with parameters of their own, by their names in `weights`."""
        return {}

    def inner_mlps(self) -> Sequence[Plain]:
        """The mlps inside, which are `mlps` in `weights`, each with the norm after it."""
        return ()

    @property
    def inner_mlp(self) -> Gated | None:
        """The mlp inside, which is `mlp` in `weights`, if there is one. It has the model's width."""
        return None

    @property
    def softmax_attention(self) -> Attention | None:
        """The attention that keeps keys and values in a decoder: the mixer itself, or a part of it."""
        return None

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tables that all mixers of a stack share, in a model of this width."""
        return {}

    def cache_kind(self) -> Any:
        """Return the kind of cache of a decoder's layer, an `ops.cache_kind.CacheKind`."""
        raise AssertionError("a Config's check keeps this attention for encoders")

    def cache_kind_beside(self, attention: Any) -> Any:
        """Return the kind of cache of a decoder's layer with attention beside this mixer, or inside.

        The attention's own `CacheKind` is given.
        """
        raise AssertionError("a Config's check keeps attention beside Mamba 2")

    def mix(
        self, x: Any, cache: Any, past: Any, weights: Any, positions: Any, chosen: Any
    ) -> tuple[Any, Any, Any]:
        """Compute the sublayer in a decoder: its output, its new cache, and the tokens that an indexer chose.

        `positions` are `ops.block.Positions`. `chosen` are the tokens that the nearest earlier indexer chose.
        """
        raise AssertionError("a Config's check keeps this attention for encoders")

    def mix_whole(self, x: Any, lengths: Any, weights: Any, positions: Any, causal: bool) -> Any:
        """Compute the sublayer over whole texts and return its output."""
        raise AssertionError("a Config's check keeps this mixer for decoders")

    def readers(self) -> tuple[str, ...]:
        """The matrices that read the mixer's input, if the input can be smoothed."""
        return ()

    @property
    def reads_more(self) -> bool:
        """Whether the `readers` also read distances or norms of sums. If so, no norm can divide
        their input.
        """
        return False

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        """Return the activations inside the mixer that can be smoothed. `read_later` says whether other
        layers read the mixer's values.
        """
        return []

    def group_query_limit(self) -> str | None:
        """The reason why a decoder with this mixer can't use GroupQueryAttention in its other layers, or None
        if it can.

        By default there is no such reason, because a step reads a state before it writes the next state to
        the same place.
        """
        if self.keeps == "nothing":
            raise AssertionError("a Config's check keeps this attention for encoders")
        return None

    def float16_limit(self) -> str | None:
        """The reason why a bundle in float16 can't have this mixer, apart from its cache, or None
        if it can.
        """
        return None

    def describe(self) -> str:
        """The text that `inspect` shows for the mixer."""
        raise NotImplementedError

    def describe_positions(self) -> str | None:
        """The text that `inspect` shows for the mixer's positions; None if it has no positions of its own."""
        return None

    def borrows(self) -> str | None:
        """The text that `inspect` shows for what the mixer takes from an earlier layer, or None if it takes
        nothing.
        """
        return None

    def epsilons(self) -> dict[str, float]:
        """A dict from the parameter of each norm inside the mixer to the norm's eps."""
        return {}

    def plain_numbers(self) -> int:
        """Return how many numbers per token the cache would have if each head had its own keys and values."""
        return 0

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> TokenMixer:
        """Return settings for a random test: with these sizes, and with the `chosen` value for each of
        `choices`.

        `chosen` also has an entry for each optional array: the array, or None if it is absent.
        """
        raise NotImplementedError


class StateSpace(TokenMixer):
    """A mixer that may also be used beside a decoder's attention in the same layer (`Beside`)."""

    keeps = "state"


class Attention(TokenMixer):
    """One attention sublayer; `scale` None means 1/sqrt(head_size).

    **Queries, keys and values.** `clip` limits queries, keys and values to ± `clip` right after their
    projections (MPT). `query_scale` multiplies queries by a factor that depends on their position.
    `value_norm` normalizes each head's values, without a weight. With `keys_as_values` a token's values are
    its keys before their norm and rotation, and there is no map to values (both Gemma 4). Elements of a
    head's values from `value_size` on are zero (MiMo-V2-Flash).

    **Cache.** `kv` says how a decoder caches its keys and values: unchanged, or rounded to 8 or 4 bits with a
    scale for each channel. With 4 bits the values are rotated (`ops.quantized_cache.hadamard`). With
    `kv_layer` the sublayer makes no keys and values. It reads the keys and values of the layer with this
    index in its stack, and caches nothing (`ops.shared_attention`).

    **Softmax and output.** With `sink_logits` each head has a learned logit that takes its share of the
    softmax (gpt-oss). With `output_gate` each element of the output is multiplied by a gate that depends on
    the token, before the last map (Qwen3-Next). With `head_gate` all elements of a head are multiplied by the
    same gate, without a bias (LFM3). A gate is a sigmoid, or with `softplus_gate` a softplus (Laguna).
    `value_scale` multiplies the heads' outputs (MiMo-V2-Flash). Instead of gates, `out_norm` normalizes the
    output of all heads together (BitNet).
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
        """The number of positions that a token sees, including its own, or None for all."""
        return self.mask.window

    @property
    def rotates_values(self) -> bool:
        """Whether a decoder caches its values in rotated form."""
        return self.kv == "int4"

    @property
    def scoring(self) -> Scoring:
        """The settings that say how scores are made, as arguments of `attend`."""
        return {"scale": self.scale, "softcap": self.softcap}

    @property
    def merged_keys(self) -> Attention:
        """The `cross` of a `merged` layer with this attention: its keys, without positions and masks."""
        return Attention(
            self.heads, self.kv_heads, self.head_size, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm,
            scale=self.scale, softcap=self.softcap,
        )  # fmt: skip

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions rotate the pairs (2j, 2j + 1) of a head's elements, instead of the pairs
        (j, j + J).
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
        need(alone, f"{at}the heads' output can have a gate or out_norm, got both")
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
    """Raise ConfigError unless each key-value head is shared by the same number of heads."""
    divisible = heads % kv_heads == 0
    need(divisible, f"{at}heads must be a multiple of kv_heads, got {heads} and {kv_heads}")


class Indexer(Record):
    """The setting that latent attention sees only the `topk` tokens with the best scores from narrow heads
    (`ops.indexer`).

    There are `heads` heads of `size` elements. The number of rotated elements of a head is the same as in the
    attention's own heads. With `interleaved`, the rotated pairs are neighbours. `eps` is the eps of the norm
    of keys.
    """

    heads: int = bounded("heads", "heads of the indexer")
    size: int = bounded("width", "size of the indexer's heads")
    topk: int = bounded("context", "topk of the indexer")
    interleaved: bool = False
    eps: float = 1e-6


class SharedIndexer(Record):
    """The setting that attention sees the `topk` tokens that the nearest earlier layer's indexer chose. The
    layer has no indexer's maps of its own (GLM-5).
    """

    topk: int


class Distances(Record):
    """Vectors of distances between tokens, in a table that the layers of a stack share.

    There are 2 · `span` vectors, for distances from −span to span − 1. Larger distances have the first or the
    last vector. With `log_until` each distance below half the span has its own vector. Larger distances up to
    `log_until` share vectors: the larger the distances, the more of them share one
    (`ops.disentangled.distance_rows`). `norm` normalizes the table.
    """

    span: int
    log_until: int | None = None
    norm: LayerNorm | None = None

    def integers(self) -> Iterator[int]:
        yield 2 * self.span


class FirstToken(Record):
    """The setting that the first token of a text is global."""


class QuestionTokens(Record):
    """The setting that all tokens before the first token with the id `separator` are global. They are a
    question that comes before its text.
    """

    separator: int


GlobalTokens = FirstToken | QuestionTokens
