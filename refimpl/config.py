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

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


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
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a linear blend between the two."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class Rope:
    """Rotary positions over the first `dims` elements of a head."""

    theta: float
    dims: int
    interleaved: bool = False
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclass(frozen=True)
class Full:
    """Every earlier position is seen."""


@dataclass(frozen=True)
class Window:
    """The `size` latest positions are seen, the current one included."""

    size: int


@dataclass(frozen=True)
class Attention:
    """One attention sublayer; `scale` None means 1/sqrt(head_size)."""

    heads: int
    groups: int
    head_size: int
    position: Rope | None = None
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


Mlp = Gated | Plain


@dataclass(frozen=True)
class Layer:
    """Attention and mlp, one after the other or (`parallel`) side by side on the same input."""

    attention: Attention
    mlp: Mlp
    parallel: bool = False


@dataclass(frozen=True)
class Stack:
    """Layers in order, and the norm after the last."""

    layers: tuple[Layer, ...]
    final_norm: Norm | None


@dataclass(frozen=True)
class Embedding:
    """The token table; `scale` multiplies the vectors it gives."""

    vocabulary: int
    width: int
    scale: float | None = None


@dataclass(frozen=True)
class LM:
    """Next-token logits; `tied` shares the token table, `softcap` bounds by tanh."""

    tied: bool
    softcap: float | None = None


@dataclass(frozen=True)
class Config:
    """A decoder-only model; `context` is the length in tokens that it was made for."""

    embedding: Embedding
    decoder: Stack
    head: LM
    context: int

    def __post_init__(self) -> None:
        check(self)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different rotary settings, in the order of their first layer."""
        found = (layer.attention.position for layer in self.decoder.layers)
        return tuple(dict.fromkeys(rope for rope in found if rope is not None))


# What a size may be: wide enough for any model that this code could run, narrow enough that a
# hostile file can't ask for absurd memory before a weight has been seen.
LIMITS = {"vocabulary": 2**20, "width": 2**20, "context": 2**24, "layers": 1024, "heads": 4096}


def check(config: Config) -> None:
    """Raise ConfigError when sizes contradict each other or leave their bounds."""

    def need(true: bool, message: str) -> None:
        if not true:
            raise ConfigError(message)

    def bounded(name: str, value: int, limit: int) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        need(whole and 1 <= value <= limit, f"{name} must be 1 to {limit}, got {value!r:.40}")

    bounded("vocabulary", config.embedding.vocabulary, LIMITS["vocabulary"])
    bounded("width", config.embedding.width, LIMITS["width"])
    bounded("context", config.context, LIMITS["context"])
    bounded("number of layers", len(config.decoder.layers), LIMITS["layers"])
    for i, layer in enumerate(config.decoder.layers):
        a, at = layer.attention, f"layer {i}: "
        bounded(at + "heads", a.heads, LIMITS["heads"])
        bounded(at + "groups", a.groups, LIMITS["heads"])
        bounded(at + "head_size", a.head_size, LIMITS["width"])
        bounded(at + "mlp width", layer.mlp.width, LIMITS["width"])
        need(
            a.heads % a.groups == 0,
            f"{at}heads must be a multiple of groups, got {a.heads} and {a.groups}",
        )
        if isinstance(a.pattern, Window):
            bounded(at + "window", a.pattern.size, LIMITS["context"])
        if a.position is not None:
            dims = a.position.dims
            bounded(at + "rotary dims", dims, a.head_size)
            need(dims % 2 == 0, f"{at}rotary dims must be even, got {dims}")
            need(
                a.position.theta > 0,
                f"{at}rotary theta must be positive, got {a.position.theta!r}",
            )
            scaling = a.position.scaling
            need(
                scaling is None or scaling.factor > 0,
                f"{at}factor of the rotary scaling must be positive, got {scaling and scaling.factor!r}",
            )


TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        RMSNorm, LayerNorm, LinearScaling, Llama3Scaling, Rope, Full, Window, Attention,
        Gated, Plain, Layer, Stack, Embedding, LM, Config,
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
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{path} must be one of {typing.get_args(kind)}, got {value!r:.80}")
        return value
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
        if option is float and type(value) in (int, float) and abs(value) < 2**128:
            return float(value)
        if option in (int, bool, str, type(None)) and type(value) is option:
            return value
    raise ConfigError(f"{path} must be {kind}, got {value!r:.80}")
