"""Gemma 4 (Google 2026), as text: Gemma 3's layers, with normalized values.

Scores aren't scaled, because the norms of queries and keys have learned their scale. Layers that see the
whole text have another number and size of heads than layers with a window. In them the slowest rotary pairs
aren't rotated, and keys may serve as values too. Each layer multiplies its output by a learned number. In the
smaller models, the upper layers read the keys and values of the last lower layer with the same mask, and each
layer has a separate vector for each token. A mixture of experts may be beside the mlp.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...config import (
    LM,
    Attention,
    Decoder,
    Embedding,
    Gated,
    HeadNorm,
    Layer,
    MoE,
    PerLayerEmbedding,
    PerLayerInput,
    RMSNorm,
    Stack,
)
from ...errors import ConfigError
from ..config_readers.gguf_keys import (
    COMMON,
    RMS_EPS,
    THETA,
    THETA_NEAR,
    Row,
    fixed,
    has,
    optional,
    sliding_layers,
)
from ..config_readers.gguf_metadata import gguf_rows
from ..config_readers.gguf_weights import EXPERTS as EXPERT_TENSORS
from ..config_readers.keys import ABSENT, ACTIVATIONS, Keys
from ..config_readers.layers import (
    LAYER_TYPES,
    kv_sources,
    layer_masks,
    layer_sizes,
    layer_types,
    read_window,
)
from ..config_readers.rope import exact_context, nested_ropes
from ..config_readers.text_part import TextModel, sizes, text_model
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .gemma2 import GGUF_WEIGHTS as SANDWICHED
from .llama import QK_NORM, TRUNK

MODEL_TYPES = ("gemma4_text", "gemma4")
ARCHITECTURES: dict[str, Task] = {
    "Gemma4ForCausalLM": "lm",
    "Gemma4ForConditionalGeneration": "lm",
    "Gemma4TextModel": "pool",
    "Gemma4Model": "pool",
}
PREFIX = ("model.language_model.", "language_model.", "model.")
ROPES: Mapping[str, Mapping[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}


def config(keys: Keys, task: Task) -> Decoder:
    if keys.get("model_type", str) == "gemma4_text":
        return TEXT.config(keys, task)
    ignore_other_parts(keys)
    return text_model(keys, task, {"gemma4_text": TEXT}, "gemma4_text", tied=True)


def ignore_other_parts(keys: Keys) -> None:
    """Mark keys as known that concern images and sound, or the tokens around them or in their place."""
    keys.unused(
        "vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id", "video_token_id",
        "boa_token_id", "eoa_token_index", "eoa_token_id", "audio_token_id", "vision_soft_tokens_per_image",
    )  # fmt: skip


class Heads(NamedTuple):
    """The number of key/value heads of a layer, and the size of its heads."""

    kv_heads: int
    size: int


def _text(keys: Keys, task: Task) -> Decoder:
    keys.harmless(expert_intermediate_size=(None,))  # of the mixtures, under an older name
    # "vision": tokens of one image see each other, of which a text has none.
    if keys.get("use_bidirectional_attention", str, None) not in (None, "vision"):
        raise keys.fail(
            "use_bidirectional_attention", 'null or "vision": with other values, tokens see later tokens'
        )
    types = layer_types(keys, lambda i: (i + 1) % 6 != 0)
    if not keys.of_gguf:  # for transformers the last layer sees the whole text, whatever is stated
        types = [*types[:-1], "full_attention"]
    sources = kv_sources(keys, types, 0)
    same = keys.get("attention_k_eq_v", bool, False)
    heads = _heads(keys, types, same)
    context = keys.size("max_position_embeddings", 131_072)
    positions = nested_ropes(keys, {kind: heads[kind].size for kind in heads}, context, ROPES)
    norm, width = RMSNorm(keys.positive("rms_norm_eps", 1e-6)), keys.size("hidden_size")
    bias = keys.get("attention_bias", bool, False)
    activation = keys.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    widths = layer_sizes(keys, "intermediate_size", len(types))
    mlp = Gated(widths[0], activation, pre=norm, post=norm)
    twice = keys.get("use_double_wide_mlp", bool, False)
    vectors, mixture = _per_layer(keys), _mixture(keys, mlp)
    masks = layer_masks(keys, types, read_window(keys, 512, everywhere=False))
    layers = []
    for kind, mask, source, width_of_mlp in zip(types, masks, sources, widths, strict=True):
        own = source is None
        attention = Attention(
            heads=keys.size("num_attention_heads"),
            kv_heads=heads[kind].kv_heads,
            head_size=heads[kind].size,
            position=positions[kind],
            mask=mask,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=HeadNorm(norm),
            scale=1.0,
            value_norm=norm if own else None,
            keys_as_values=own and same and kind == "full_attention",
            kv_layer=source,
            pre=norm,
            post=norm,
        )
        inner = width_of_mlp * (2 if twice and not own else 1)
        feed = replace(mlp, width=inner) if mixture is None else replace(mixture, shared=inner)
        per_layer = None if vectors is None else PerLayerInput(vectors.width, activation, norm)
        layers.append(Layer(attention, feed, scalar=True, per_layer=per_layer))
    table = None if vectors is None else PerLayerEmbedding(vectors.rows, norm)
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width, scale=width**0.5, per_layer=table),
        stack=Stack(tuple(layers), norm),
        head=LM(
            keys.get("tie_word_embeddings", bool, True),
            softcap=keys.positive("final_logit_softcapping", None),
        ),
        context=exact_context(context, *positions.values()),
    )


def _mixture(keys: Keys, mlp: Gated) -> MoE | None:
    """Return the mixture of experts beside the mlp, or None. The mlp is the mixture's shared expert."""
    if not keys.get("enable_moe_block", bool, False):
        keys.unused("num_experts", "top_k_experts", "moe_intermediate_size")
        return None
    assert isinstance(mlp.post, RMSNorm)
    return MoE(
        experts=keys.size("num_experts"),
        top=keys.size("top_k_experts"),
        width=keys.size("moe_intermediate_size"),
        activation=mlp.activation,
        shared=mlp.width,
        own_norms=mlp.post,
        expert_scale=True,
        post=mlp.post,
    )


