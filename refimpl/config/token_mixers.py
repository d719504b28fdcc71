"""What moves information from token to token: the base of all mixers, and attention.

A mixer is one class in one file of `ops`. It has its settings, its weights, its cache, its function and all
that other rooms ask of it: these call the methods of `TokenMixer`, and don't know which mixers there are.
`refimpl.components` imports all of them. `Attention` is here, since a layer's other parts are made of it;
`ops.block` calls its function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

from .bounds import check_bounds, need
from .masks import FULL, Mask
from .norms import HeadNorm, LayerNorm, Norm, RMSNorm, Sublayer
from .positions import Position, QueryScale, Rope
from .record import Record, SmoothingSite, bounded

# How a decoder keeps keys and values: as they are, or as codes with a scale for each channel.
KVFormat = Literal["float", "int8", "int4"]
KV_BITS = {"int8": 8, "int4": 4}  # of codes
# φ of linear attention: elu(x) + 1, or max(x, 0).
FeatureMap = Literal["elu", "relu"]


class Scoring(TypedDict):
    """What is done to products of queries and keys before the softmax: arguments of `attend`."""

    scale: float | None
    softcap: float | None


class TokenMixer(Record, Sublayer):
    """The settings of a mixer, and what other rooms ask of it.

    Leaves are named as in `weights`, without the path of the layer. `context` is the Config's.
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
        """Raise ConfigError, which begins with `at`, where its sizes contradict each other."""
        check_bounds(at, self)

    def check_before(self, at: str, before: Sequence[TokenMixer]) -> None:
        """Raise ConfigError where it can't stand behind the mixers of the layers before."""

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Any], width: int, vocabulary: int) -> None:
        """Raise ConfigError where these mixers of its kind can't be in one stack, called `name`."""

    def sizes(self, width: int) -> Mapping[str, float]:
        """The letters of the axes in `weights`, in a model of this width, which is D itself."""
        raise NotImplementedError

    def leaves(self) -> Sequence[str]:
        """The leaves that these settings have of those that are `NotRequired`."""
        return ()

    def form(self, leaf: str) -> int:
        """Which shape a leaf has of those that `weights` says."""
        return 0

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        """The tables that it shares with the other mixers of a stack, in a model of this width."""
        return {}

    def cache_kind(self) -> Any:
        """What a decoder's layer keeps, an `ops.cache_kind.CacheKind`."""
        raise AssertionError("a Config's check keeps this attention for encoders")

    def mix(
        self, x: Any, cache: Any, past: Any, weights: Any, positions: Any, chosen: Any
    ) -> tuple[Any, Any, Any]:
        """The sublayer in a decoder: its output, its new cache, and the tokens that an indexer chose.

        `positions` are `ops.block.Positions`; `chosen` are the tokens of the nearest indexer before.
        """
        raise AssertionError("a Config's check keeps this attention for encoders")

    def mix_whole(self, x: Any, lengths: Any, weights: Any, positions: Any, causal: bool) -> Any:
        """The sublayer over whole texts."""
        raise AssertionError("a Config's check keeps this mixer for decoders")

    def readers(self) -> tuple[str, ...]:
        """The matrices that read its input, if it can be smoothed for them."""
        return ()

    @property
    def reads_more(self) -> bool:
        """Whether these read distances too, or norms of sums, so that no norm can divide their input."""
        return False

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        """The activations inside that can be smoothed; `read_later` where other layers read its values."""
        return []

    def group_query_limit(self) -> str | None:
        """Why GroupQueryAttention can't be a decoder's attention beside it; None where it can.

        Usually a step reads a state before it writes the next one to its place.
        """
        if self.keeps == "nothing":
            raise AssertionError("a Config's check keeps this attention for encoders")
        return None

    def float16_limit(self) -> str | None:
        """Why a bundle in float16 can't have it, beside what it keeps; None where it can."""
        return None

    def describe(self) -> str:
        """What `inspect` says of it."""
        raise NotImplementedError

    def describe_positions(self) -> str | None:
        """What `inspect` says of its positions; None where it has none of its own."""
        return None

    def borrows(self) -> str | None:
        """What it has from an earlier layer, for `inspect`; None where it has all of its own."""
        return None

    def epsilons(self) -> dict[str, float]:
        """The eps of the norms inside, by their leaves."""
        return {}

    def plain_numbers(self) -> int:
        """Numbers a token that it would keep if each head had its own keys and values."""
        return 0

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> TokenMixer:
        """The settings for `chosen` values of `choices`, and chosen arrays or None, of these sizes."""
        raise NotImplementedError


class StateSpace(TokenMixer):
    """A mixer that may also stand beside a decoder's attention (`Beside`)."""

    keeps = "state"

    def cache_kind_beside(self, attention: Any) -> Any:
        """What a layer keeps that has it beside attention, which keeps the `CacheKind` given."""
        raise NotImplementedError


