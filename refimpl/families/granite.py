"""Granite 3 (IBM 2024): Llama's decoder, with multipliers of embeddings, scores, sublayers and logits."""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Decoder, Layer, MoE
from ..config_readers.decoder import decoder, gguf_decoder, map_attention, map_layers
from ..config_readers.gguf_metadata import PERMUTED_QK_WEIGHTS
from ..config_readers.gguf_moe import with_gguf_experts
from ..config_readers.keys import Keys
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .llama import WEIGHTS

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("granite",)
ARCHITECTURES: dict[str, Task] = decoders("Granite", tasks=())
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    return granite(keys, mlp_bias=keys.get("mlp_bias", bool, False))


def granite(keys: Keys, *, mlp_bias: bool) -> Decoder:
    """The decoder that all Granites are based on, with its multipliers."""
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", None),
        context=2048,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=mlp_bias,
    )
    return _with_multipliers(
        base,
        embedding=keys.positive("embedding_multiplier", 1.0),
        scores=keys.positive("attention_multiplier", 1.0),
        sublayers=keys.positive("residual_multiplier", 1.0),
        logits=keys.positive("logits_scaling", 1.0),
    )


def _with_multipliers(
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


def with_shared_expert(layer: Layer, width: int | None) -> Layer:
    """The layer, its mixture with an expert of this width that takes every token, if any."""
    mlp = layer.mlp
    assert isinstance(mlp, MoE)
    return replace(layer, mlp=replace(mlp, shared=width))


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """From GGUF's metadata, also of a Granite 4 without state layers, which the converter gives this name.

    Such a file has the sizes of state layers all the same.
    """
    keys.unused(*(f"ssm.{size}" for size in STATE_SIZES))
    base = gguf_decoder(keys, source)
    if not keys.get("rope.scaling.finetuned", bool, True):  # here it says whether there are positions
        base = map_attention(base, lambda _, attention: replace(attention, position=None))
    if keys.get("expert_count", int, 0):
        base = with_gguf_experts(base, keys, source, lambda width, _: width, renormalize=True)
        shared = keys.size("expert_shared_feed_forward_length", None)
        base = map_layers(base, lambda _, layer: with_shared_expert(layer, shared))
    else:
        keys.unused("expert_used_count", "expert_shared_feed_forward_length")
    return _with_multipliers(
        base,
        embedding=keys.positive("embedding_scale", 1.0),
        scores=keys.positive("attention.scale", None),
        sublayers=keys.positive("residual_scale", 1.0),
        logits=keys.positive("logit_scale", 1.0),
    )


STATE_SIZES = ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")
BY_LAYER = ("attention.head_count_kv",)
GGUF = Gguf("granite", gguf_config, PERMUTED_QK_WEIGHTS, by_layer=BY_LAYER)
