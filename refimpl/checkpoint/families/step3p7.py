"""The text part of Step 3.7 (StepFun 2026): Laguna's attention with a sigmoid gate, and MiniMax-M2's experts
beside a shared expert.

Some layers limit the values of hidden units. tfm leaves out the modules that predict further tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...config import Attention, Decoder, Gated, Layer, MoE, SwiGLUStep, Window
from ..config_readers.decoder import decoder, map_attention, map_layers, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import (
    DECODER,
    SIGMOID,
    Row,
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
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_rope import DIVISORS, divisors
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
from ..config_readers.text_part import TextModel, sizes, text_model
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .gemma import add_one_to_norms
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA
from .qwen3 import with_qk_norm

MODEL_TYPES = ("step3p7",)
ARCHITECTURES: dict[str, Task] = {"Step3p7ForConditionalGeneration": "lm", "Step3p7Model": "pool"}
# As transformers writes them, and as StepFun does.
PREFIX = ("model.language_model.", "model.")
# Keys that StepFun states by other names.
NAMES = {
    "num_attention_groups": "num_key_value_heads", "moe_num_experts": "n_routed_experts",
    "num_local_experts": "n_routed_experts", "moe_top_k": "num_experts_per_tok",
    "share_expert_dims": "share_expert_dim",
}  # fmt: skip
# Lists with a number for each layer, after which those of modules that predict further tokens may follow.
BY_LAYER = ("layer_types", "mlp_layer_types", "swiglu_limits", "swiglu_limits_shared", "rope_theta")
BY_LAYER += ("partial_rotary_factors", "use_rope_layers")
ROPES = "rope_theta", "partial_rotary_factors", "rope_scaling"


def config(keys: Keys, task: Task) -> Decoder:
    if keys.of_gguf:
        return _text(keys, task)
    keys.unused("vision_config", "projector_bias", "image_token_id", "understand_projector_stride")
    return text_model(keys, task, {"step3p5": TEXT}, "step3p5", tied=False)


def _text(keys: Keys, task: Task) -> Decoder:
    keys = _in_transformers_words(keys)
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # transformers takes it whatever is stated
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=128_000,
        eps=1e-5,
        head=128,
        positions=lambda *_, **__: None,
    )
    types, size = layer_types(keys, lambda _: False), base.stack.attentions[0].head_size
    masks = layer_masks(keys, types, read_window(keys, None, everywhere=False))
    ropes = nested_ropes(
        keys, dict.fromkeys(types, size), base.context, {kind: {} for kind in LAYER_TYPES}, partial=1.0
    )
    scale = keys.positive("query_pre_attn_scalar", float(size), null=True) or size
    heads = keys.size("num_attention_heads")
    narrow = keys.size("num_sliding_attention_heads", None, null=True) or heads
    keys.harmless(per_layer_config=(dict, None))  # the same again

    def change(i: int, attention: Attention) -> Attention:
        return replace(
            attention,
            heads=narrow if isinstance(masks[i], Window) else heads,
            position=ropes[types[i]],
            mask=masks[i],
            head_gate=True,
            scale=None if scale == size else scale**-0.5,
        )

    mixture = partial(
        sigmoid_experts,
        experts=keys.size("n_routed_experts", 288),
        top=keys.size("num_experts_per_tok", 8),
        width=keys.size("moe_intermediate_size", 1280),
        scale=keys.positive("moe_router_scaling_factor", 1.0),
    )
    shared, stated = keys.size("share_expert_dim", 1280), stated_sparse(keys)
    mixed = with_experts(
        map_attention(with_qk_norm(base), change),
        lambda mlp: replace(mixture(mlp), shared=shared),
        3 if stated is None else stated,
    )
    return replace(_bounded(mixed, keys), context=exact_context(base.context, *ropes.values()))


def _bounded(config: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with the limits that config.json states for experts, and for dense and shared
    mlps.
    """
    count = len(config.layers)
    experts, others = (limits_by_layer(keys, f"swiglu_limits{which}", count) for which in ("", "_shared"))

    def change(i: int, layer: Layer) -> Layer:
        mlp = layer.mlp
        assert isinstance(mlp, Gated | MoE)
        if isinstance(mlp, MoE):
            return replace(layer, mlp=bounded_experts(mlp, experts[i], others[i]))
        limit = others[i]
        return replace(layer, mlp=replace(mlp, activation=SwiGLUStep(limit)) if limit else mlp)

    return map_layers(config, change)


