"""The blueprint of a model: frozen dataclasses, standard library only.

Nothing that can be derived is stored, and unions of small types keep combinations that make no
sense from being written. `to_json` and `from_json` are exact inverses; as JSON each value carries
its class name as `type`, and a field that isn't known is a `ConfigError`.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from .errors import ConfigError

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh"]
Pooling = Literal["first", "last", "mean", "max"]


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalization with a learned weight."""

    eps: float


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization with a learned weight and, with `bias`, a learned shift."""

    eps: float
    bias: bool = True


Norm = RMSNorm | LayerNorm


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (position interpolation)."""

    factor: float


@dataclass(frozen=True)
class DynamicNTK:
    """A larger theta, by how far the Config's context passes the trained one."""

    factor: float
    original_context: int


@dataclass(frozen=True)
class Yarn:
    """Low frequencies divided by `factor`, high ones kept, a ramp over the pairs between the two.

    `magnitude` multiplies cosines and sines; None means 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float | None = None


@dataclass(frozen=True)
class LongRope:
    """A divisor for each pair, one set for contexts up to the trained one, one for longer ones."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    magnitude: float = 1.0


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a linear blend between the two."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


Scaling = LinearScaling | DynamicNTK | Yarn | LongRope | Llama3Scaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions over the first `dims` elements of a head."""

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Alibi:
    """Scores lowered in proportion to the distance; the slopes follow from the number of heads."""

    max_bias: float = 8.0


@dataclass(frozen=True)
class RelativeBias:
    """A learned number for each head and bucket of distances, added to scores; one table a stack."""

    buckets: int
    max_distance: int


Position = Rope | Alibi | RelativeBias


@dataclass(frozen=True)
class Full:
    """Every position that the stack allows is seen."""


@dataclass(frozen=True)
class Window:
    """The `size` latest positions are seen, the current one included; in an encoder as many ahead."""

    size: int


@dataclass(frozen=True)
class Attention:
    """One attention sublayer; `scale` None means 1/sqrt(head_size)."""

    heads: int
    groups: int
    head_size: int
    position: Position | None = None
    pattern: Full | Window = Full()
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: RMSNorm | None = None
    scale: float | None = None
    softcap: float | None = None
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


@dataclass(frozen=True)
class Gated:
    """down(act(gate(x)) * up(x))."""

    width: int
    activation: Activation
    bias: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


@dataclass(frozen=True)
class Plain:
    """down(act(up(x)))."""

    width: int
    activation: Activation
    bias: bool = True
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


@dataclass(frozen=True)
class MoE:
    """Each token's vector goes to the `top` best of `experts` gated mlps of `width`, chosen by a router.

    Their outputs are summed with the weights of `ops.moe.route`. With `choice_bias` a learned number
    for each expert counts for the choice alone. `shared` is the width of an expert that takes every
    token, its output multiplied by a sigmoid of the token's own with `shared_gate`. Experts have no
    capacity here: what is dropped for want of a seat depends on the other rows of a batch and on
    padding, and a model's row must not.
    """

    experts: int
    top: int
    width: int
    activation: Activation
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    scale: float | None = None
    choice_bias: bool = False
    shared: int | None = None
    shared_gate: bool = False
    pre: Norm | None = None
    post: Norm | None = None
    after: Norm | None = None


Mlp = Gated | Plain | MoE


@dataclass(frozen=True)
class Layer:
    """Attention and mlp, one after the other or (`parallel`) side by side on the same input.

    `cross` stands between them, in a decoder that reads an encoder.
    """

    attention: Attention
    mlp: Mlp
    parallel: bool = False
    cross: Attention | None = None


@dataclass(frozen=True)
class Learned:
    """A vector for each of `size` positions, added to the tokens'; the first is row `offset`."""

    size: int
    offset: int = 0


@dataclass(frozen=True)
class Sinusoidal:
    """Sines and cosines of the position, added to the tokens' vectors, side by side or in turn."""

    theta: float = 10_000.0
    interleaved: bool = False


@dataclass(frozen=True)
class Stack:
    """Layers in order, what comes before the first, and the norm after the last."""

    layers: tuple[Layer, ...]
    final_norm: Norm | None
    positions: Learned | Sinusoidal | None = None
    first_norm: Norm | None = None


@dataclass(frozen=True)
class Embedding:
    """The token table; `scale` multiplies the vectors it gives. `types` is the rows of a second table,
    which says to which text of a pair a token belongs."""

    vocabulary: int
    width: int
    scale: float | None = None
    types: int | None = None


@dataclass(frozen=True)
class Dense:
    """A linear map of the width to itself, an activation and a norm: what a head may begin with."""

    activation: Activation | None
    bias: bool = True
    norm: Norm | None = None


@dataclass(frozen=True)
class LM:
    """Next-token logits; `tied` shares the token table, `scale` multiplies, `softcap` bounds by tanh."""

    tied: bool
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False


