"""MiMo-V2-Flash (Xiaomi 2025): GLM-4.5's experts without a shared expert. Most layers have a sliding window.

Layers with a window have twice as many key heads, and sinks. Values are narrower than keys. Here zeros make
values as wide as keys, so that a cache has one size. For the published model, the cache grows by a fifth. tfm
leaves out the module that predicts further tokens.
"""

from dataclasses import replace

from ...config import Attention, Decoder, Window
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import (
    DECODER,
    SIGMOID,
    Row,
    always,
    experts,
    fixed,
    mlp_types,
    optional,
    scores,
    sliding_layers,
    thetas,
    trunk_layers,
    without,
)
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import (
    LAYER_TYPES,
    SPARSE,
    layer_count,
    layer_masks,
    layer_sizes,
    layer_types,
    read_window,
    stated_sparse,
)
from ..config_readers.rope import exact_context, nested_ropes
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .glm4_moe import with_sigmoid_experts
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("mimo_v2_flash",)
ARCHITECTURES: dict[str, Task] = decoders("MiMoV2Flash", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    keys = _in_transformers_words(keys)
    kv_heads, before = keys.size("num_key_value_heads", 4), keys.get("sliding_window_size", int, None)
    base = decoder(
        keys,
        kv_heads=kv_heads,
        context=131_072,
        eps=keys.positive("layernorm_epsilon", 1e-5),
        head=192,
        positions=lambda *_, **__: None,
    )
    types = layer_types(keys, lambda i: i > 0 and (i + 1) % 6 != 0)
    window = read_window(keys, 129, everywhere=False)
    masks = layer_masks(keys, types, window if before is None else before + 1)
    one, value_size = base.stack.attentions[0], keys.size("v_head_dim", 128)
    thetas = keys.positive("rope_theta", 5_000_000.0), keys.positive("swa_rope_theta", 10_000.0)
    ropes = nested_ropes(
        keys,
        dict.fromkeys(types, one.head_size),
        base.context,
        {kind: {"rope_theta": theta} for kind, theta in zip(LAYER_TYPES, thetas, strict=True)},
        partial=keys.positive("partial_rotary_factor", 0.334),
    )
    swa = {"num_attention_heads": one.heads, "head_dim": one.head_size, "v_head_dim": value_size}
    for key, size in swa.items():
        keys.restated(f"swa_{key}", size, f"the same as {key} ({size})")
    keys.restated("swa_num_key_value_heads", 2 * kv_heads, f"twice num_key_value_heads ({2 * kv_heads})")
    scale = keys.positive("attention_value_scale", 0.707, null=True)

    def change(i: int, attention: Attention) -> Attention:
        slides = isinstance(masks[i], Window)
        return replace(
            attention,
            kv_heads=2 * kv_heads if slides else kv_heads,
            position=ropes[types[i]],
            mask=masks[i],
            out_bias=False,
            sink_logits=slides,
            value_scale=scale,
            value_size=value_size,
        )

    stated = stated_sparse(keys)
    mixed = with_sigmoid_experts(
        map_attention(base, change),
        keys.with_defaults({"moe_intermediate_size": 2048}),
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 256),
        top=keys.size("num_experts_per_tok", 8),
        shared=0,
        sparse=1 if stated is None else stated,
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
    return replace(mixed, context=exact_context(base.context, *ropes.values()))


def _in_transformers_words(keys: Keys) -> Keys:
    """Rename the publisher's keys to transformers' names. Check the keys that must have one value."""
    keys.unused("attention_chunk_size", "output_router_logits")
    keys.harmless(
        add_swa_attention_sink_bias=(True,),
        add_full_attention_sink_bias=(False,),
        hybrid_block_size=(None,),
        n_shared_experts=(None,),
        rope_scaling=(None,),
        scoring_func=("sigmoid",),
        topk_method=("noaux_tc",),
    )
    values = {**keys.values}
    if values.get("routed_scaling_factor", 1.0) is None:
        values["routed_scaling_factor"] = 1.0
    for old, new, kinds in (
        ("hybrid_layer_pattern", "layer_types", LAYER_TYPES),
        ("moe_layer_freq", "mlp_layer_types", SPARSE),
    ):
        if values.get(new) is None and (marks := keys.get(old, list, None)) is not None:
            values[new] = [kinds[mark] if type(mark) is int and mark in (0, 1) else mark for mark in marks]
        keys.unused(old)
    return keys.replaced(values)


NARROW = [f"decoder.layers.{{i}}.attn.{leaf}" for leaf in ("wv", "bv", "wo")]
WEIGHTS = QWEN2.without(*NARROW) + weight_map("""
    decoder.layers.{i}.attn.wv <- layers.{i}.self_attn.v_proj.weight : transpose narrow
    decoder.layers.{i}.attn.bv <- layers.{i}.self_attn.v_proj.bias : narrow
    decoder.layers.{i}.attn.wo <- layers.{i}.self_attn.o_proj.weight : narrow transpose
    decoder.layers.{i}.attn.sink_logits <- layers.{i}.self_attn.(attention_sink_bias|sinks)
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.gate.e_score_correction_bias
    left out <- mtp.*
""")


def _kv_heads(keys: Keys, source: TensorSource) -> int:
    """Return the number of key heads in layers without a window. Layers with a window have twice as many."""
    types = TYPES.read(keys, source)
    heads = layer_sizes(keys, KV_HEADS, layer_count(keys, "block_count"))[: len(types)]
    one = heads[0] // (1 + LAYER_TYPES.index(types[0]))
    if heads != [one * (1 + LAYER_TYPES.index(kind)) for kind in types]:
        raise keys.fail(KV_HEADS, "a number for each layer, twice as large in layers with a window")
    return one


KV_HEADS = "attention.head_count_kv"
TYPES = sliding_layers(1, trunk=True)
KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    **experts("n_routed_experts"),
    "model_type": fixed("mimo_v2_flash"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "num_key_value_heads": Row(_kv_heads, KV_HEADS),
    "head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length",
    "attention_value_scale": optional("attention.value_scale", None),
    "rope_parameters": thetas(lambda keys: keys.size("attention.key_length"), partial=True),
    "layer_types": TYPES,
    "sliding_window": "attention.sliding_window",
    "mlp_layer_types": mlp_types(),
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": always("expert_weights_norm", True),
    "routed_scaling_factor": optional("expert_weights_scale", 1.0),
    "n_group": optional("expert_group_count", 1),
    "topk_group": optional("expert_group_used_count", 1),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS.without(*NARROW)
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.wv <- blk.{i}.attn_v.weight : transpose narrow
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : narrow transpose
    decoder.layers.{i}.attn.sink_logits <- blk.{i}.attn_sinks.weight
    left out <- blk.{n}.*
""")
)
GGUF = Gguf("mimo2", KEYS, GGUF_WEIGHTS, by_layer=(KV_HEADS,), arrays=("attention.sliding_window_pattern",))