class Vectors(NamedTuple):
    """The table of per-layer token vectors: the number of tokens that have vectors, and the vectors'
    width.
    """

    rows: int
    width: int


def _per_layer(keys: Keys) -> Vectors | None:
    width = keys.get("hidden_size_per_layer_input", int, 256, null=True)
    rows = keys.size("vocab_size_per_layer_input", 262_144)
    if not width:
        return None
    width = keys.size("hidden_size_per_layer_input", 256)
    if rows < (vocabulary := keys.size("vocab_size")):
        raise keys.fail("vocab_size_per_layer_input", f"at least vocab_size ({vocabulary})")
    return Vectors(rows, width)


def _heads(keys: Keys, types: list[str], same: bool) -> dict[str, Heads]:
    """Return the heads of each type of layer that the model has.

    Layers that see the whole text have `global_head_dim`. If keys serve as values (`same`), they also have
    `num_global_key_value_heads`. If transformers writes differences between layers as `per_layer_config`, it
    reads neither key.
    """
    usual = Heads(keys.size("num_key_value_heads", 4), keys.size("head_dim", 256))
    by_layer = keys.get("per_layer_config", dict, None)
    size, count = keys.size("global_head_dim", 512), keys.size("num_global_key_value_heads", None)
    if by_layer is None:
        full = Heads(count if same and count else usual.kv_heads, size)
        by_type = {"full_attention": full, "sliding_attention": usual}
        return {kind: by_type[kind] for kind in dict.fromkeys(types)}
    where = f"{keys.where}: per_layer_config"
    # Numbers of layers have one width there: 05, 11.
    layers, found = Keys({key.lstrip("0") or "0": value for key, value in by_layer.items()}, where), {}
    for i, kind in enumerate(types):
        inner = Keys(layers.get(str(i), dict, {}), f"{where}.{i}")
        own = Heads(inner.size("num_key_value_heads", usual.kv_heads), inner.size("head_dim", usual.size))
        inner.finish({})
        if found.setdefault(kind, own) != own:
            raise keys.fail("per_layer_config", f"the same for each layer of {kind}")
    layers.finish({})
    return found


