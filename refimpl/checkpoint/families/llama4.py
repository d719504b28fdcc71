"""Llama 4 (Meta 2025), as text: most layers have rotary positions and see only one chunk of the text.

The layers between them see the whole text and have no positions (iRoPE). Queries and keys are normalized
after the rotation, without a weight. Queries of layers without a rotation are scaled by their position. Some
or all layers have a mixture of a shared expert and one chosen expert. The router's sigmoid multiplies the
chosen expert's input.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...config import (
    Attention,
    Chunked,
    Decoder,
    FullAttention,
    Gated,
    HeadNorm,
    Layer,
    MoE,
    QueryScale,
    Rope,
)
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, Row, always, experts, fixed
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_rope import DIVISORS, rope_scaling
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import rotated_layers, stated_types
from ..config_readers.text_part import TextModel, sizes, text_model
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("llama4", "llama4_text")
ARCHITECTURES: dict[str, Task] = {"Llama4ForConditionalGeneration": "lm", "Llama4ForCausalLM": "lm"}
PREFIX = ("language_model.model.", "language_model.", "model.")
THETA = 5e5


def config(keys: Keys, task: Task) -> Decoder:
    if keys.get("model_type", str) == "llama4_text":
        return TEXT.config(keys.with_defaults(TEXT.defaults), task)
    keys.unused("vision_config", "image_token_index", "boi_token_index", "eoi_token_index")
    # The text model's own key ties its tables, and no other.
    keys.get("tie_word_embeddings", bool, False)
    text = keys.get("text_config", dict, None) or {}
    own = keys.replaced({**keys.values, "tie_word_embeddings": text.get("tie_word_embeddings", False)})
    return text_model(own, task, {"llama4_text": TEXT, "llama4": TEXT}, "llama4_text", tied=False)


def _text(keys: Keys, task: Task) -> Decoder:
    # Of training, and of code that no class reads.
    keys.harmless(output_router_logits=(bool,), router_aux_loss_coef=(float,), router_jitter_noise=(float,))
    keys.harmless(for_llm_compressor=(bool,))
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        theta=THETA,
        eps=1e-5,
        head=128,
    )
    count, width = len(base.layers), keys.size("intermediate_size_mlp", 16_384)
    experts, top = keys.size("num_local_experts", 16), keys.size("num_experts_per_tok", 1)
    rotated, mixed = rotated_layers(keys, keys.get("no_rope_layers", list, None) or None), _mixed(keys, count)
    masks = _masks(keys, rotated)
    normed = keys.get("use_qk_norm", bool, True)
    keys.harmless(attn_temperature_tuning=(bool, int))  # a number in the first releases, of which 0 is false
    scale = None
    if keys.values.get("attn_temperature_tuning", True):
        scale = QueryScale(keys.positive("attn_scale", 0.1), keys.size("floor_scale", 8192), offset=1)
    else:
        keys.unused("attn_scale", "floor_scale")

    def mlp(i: int, mlp: Gated) -> Gated | MoE:
        return _mixture(mlp, experts, top, mlp.width) if mixed[i] else replace(mlp, width=width)

    return _build(base, masks, rotated, mlp, normed=normed, scale=scale)


def _mixture(mlp: Gated, experts: int, top: int, width: int) -> MoE:
    """Return a mixture of experts beside a shared expert of the same width."""
    return MoE(
        experts, top, width, mlp.activation, "sigmoid", renormalize=False, shared=width, weighs="input",
        **mlp.norms_around,
    )  # fmt: skip


def _build(
    base: Decoder,
    masks: list[FullAttention | Chunked],
    rotated: list[bool],
    mlp: Callable[[int, Gated], Gated | MoE],
    *,
    normed: bool,
    scale: QueryScale | None,
) -> Decoder:
    """Return the decoder with these masks and mlps. Layers that aren't rotated scale their queries."""

    def change(i: int, layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        position, norm = a.position, a.pre
        assert isinstance(position, Rope)
        assert isinstance(layer.mlp, Gated)
        assert norm is not None
        a = replace(a, mask=masks[i])
        if rotated[i]:
            qk_norm = HeadNorm(norm, rotated=True, weight=False) if normed else None
            a = replace(a, position=replace(position, interleaved=True), qk_norm=qk_norm)
        else:
            a = replace(a, position=None, query_scale=scale)
        return replace(layer, attention=a, mlp=mlp(i, layer.mlp))

    return map_layers(base, change)


def _mixed(keys: Keys, count: int) -> list[bool]:
    """Return which layers have experts: the layers of `moe_layers`, or every n-th layer."""
    every, stated = keys.size("interleave_moe_layer_step", 1), keys.get("moe_layers", list, None)
    if stated is None:
        return [(i + 1) % every == 0 for i in range(count)]
    if any(type(i) is not int or i < 0 for i in stated):
        raise keys.fail("moe_layers", "a list of layers, counted from 0")
    return [i in stated for i in range(count)]


def _masks(keys: Keys, rotated: list[bool]) -> list[FullAttention | Chunked]:
    """Return the mask of each layer, from `layer_types`. By default layers with a rotation see chunks."""
    size = keys.size("attention_chunk_size", 8192, null=True)
    kinds = ("full_attention", "chunked_attention")
    types = stated_types(keys, kinds)
    if types is None:
        types = [kinds[turned and size is not None] for turned in rotated]
    if size is None and kinds[1] in types:
        raise keys.fail("attention_chunk_size", "at least 1 if a layer has chunks")
    return [Chunked(size) if size and kind == kinds[1] else FullAttention() for kind in types]


TEXT = TextModel(_text, sizes(202_048, 5120, mlp=8192, layers=48, heads=40))
# All experts of a layer are in one tensor, inputs first.
MLP = {f"mlp.{name}_proj": f"feed_forward.{name}_proj" for name in ("gate", "up", "down")}
WEIGHTS = LLAMA.renamed(MLP) + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.feed_forward.router.weight : transpose
    decoder.layers.{i}.mlp.shared.gate <- layers.{i}.feed_forward.shared_expert.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- layers.{i}.feed_forward.shared_expert.up_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.feed_forward.shared_expert.down_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.feed_forward.experts.gate_up_proj[{e}]
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.feed_forward.experts.down_proj[{e}]
    left out <- {vision_model,multi_modal_projector}.*
""")


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    rope_freqs == rope_freqs.weight
""")
)


def _scaling(keys: Keys, source: TensorSource) -> dict[str, Any]:
    """Return the rotary keys. Scout's scaling divides a frequency or keeps it, with nothing in between."""
    stated = rope_scaling(keys, source, own_head_size(keys))
    if stated["rope_type"] == "llama3" and not set(source.load(DIVISORS).tolist()) - {1.0, stated["factor"]}:
        return {**stated, "high_freq_factor": 1.0}
    return stated


# The metadata lack what llama.cpp has as constants: chunks of 8,192 tokens in three of four layers, which are
# rotated, how queries of the others are scaled, and which models have norms of queries and keys.
KEYS = {
    **DECODER,
    **experts("num_local_experts"),
    "model_type": fixed("llama4_text"),
    "rope_scaling": Row(_scaling),
    "intermediate_size": "expert_feed_forward_length",
    "intermediate_size_mlp": "feed_forward_length",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "use_qk_norm": Row(lambda keys, _: keys.size("expert_count") != 128),
    "attention.sliding_window": always("attention.sliding_window", 8192, told=False),
}
GGUF = Gguf("llama4", KEYS, GGUF_WEIGHTS)
