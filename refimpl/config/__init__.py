"""The blueprint of a model: frozen dataclasses, standard library only.

A Config is a Decoder, an Encoder or an EncoderDecoder. Nothing is stored that can be derived, and unions of
small types rule out combinations that make no sense. `to_json` and `from_json` are exact inverses: each value
carries its class name as `type`, and an unknown field is a `ConfigError`.
"""

from .heads import LM, Classify, Dense, Head, MaskedLM, Pool, Pooling, QuestionAnswering, ReadingHead, Tag
from .json_form import TYPES, from_json, to_json
from .layers import (
    Activation,
    Attention,
    FullAttention,
    Gated,
    HeadNorm,
    KVFormat,
    Layer,
    LayerNorm,
    Mlp,
    MoE,
    Norm,
    Plain,
    RMSNorm,
    Window,
)
from .model import Config, Decoder, Encoder, EncoderDecoder
from .positions import (
    Alibi,
    DynamicNTK,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    Position,
    RelativeBias,
    Rope,
    Scaling,
    Sinusoidal,
    Yarn,
)
from .stack import DecoderReader, Embedding, EmbeddingProjection, Stack
from .validate import LIMITS

__all__ = [
    "LIMITS",
    "LM",
    "TYPES",
    "Activation",
    "Alibi",
    "Attention",
    "Classify",
    "Config",
    "Decoder",
    "DecoderReader",
    "Dense",
    "DynamicNTK",
    "Embedding",
    "EmbeddingProjection",
    "Encoder",
    "EncoderDecoder",
    "FullAttention",
    "Gated",
    "Head",
    "HeadNorm",
    "KVFormat",
    "Layer",
    "LayerNorm",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LongRope",
    "MaskedLM",
    "Mlp",
    "MoE",
    "Norm",
    "Plain",
    "Pool",
    "Pooling",
    "Position",
    "QuestionAnswering",
    "RMSNorm",
    "ReadingHead",
    "RelativeBias",
    "Rope",
    "Scaling",
    "Sinusoidal",
    "Stack",
    "Tag",
    "Window",
    "Yarn",
    "from_json",
    "to_json",
]
