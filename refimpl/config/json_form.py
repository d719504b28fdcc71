"""A Config as JSON and back, exact inverses: each value carries its class name as `type`."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal

from ..errors import ConfigError
from .heads import LM, AdaptiveSoftmax, Classify, Dense, MaskedLM, Pool, QuestionAnswering, Tag
from .layers import AltUp, Beside, Laurel, Layer, NeighbourConv, PerLayerInput
from .masks import BigBirdBlocks, BlockSparse, Chunked, FullAttention, Window
from .mlps import XIELU, ClampedSwiGLU, ExpertGroups, Gated, MoE, NoMlp, Plain, SparseMixer
from .model import Config, Decoder, Encoder, EncoderDecoder
from .mtp import MTP
from .norms import HeadNorm, LayerNorm, RMSNorm
from .positions import (
    Alibi,
    DynamicNTK,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    QueryScale,
    RelativeBias,
    Rope,
    Sinusoidal,
    Yarn,
)
from .stack import DecoderReader, Embedding, EmbeddingProjection, PerLayerEmbedding, Stack
from .token_mixers import (
    LSTM,
    Attention,
    DisentangledAttention,
    Distances,
    FirstToken,
    GatedDelta,
    Indexer,
    LatentAttention,
    LinearAttention,
    LongformerAttention,
    LongT5Attention,
    Mamba,
    Mamba2,
    QuestionTokens,
    SharedIndexer,
    ShortConv,
    XLNetAttention,
)

TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        RMSNorm, LayerNorm, LinearScaling, DynamicNTK, Yarn, LongRope, Llama3Scaling, Rope, Alibi,
        RelativeBias, QueryScale, HeadNorm, FullAttention, Window, BlockSparse, Attention, LinearAttention,
        LSTM, ShortConv, GatedDelta, Mamba2, LatentAttention, Gated, Plain, ClampedSwiGLU, ExpertGroups, MoE,
        NoMlp, Layer, Learned, Sinusoidal, Stack, EmbeddingProjection, Embedding, DecoderReader, Dense,
        AdaptiveSoftmax, LM, MaskedLM, Classify, Tag, QuestionAnswering, Pool, Decoder, Encoder,
        EncoderDecoder, XIELU, Distances, DisentangledAttention, NeighbourConv, Chunked,
        FirstToken, QuestionTokens, LongformerAttention, Beside,
        ProportionalScaling, Mamba, PerLayerInput, PerLayerEmbedding, Indexer, Laurel, AltUp, MTP,
        BigBirdBlocks, SharedIndexer, LongT5Attention, SparseMixer, XLNetAttention,
    )
}  # fmt: skip


def to_json(value: Any) -> Any:
    """The value in the form that `json.dumps` takes: dataclasses as dicts with a `type`."""
    if is_dataclass(value):
        items = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Config:
    """The Config that `to_json` wrote; ConfigError for anything that it can't have written."""
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
        name = value.get("type")
        if not isinstance(name, str) or name not in named:
            raise ConfigError(f"{path}.type must be one of {sorted(named)}, got {name!r:.80}")
        cls = named[name]
        hints = _hints(cls)
        items = {k: v for k, v in value.items() if k != "type"}
        if unknown := sorted(set(items) - {f.name for f in fields(cls)}):
            raise ConfigError(f"{path} has unknown fields {unknown}")
        arguments = {k: _read(v, hints[k], f"{path}.{k}") for k, v in items.items()}
        try:
            return cls(**arguments)
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


# A Config has hundreds of parts of few classes, and hints are evaluated from texts.
_hints = cache(typing.get_type_hints)