TEXT = TextModel(_text, sizes(262_144, 2304, mlp=9216, layers=30, heads=8))
SANDWICH = weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{attention,feedforward}_layernorm.weight
    decoder.layers.{i}.mlp_pre.weight <- layers.{i}.pre_feedforward_layernorm.weight
""")
SCALAR = weight_map("""
    decoder.layers.{i}.scalar <- layers.{i}.layer_scalar
""")
EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.router.proj.weight : transpose
    decoder.layers.{i}.mlp.{router_norm,expert_scale} <- layers.{i}.router.{scale,per_expert_scale}
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.experts.gate_up_proj[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.experts.down_proj[{e}] : transpose
    decoder.layers.{i}.mlp.experts_{pre,post} <- layers.{i}.{pre,post}_feedforward_layernorm_2.weight
    decoder.layers.{i}.mlp.shared.{gate,up,down} <- layers.{i}.mlp.{gate,up,down}_proj.weight : transpose
    decoder.layers.{i}.mlp.shared_pre <- layers.{i}.pre_feedforward_layernorm.weight
    decoder.layers.{i}.mlp.shared_post <- layers.{i}.post_feedforward_layernorm_1.weight
""")
PER_LAYER = weight_map("""
    embedding.per_layer.{table,norm} <- {embed_tokens_per_layer,per_layer_projection_norm}.weight
    embedding.per_layer.project <- per_layer_model_projection.weight : transpose
    decoder.layers.{i}.per_layer.gate <- layers.{i}.per_layer_input_gate.weight : transpose
    decoder.layers.{i}.per_layer.project <- layers.{i}.per_layer_projection.weight : transpose
    decoder.layers.{i}.per_layer_post.weight <- layers.{i}.post_per_layer_input_norm.weight
""")
# Checkpoints may have maps to keys and values in layers that read another's; transformers ignores them.
IGNORED = weight_map("""
    nothing <- layers.{i}.self_attn.{k_proj,v_proj,k_norm}.weight
    nothing <- layers.{i}.self_attn.{k,v}_proj.bias
""")
LEFT_OUT = weight_map("""
    left out <- {vision_tower,embed_vision,audio_tower,embed_audio}.*
""")
WEIGHTS = TRUNK + QK_NORM + SANDWICH + SCALAR + EXPERTS + PER_LAYER + IGNORED + LEFT_OUT


SLIDES, KV_HEADS, WIDTHS = (
    "attention.sliding_window_pattern",
    "attention.head_count_kv",
    "feed_forward_length",
)
ROWS, DIVISORS = "per_layer_token_embd.weight", "rope_freqs.weight"


GGUF_PER_LAYER = weight_map("""
    embedding.per_layer.{table,norm} <- per_layer_{token_embd,proj_norm}.weight
    embedding.per_layer.project <- per_layer_model_proj.weight : transpose
    decoder.layers.{i}.per_layer.{gate,project} <- blk.{i}.{inp_gate,proj}.weight : transpose
    decoder.layers.{i}.per_layer_post.weight <- blk.{i}.post_norm.weight
""")
GGUF_EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.{router_norm,expert_scale} <- blk.{i}.ffn_{gate_inp,down_exps}.scale
    decoder.layers.{i}.mlp.experts_{pre,post} <- blk.{i}.{pre,post}_ffw_norm_2.weight
    decoder.layers.{i}.mlp.shared.{gate,up,down} <- blk.{i}.ffn_{gate,up,down}.weight : transpose
    decoder.layers.{i}.mlp.shared_{pre,post} <- blk.{i}.{ffn_norm,post_ffw_norm_1}.weight
""")
GGUF_SCALAR = weight_map("""
    decoder.layers.{i}.scalar <- blk.{i}.layer_output_scale.weight
    nothing <- rope_freqs.weight
""")
GGUF_UNREAD = weight_map("""
    nothing <- blk.{i}.attn_{k,v,k_norm}.weight