class Attention(TokenMixer):
    """One attention sublayer; `scale` None means 1/sqrt(head_size).

    `clip` bounds queries, keys and values to ± itself as they leave their projections (MPT). `kv` says how
    a decoder keeps its keys and values: as they are, or rounded to 8 or 4 bits with a scale for each channel,
    with 4 bits the values rotated (`ops.quantized_cache.hadamard`).
    With `sink_logits` each head has a learned logit that takes its share of the softmax (gpt-oss).
    `query_scale` multiplies queries by a factor of their position. With `output_gate` each number of the
    output is multiplied by a gate of the token's own, before the last map (Qwen3-Next), and with `head_gate`
    all numbers of a head by the same one, without a bias (LFM3); a gate is a sigmoid, or with
    `softplus_gate` a softplus (Laguna). `value_scale` multiplies what heads give, and numbers of a head's
    values from `value_size` on are zero (both MiMo-V2-Flash). In the place of gates `out_norm` normalizes
    the output of all heads together (BitNet). `value_norm` normalizes each head's values, without a weight;
    with `keys_as_values` a token's values are its keys before their norm and rotation, and there is no map
    to values (both Gemma 4). With `kv_layer` it makes no keys and values, but reads those of that layer of
    its stack, and keeps nothing (`ops.shared_attention`).
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
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None
    head_gate: bool = False
    out_norm: RMSNorm | None = None
    softplus_gate: bool = False
    value_scale: float | None = None
    value_size: int | None = None

    @property
    def window(self) -> int | None:
        """How many positions are seen, the current one included; None for all."""
        return self.mask.window

    @property
    def rotates_values(self) -> bool:
        """Whether a decoder keeps its values rotated."""
        return self.kv == "int4"

    @property
    def scoring(self) -> Scoring:
        """The settings that say how scores are made, to be passed on together."""
        return {"scale": self.scale, "softcap": self.softcap}

    @property
    def interleaved(self) -> bool:
        """Whether rotary positions turn neighbours (2j, 2j + 1) of a head, not (j, j + J)."""
        return isinstance(self.position, Rope) and self.position.interleaved

    keeps, has_map = "tokens", True

    def check(self, at: str) -> None:
        super().check(at)
        check_groups(at, self.heads, self.kv_heads)
        self._check_head_norm(at)
        if self.query_scale is not None:
            check_bounds(at, self.query_scale)
        need(
            (self.value_size or 1) <= self.head_size,
            f"{at}values must be at most as wide as a head, {self.head_size}, got {self.value_size}",
        )
        alone = self.out_norm is None or not (self.output_gate or self.head_gate)
        need(alone, f"{at}what heads give is multiplied by a gate or normalized, got a gate and out_norm")
        biased = self.position is not None and self.position.adds
        self.mask.check(at, plain=not biased and not self.sink_logits)
        if self.position is not None:
            self.position.check(at, self.head_size)

    def _check_head_norm(self, at: str) -> None:
        one = self.qk_norm
        if one is None:
            return
        fits = not isinstance(one.norm, LayerNorm) or (one.norm.weight and not one.norm.bias)
        need(fits, f"{at}a norm of queries and keys must have a weight and no bias, got {one.norm}")
        bare = one.weight or (one.over == "head" and one.rotated)
        need(bare, f"{at}a norm of queries and keys without a weight is over each head, after the rotation")
        turned = not one.rotated or isinstance(self.position, Rope)
        need(turned, f"{at}a norm after the rotation needs rotary positions, got {self.position}")

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
        of_heads = {} if self.qk_norm is None else dict.fromkeys(("q_norm", "k_norm"), self.qk_norm.norm.eps)
        return of_heads | ({} if self.out_norm is None else {"out_norm": self.out_norm.eps})

    def plain_numbers(self) -> int:
        return 2 * self.heads * self.head_size


def check_groups(at: str, heads: int, kv_heads: int) -> None:
    """Raise ConfigError unless as many heads share each key-value head."""
    divisible = heads % kv_heads == 0
    need(divisible, f"{at}heads must be a multiple of kv_heads, got {heads} and {kv_heads}")


class Indexer(Record):
    """Which tokens latent attention sees: the `topk` best by the scores of narrow heads (`ops.indexer`).

    There are `heads` of `size` numbers; the first are rotated, as many as of the attention's own, in pairs of
    neighbours where `interleaved`. `eps` is that of the norm of keys.
    """

    heads: int = bounded("heads", "heads of the indexer")
    size: int = bounded("width", "size of the indexer's heads")
    topk: int = bounded("context", "topk of the indexer")
    interleaved: bool = False
    eps: float = 1e-6


class SharedIndexer(Record):
    """The `topk` tokens that the indexer of the nearest layer before chose, without maps (GLM-5)."""

    topk: int


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

    def integers(self) -> Iterator[int]:
        yield 2 * self.span


class FirstToken(Record):
    """The first token of a text is global."""


class QuestionTokens(Record):
    """All tokens before the first `separator`, the id of a token, are global: a question before its text."""

    separator: int


GlobalTokens = FirstToken | QuestionTokens