def bounded_experts(mlp: MoE, limit: float | None, shared: float | None) -> MoE:
    """Return the experts with a limit, and the shared experts with theirs. 0 and None are no limits."""
    own, other = (SwiGLUStep(bound) if bound else mlp.activation for bound in (limit, shared))
    return replace(mlp, activation=own, shared_activation=None if own == other else other)


def limits_by_layer(keys: Keys, key: str, layers: int) -> Sequence[float | None]:
    """Return the key's list of a limit for each layer. Without the key, no layer has a limit."""
    limits = keys.get(key, list, None, null=True) or [None] * layers
    if len(limits) != layers or any(x is not None and (type(x) not in (int, float) or x < 0) for x in limits):
        raise keys.fail(key, f"a list of {layers} numbers of at least 0")
    return limits


def _in_transformers_words(keys: Keys) -> Keys:
    """Rename StepFun's keys to transformers' names. Check the keys that must have one value."""
    keys.unused("output_router_logits", "mtp_layer_types", "mtp_mlp_layer_types", "max_seq_len")
    keys.unused("num_nextn_predict_layers", "num_mtp_layers")
    keys.harmless(
        att_impl_type=("GQA",), use_qk_norm=(True,), use_moe=(True,), norm_expert_weight=(True,),
        moe_router_activation=("sigmoid",), use_moe_router_bias=(True,), need_fp32_gate=(bool,),
        use_head_wise_attn_gate=(True,), moe_layer_offset=(0,), moe_every_n_layer=(1,), sink=(False,),
        zero_centered=(True,), use_bidirectional_attention=(False,), gating=(True,), mlp_bias=(False,),
        yarn_only_types=(["full_attention"],),
    )  # fmt: skip
    values, count = dict(keys.values), layer_count(keys)
    for own, name in NAMES.items():
        if own in keys:
            values[name] = keys.stated(keys.spelled(name, own))
    lists = {key: values[key][:count] for key in BY_LAYER if isinstance(values.get(key), list)}
    if any(mark != 1 for mark in keys.get("use_rope_layers", list, None) or ()):
        raise keys.fail("use_rope_layers", "a list of ones, since each layer has positions")
    keys.unused("use_rope_layers", "moe_layers_enum", "attention_other_setting", *ROPES)
    if (sparse := values.get("moe_layers_enum")) is not None:
        try:
            numbers = {int(n) for n in (sparse.split(",") if isinstance(sparse, str) else sparse)}
        except (TypeError, ValueError):
            raise keys.fail(
                "moe_layers_enum", "a list of layers, or their numbers separated by commas"
            ) from None
        lists.setdefault("mlp_layer_types", [SPARSE[i in numbers] for i in range(count)])
    if other := keys.get("attention_other_setting", dict, None):
        narrow = Keys(other, f"{keys.where}: attention_other_setting")
        values.setdefault("num_sliding_attention_heads", narrow.size("num_attention_heads"))
        narrow.harmless(
            attention_type=("sliding_attention",), head_dim=(values.get("head_dim", 128),),
            num_attention_groups=(values.get("num_key_value_heads", 8),),
        )  # fmt: skip
        narrow.finish({})
    if values.get("rope_parameters") is None:
        lists["rope_parameters"] = _ropes(keys, lists)
    return keys.replaced(values | lists)