@dataclass(frozen=True)
class MaskedLM:
    """Logits of the token at each position."""

    tied: bool
    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Classify:
    """Logits of the labels of a whole text."""

    labels: int
    pooling: Pooling = "first"
    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Tag:
    """Logits of the labels of each token."""

    labels: int
    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Answer:
    """Two logits a token: that an answer starts there, and that it ends there."""

    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Pool:
    """One vector a text, of length 1 with `unit`."""

    pooling: Pooling = "mean"
    dense: Dense | None = None
    unit: bool = False


Head = LM | MaskedLM | Classify | Tag | Answer | Pool


@dataclass(frozen=True)
class Config:
    """A model; `context` is the length in tokens that it was made for.

    A decoder alone, an encoder alone, or a decoder whose layers read an encoder by `cross`.
    """

    embedding: Embedding
    decoder: Stack | None
    head: Head
    context: int
    encoder: Stack | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers, which are those that keep a cache."""
        return () if self.decoder is None else self.decoder.layers

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings, in the order of their first layer."""
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        found = (layer.attention.position for stack in stacks for layer in stack.layers)
        return tuple(dict.fromkeys(p for p in found if isinstance(p, Rope)))


# What a size may be: wide enough for any model that this code could run, narrow enough that a
# hostile file can't ask for absurd memory before a weight has been seen.
LIMITS = {
    "vocabulary": 2**20,
    "width": 2**20,
    "context": 2**24,
    "layers": 1024,
    "heads": 4096,
    "experts": 2**16,  # of all layers together
}


def _need(true: bool, message: str) -> None:
    if not true:
        raise ConfigError(message)


def _bounded(name: str, value: int, limit: int, least: int = 1) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _need(whole and least <= value <= limit, f"{name} must be {least} to {limit}, got {value!r:.40}")


def _positive(name: str, value: float) -> None:
    _need(value > 0, f"{name} must be positive, got {value!r}")


def check(config: Config) -> None:
    """Raise ConfigError when sizes contradict each other or leave their bounds."""
    _bounded("vocabulary", config.embedding.vocabulary, LIMITS["vocabulary"])
    _bounded("width", config.embedding.width, LIMITS["width"])
    _bounded("context", config.context, LIMITS["context"])
    if config.embedding.types is not None:
        _bounded("token types", config.embedding.types, LIMITS["vocabulary"])
    encoder, decoder, head = config.encoder, config.decoder, config.head
    _need(
        encoder is not None or decoder is not None, "a model must have an encoder or a decoder, got neither"
    )
    _need(
        isinstance(head, LM) == (decoder is not None),
        f"a decoder's head must be LM, an encoder's another one, got {type(head).__name__}",
    )
    if isinstance(head, Classify | Tag):
        _bounded("labels", head.labels, LIMITS["vocabulary"])
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        if stack is not None:
            _check_stack(name, stack, config, crossed=name == "decoder" and encoder is not None)


def _check_stack(name: str, stack: Stack, config: Config, *, crossed: bool) -> None:
    _bounded(f"{name}: number of layers", len(stack.layers), LIMITS["layers"])
    match stack.positions:
        case Learned(size, offset):
            _bounded(f"{name}: number of learned positions", size, LIMITS["context"], config.context)
            _bounded(f"{name}: offset of the learned positions", offset, LIMITS["context"], 0)
        case Sinusoidal(theta):
            _positive(f"{name}: theta of the positions", theta)
            width = config.embedding.width
            _need(width % 2 == 0, f"{name}: sinusoidal positions need an even width, got {width}")
        case None:
            pass
    for i, layer in enumerate(stack.layers):
        at = f"{name} layer {i}: "
        _check_attention(at, layer.attention)
        _check_mlp(at, layer.mlp)
        needs = "must be there, as the model has an encoder" if crossed else "needs a decoder with an encoder"
        _need((layer.cross is not None) == crossed, f"{at}cross-attention {needs}")
        if layer.cross is not None:
            _need(not layer.parallel, f"{at}cross-attention stands between the others, got parallel")
            _check_attention(f"{at}cross-attention: ", layer.cross)
            plain = (layer.cross.position, layer.cross.pattern, layer.cross.qk_norm) == (None, Full(), None)
            _need(plain, f"{at}cross-attention must have no position, pattern or norm of its heads")
    experts = sum(layer.mlp.experts for layer in stack.layers if isinstance(layer.mlp, MoE))
    _bounded(f"{name}: experts of all layers", experts, LIMITS["experts"], 0)
    attentions = [layer.attention for layer in stack.layers]
    shared = {(a.position, a.heads) for a in attentions if isinstance(a.position, RelativeBias)}
    _need(len(shared) <= 1, f"{name}: layers share one table of relative biases, got {len(shared)} kinds")


