"""Granite 3 (IBM 2024): Llama's decoder, with multipliers of embeddings, scores, sublayers and logits."""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Decoder
from ..config_readers.decoder import decoder, gguf_decoder, map_layers
from ..config_readers.gguf_metadata import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .llama import WEIGHTS

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("granite",)
ARCHITECTURES: dict[str, Task] = decoders("Granite", tasks=())
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", None),
        context=2048,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=keys.get("mlp_bias", bool, False),
    )
    return with_multipliers(
        base,
        embedding=keys.positive("embedding_multiplier", 1.0),
        scores=keys.positive("attention_multiplier", 1.0),
        sublayers=keys.positive("residual_multiplier", 1.0),
        logits=keys.positive("logits_scaling", 1.0),
    )


def with_multipliers(
    base: Decoder, *, embedding: float, scores: float | None, sublayers: float, logits: float
) -> Decoder:
    """The decoder with its multipliers; logits are divided by theirs."""
    assert isinstance(base.head, LM)
    scaled = map_layers(
        base,
        lambda _, layer: replace(
            layer,
            attention=replace(layer.attention, scale=scores),
            scale=None if sublayers == 1 else sublayers,
        ),
    )
    return replace(
        scaled,
        embedding=replace(base.embedding, scale=None if embedding == 1 else embedding),
        head=replace(base.head, scale=None if logits == 1 else 1 / logits),
    )


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    return with_multipliers(
        gguf_decoder(keys, source),
        embedding=keys.positive("embedding_scale", 1.0),
        scores=keys.positive("attention.scale", None),
        sublayers=keys.positive("residual_scale", 1.0),
        logits=keys.positive("logit_scale", 1.0),
    )


GGUF = Gguf("granite", gguf_config, PERMUTED_QK_WEIGHTS)