""")


def _sizes(keys: Keys) -> dict[str, int]:
    """Return the size of heads by type of layer. `_swa` in a key means layers with a window."""
    sizes = {}
    for kind, end in zip(LAYER_TYPES, ("", "_swa"), strict=True):
        sizes[kind] = size = keys.size(f"attention.key_length{end}")
        for key in (f"attention.value_length{end}", f"rope.dimension_count{end}"):
            keys.restated(key, size, f"the head's size ({size})")
    return sizes


def _heads_by_layer(keys: Keys, source: TensorSource) -> dict[str, dict[str, int]]:
    types, sizes = TYPES.read(keys, source), _sizes(keys)
    counts = layer_sizes(keys, KV_HEADS, len(types))
    return {
        str(i): {"num_key_value_heads": count, "head_dim": sizes[kind]}
        for i, (count, kind) in enumerate(zip(counts, types, strict=True))
    }


def _rotary(keys: Keys, source: TensorSource) -> dict[str, dict[str, Any]]:
    """Return the rotary keys of each type of layer.

    In layers that see the whole text, some pairs aren't rotated: the file divides their frequencies by a huge
    number."""
    pairs = _sizes(keys)["full_attention"] // 2
    divisors = source.load(DIVISORS) if DIVISORS in source.names else np.zeros(0)
    turned = int(np.sum(divisors == 1))
    if divisors.shape != (pairs,) or not turned or not (divisors[turned:] >= 1e29).all():
        raise ConfigError(
            f"{keys.where}: {DIVISORS} must have {pairs} divisors: first the number 1, then very large "
            "numbers"
        )
    near, far = keys.positive(THETA_NEAR, 10_000.0), keys.positive(THETA, 10_000.0)
    # Whoever rounds a product with the pairs down gets the number back.
    share = min((turned + 0.5) / pairs, 1.0)
    return {
        "full_attention": {"rope_type": "proportional", "rope_theta": far, "partial_rotary_factor": share},
        "sliding_attention": {"rope_type": "default", "rope_theta": near},
    }


def _same(keys: Keys, source: TensorSource) -> bool:
    """Return whether keys serve as values in layers that see the whole text."""
    types, names = TYPES.read(keys, source), set(source.names)
    own = types[: len(types) - keys.get(READERS, int, 0)]
    return any(
        kind == "full_attention" and f"blk.{i}.attn_v.weight" not in names for i, kind in enumerate(own)
    )


def _of_experts(key: str) -> Row:
    """Return the row of a key that only files with experts have."""
    return Row(lambda keys, source: keys.stated(key) if ROUTER in source.names else ABSENT, key)


def _rows(keys: Keys, source: TensorSource) -> Any:
    return gguf_rows(keys, source, ROWS) if keys.get(VECTORS, int, 0) else ABSENT


TYPES = sliding_layers(6)
READERS, VECTORS = "attention.shared_kv_layers", "embedding_length_per_layer_input"
ROUTER = "blk.0.ffn_gate_inp.weight"
KEYS = {
    **COMMON,
    "model_type": fixed("gemma4_text"),
    "intermediate_size": WIDTHS,
    "rms_norm_eps": RMS_EPS,
    "layer_types": TYPES,
    "sliding_window": optional("attention.sliding_window", None),
    "num_kv_shared_layers": optional(READERS, 0),
    "per_layer_config": Row(_heads_by_layer, KV_HEADS),
    "attention_k_eq_v": Row(_same),
    "rope_parameters": Row(_rotary),
    "hidden_size_per_layer_input": optional(VECTORS, 0),
    "vocab_size_per_layer_input": Row(_rows),
    "enable_moe_block": has(ROUTER),
    "num_experts": _of_experts("expert_count"),
    "top_k_experts": _of_experts("expert_used_count"),
    "moe_intermediate_size": _of_experts("expert_feed_forward_length"),
    "final_logit_softcapping": optional("final_logit_softcapping", 30.0),
}
GGUF = Gguf(
    "gemma4",
    KEYS,
    SANDWICHED + GGUF_EXPERTS + EXPERT_TENSORS + GGUF_PER_LAYER + GGUF_SCALAR + GGUF_UNREAD,
    by_layer=(WIDTHS, KV_HEADS, SLIDES),
)