def _check_attention(at: str, a: Attention) -> None:
    _bounded(at + "heads", a.heads, LIMITS["heads"])
    _bounded(at + "groups", a.groups, LIMITS["heads"])
    _bounded(at + "head_size", a.head_size, LIMITS["width"])
    _need(
        a.heads % a.groups == 0,
        f"{at}heads must be a multiple of groups, got {a.heads} and {a.groups}",
    )
    if isinstance(a.pattern, Window):
        _bounded(at + "window", a.pattern.size, LIMITS["context"])
    match a.position:
        case Rope(theta, dims, scaling=scaling):
            _bounded(at + "rotary dims", dims, a.head_size)
            _need(dims % 2 == 0, f"{at}rotary dims must be even, got {dims}")
            _positive(at + "rotary theta", theta)
            _check_scaling(at, scaling, dims // 2)
        case Alibi(largest):
            _positive(at + "max_bias of ALiBi", largest)
        case RelativeBias(buckets, distance):
            _bounded(at + "buckets of the relative bias", buckets, LIMITS["context"], 4)
            _bounded(at + "max_distance of the relative bias", distance, LIMITS["context"], buckets // 2 + 1)
        case None:
            pass


def _check_mlp(at: str, mlp: Mlp) -> None:
    _bounded(at + "mlp width", mlp.width, LIMITS["width"])
    if isinstance(mlp, MoE):
        _bounded(at + "experts", mlp.experts, LIMITS["experts"])
        _bounded(at + "chosen experts", mlp.top, mlp.experts)
        if mlp.scale is not None:
            _positive(at + "scale of the experts' weights", mlp.scale)
        if mlp.shared is not None:
            _bounded(at + "width of the shared expert", mlp.shared, LIMITS["width"])
        _need(
            mlp.shared is not None or not mlp.shared_gate,
            f"{at}a shared expert's gate needs a shared expert, got none",
        )


def _check_scaling(at: str, scaling: Scaling | None, pairs: int) -> None:
    match scaling:
        case LinearScaling(factor):
            _positive(at + "factor of the rotary scaling", factor)
        case (
            DynamicNTK(factor, original)
            | Yarn(factor, original)
            | Llama3Scaling(factor, original_context=original)
        ):
            _positive(at + "factor of the rotary scaling", factor)
            _bounded(at + "original context of the rotary scaling", original, LIMITS["context"])
        case LongRope(short, long, original):
            _bounded(at + "original context of the rotary scaling", original, LIMITS["context"])
            for divisors in (short, long):
                fit = len(divisors) == pairs and all(d > 0 for d in divisors)
                _need(fit, f"{at}the rotary scaling needs {pairs} positive divisors, got {divisors!r:.80}")
        case None:
            pass


TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        RMSNorm, LayerNorm, LinearScaling, DynamicNTK, Yarn, LongRope, Llama3Scaling, Rope, Alibi,
        RelativeBias, Full, Window, Attention, Gated, Plain, MoE, Layer, Learned, Sinusoidal, Stack,
        Embedding, Dense, LM, MaskedLM, Classify, Tag, Answer, Pool, Config,
    )
}  # fmt: skip


def to_json(value: Any) -> Any:
    """The value as what `json.dumps` takes: dataclasses as dicts with a `type`."""
    if is_dataclass(value):
        items = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Config:
    """The Config that `to_json` wrote; ConfigError on anything that it can't have written."""
    config = _read(value, Config, "config")
    assert isinstance(config, Config)
    return config


def _read(value: Any, kind: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list, got {value!r:.80}")
        item = typing.get_args(kind)[0]
        return tuple(_read(v, item, f"{path}[{i}]") for i, v in enumerate(value))
    options = typing.get_args(kind) if origin in (typing.Union, types.UnionType) else (kind,)
    if isinstance(value, dict):
        named = {o.__name__: o for o in options if o in TYPES.values()}
        got = value.get("type")
        if not isinstance(got, str) or got not in named:
            raise ConfigError(f"{path}.type must be one of {sorted(named)}, got {got!r:.80}")
        made = named[got]
        known = {f.name: f for f in fields(made)}
        hints = typing.get_type_hints(made)
        given = {k: v for k, v in value.items() if k != "type"}
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(f"{path} has unknown fields {unknown}")
        read = {k: _read(v, hints[k], f"{path}.{k}") for k, v in given.items()}
        try:
            return made(**read)
        except TypeError as error:
            raise ConfigError(f"{path} lacks a field: {error}") from None
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is float and type(value) in (int, float) and abs(value) < 2**128:
            return float(value)
        if option in (int, bool, str, type(None)) and type(value) is option:
            return value
    if origin is Literal:
        raise ConfigError(f"{path} must be one of {typing.get_args(kind)}, got {value!r:.80}")
    raise ConfigError(f"{path} must be {kind}, got {value!r:.80}")
