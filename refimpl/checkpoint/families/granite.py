"""Granite 3 (IBM 2024): Llama's decoder, with multipliers for embeddings, scores, sublayers and logits."""

from dataclasses import replace

from ...config import LM, Decoder, Layer, MoE
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, Row, Table, always, experts, experts_width, fixed, optional
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("granite",)
ARCHITECTURES: dict[str, Task] = decoders("Granite", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    return granite(keys, mlp_bias=keys.get("mlp_bias", bool, False))


def granite(keys: Keys, *, mlp_bias: bool) -> Decoder:
    """Return the decoder that all Granite models are based on, with its multipliers."""
    base = decoder(keys, context=2048, mlp_bias=mlp_bias)
    return _with_multipliers(
        base,
        embedding=keys.positive("embedding_multiplier", 1.0),
        scores=keys.positive("attention_multiplier", None if keys.of_gguf else 1.0),
        sublayers=keys.positive("residual_multiplier", 1.0),
        logits=keys.positive("logits_scaling", 1.0),
    )


def _with_multipliers(
    base: Decoder, *, embedding: float, scores: float | None, sublayers: float, logits: float
) -> Decoder:
    """Return the decoder with multipliers. Logits are divided by theirs; other values are multiplied."""
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
    """Return the layer with a shared expert of this `width` in its mixture. None means no shared expert."""
    mlp = layer.mlp
    assert isinstance(mlp, MoE)
    return replace(layer, mlp=replace(mlp, shared=width))


STATE_SIZES = ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")
BY_LAYER = ("attention.head_count_kv",)


def _positions(keys: Keys, _: TensorSource) -> str:
    """Return the type of positions. In GGUF a key of rotary scaling says whether the model has positions."""
    return "rope" if keys.get(ROTATED, bool, True) else "nope"


ROTATED, SHARED = "rope.scaling.finetuned", "expert_shared_feed_forward_length"
GRANITE = {
    **DECODER,
    "model_type": fixed("granite"),
    "embedding_multiplier": optional("embedding_scale"),
    "attention_multiplier": optional("attention.scale"),
    "residual_multiplier": optional("residual_scale"),
    "logits_scaling": optional("logit_scale"),
}
MOE = {
    **GRANITE,
    **experts("num_local_experts"),
    "model_type": fixed("granitemoe"),
    "intermediate_size": experts_width(lambda width, _: width),
    "expert_weights_norm": always("expert_weights_norm", True, told=False),
}
HYBRID = {
    "model_type": fixed("granitemoehybrid"),
    "position_embedding_type": Row(_positions),
    "layer_types": Row(lambda keys, _: ["attention"] * layer_count(keys, "block_count")),
}
HYBRID_MOE = {**MOE, **HYBRID, "shared_intermediate_size": SHARED}
HYBRID_DENSE = {
    **GRANITE,
    **HYBRID,
    "num_local_experts": fixed(0),
    "shared_intermediate_size": "feed_forward_length",
}


def table(keys: Keys) -> Table:
    """Return GGUF's table for the Granite family that the file contains.

    llama.cpp's converter gives several families one architecture name. Among them are Granite 4 models
    without state layers, and these files still have the sizes of state layers."""
    keys.unused(*(f"ssm.{size}" for size in STATE_SIZES))
    mixed, rotated = keys.get("expert_count", int, 0), keys.get(ROTATED, bool, True)
    if mixed:
        return MOE if rotated and SHARED not in keys else HYBRID_MOE
    keys.unused("expert_used_count", SHARED)
    return GRANITE if rotated else HYBRID_DENSE


GGUF = Gguf("granite", table, PERMUTED_QK_WEIGHTS, by_layer=BY_LAYER)