def _ropes(keys: Keys, lists: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Return the rotation of each type of layer, from the type's first layer. Full attention may scale it."""
    count, ropes = layer_count(keys), {}
    types, names = lists.get("layer_types") or LAYER_TYPES[:1] * count, {"rope_theta": "rope_theta"}
    names["partial_rotary_factors"] = "partial_rotary_factor"
    if any(len(lists.get(key, types)) != count for key in (*names, "layer_types")):
        raise keys.fail("rope_theta", "a number, or like partial_rotary_factors a number for each layer")
    for kind in LAYER_TYPES:
        if kind in types:
            stated = {own: keys.values.get(key) for key, own in names.items()}
            stated |= {own: lists[key][types.index(kind)] for key, own in names.items() if key in lists}
            ropes[kind] = {own: number for own, number in stated.items() if number is not None}
    if "full_attention" in ropes:
        ropes["full_attention"] |= keys.get("rope_scaling", dict, None) or {}
    return ropes


TEXT = TextModel(_text, sizes(128_815, 4096, mlp=11_264, layers=45, heads=64))
LEFT_OUT = weight_map("""
    left out <- vision_model.*
    left out <- {vit_large_projector,multi_modal_projector}.*
    left out <- layers.{n}.*
""")
WEIGHTS = (
    add_one_to_norms(LLAMA + QK_NORM)
    + weight_map("""
    decoder.layers.{i}.attn.w_head_gate <- layers.{i}.self_attn.g_proj.weight : transpose
    decoder.layers.{i}.mlp.router <- layers.{i}.moe.gate.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.moe.router_bias
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{i}.moe.gate_proj.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{i}.moe.up_proj.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.moe.down_proj.weight[{e}] : transpose
    decoder.layers.{i}.mlp.shared.gate <- layers.{i}.share_expert.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- layers.{i}.share_expert.up_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.share_expert.down_proj.weight : transpose
""")
    + LEFT_OUT
)


def _heads(kind: str) -> Row:
    """Return the row for the number of heads in one type of layers. It must be the same in all of them."""

    def read(keys: Keys, source: TensorSource) -> int | None:
        types = TYPES.read(keys, source)
        heads = layer_sizes(keys, HEADS, layer_count(keys, "block_count"))
        found = {number for number, own in zip(heads, types, strict=False) if own == kind}
        if len(found) > 1:
            raise keys.fail(HEADS, "the same in all layers with a window, and in all layers without a window")
        return found.pop() if found else heads[0]

    return Row(read, HEADS)


def _rotations(keys: Keys, source: TensorSource) -> dict[str, Any]:
    """Return the rotary keys. llama.cpp rotates half of the stated elements in layers without a window.

    The divisors follow from a scaling like Llama 3's; the rest of the divisors are ones."""
    size = own_head_size(keys)
    dims, context = keys.size("rope.dimension_count", size), keys.size("context_length")
    ropes = thetas(own_head_size, partial=True).read(keys, source)
    if DIVISORS in source.names:
        divided = [*divisors(keys, source, DIVISORS, dims // 2)[: dims // 4]]
        ropes["full_attention"] = {
            "rope_type": "longrope",
            "rope_theta": ropes["full_attention"]["rope_theta"],
            "original_max_position_embeddings": context,
            "short_factor": divided,
            "long_factor": divided,
            "attention_factor": 1.0,
        }
    ropes["full_attention"]["partial_rotary_factor"] = (dims // 2 + 0.5) / size
    return ropes


HEADS, KV_HEADS = "attention.head_count", "attention.head_count_kv"
PATTERN, CLAMPS = "attention.sliding_window_pattern", ("swiglu_clamp_exp", "swiglu_clamp_shexp")
TYPES = sliding_layers(1, trunk=True)
KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    **experts("n_routed_experts"),
    "model_type": fixed("step3p7"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "num_attention_heads": _heads("full_attention"),
    "num_sliding_attention_heads": _heads("sliding_attention"),
    "num_key_value_heads": KV_HEADS,
    "rope_parameters": Row(_rotations),
    "layer_types": TYPES,
    "sliding_window": "attention.sliding_window",
    "mlp_layer_types": mlp_types(),
    "moe_intermediate_size": "expert_feed_forward_length",
    "share_expert_dim": "expert_shared_feed_forward_length",
    "moe_router_scaling_factor": optional("expert_weights_scale", 1.0),
    "norm_expert_weight": optional("expert_weights_norm", False),
    "swiglu_limits": optional(CLAMPS[0], None),
    "swiglu_limits_shared": optional(CLAMPS[1], None),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.w_head_gate <- blk.{i}.attn_gate.weight : transpose
    nothing <- rope_freqs.weight
    left out <- blk.{n}.*
""")
)
GGUF = Gguf("step35", KEYS, GGUF_WEIGHTS, by_layer=(HEADS, KV_HEADS), arrays=(PATTERN, *CLAMPS))
