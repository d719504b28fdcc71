"""The text part of MiniMax-M3 (MiniMax 2026): an indexer in most layers chooses the blocks of tokens that
attention sees, for each key head.

Mlps, experts and the shared expert beside them have gpt-oss's clamped SwiGLU. Part of each head is rotated,
after a norm. Norm weights are stored minus one. tfm leaves out the modules that predict further tokens, as
transformers does. In GGUF the architecture is `minimax-m3`.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from ...config import Attention, BlockIndexer, Decoder, Gated, Layer, RMSNorm, Rope, SwiGLUOAI
from ...ops.indexed_attention import IndexedAttention
from ..config_readers.decoder import decoder, map_layers, sigmoid_experts
from ..config_readers.gguf_keys import PARTIAL, SIGMOID, Row, experts, fixed, mlp_types, optional, scores
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import SPARSE, layer_count, stated_sparse, stated_types
from ..config_readers.rope import rope
from ..config_readers.text_part import TextModel, sizes, text_model
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .gemma import add_one_to_norms
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX
from .minimax_m2 import WEIGHTS as MINIMAX_M2
from .qwen3 import with_qk_norm

MODEL_TYPES = ("minimax_m3_vl", "minimax_m3_vl_text")
ARCHITECTURES: dict[str, Task] = {
    "MiniMaxM3SparseForConditionalGeneration": "lm",
    "MiniMaxM3VLForCausalLM": "lm",
    "MiniMaxM3VLModel": "pool",
    "MiniMaxM3VLTextModel": "pool",
}
TYPES = ("full_attention", "minimax_m3_sparse")  # without an indexer, with one
NESTED = "sparse_attention_config"
# What transformers calls the sizes that MiniMax states in that object.
NAMES = {
    "sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size", "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    if keys.get("model_type", str) == MODEL_TYPES[1]:
        return _text(keys.with_defaults(TEXT.defaults), task)
    keys.unused(
        "vision_config", "image_token_index", "image_token_id", "video_token_index", "video_token_id",
        "projector_hidden_size", "merged_hidden_size", "vision_feature_layer",
        "vision_feature_select_strategy",
    )  # fmt: skip
    return text_model(keys, task, {MODEL_TYPES[1]: TEXT}, MODEL_TYPES[1], tied=False, either=True)


def _text(keys: Keys, task: Task) -> Decoder:
    keys = _in_transformers_words(keys)
    kinds = stated_types(keys, TYPES) or TYPES[:1] * layer_count(keys)
    sparse = stated_sparse(keys) or [True] * len(kinds)
    base = with_qk_norm(
        decoder(
            keys,
            kv_heads=keys.size("num_key_value_heads", 4),
            context=524_288,
            attention_bias=False,
            theta=5_000_000.0,
            head=128,
            positions=_rotary_part,
        )
    )
    indexer = _indexer(keys, base.stack.attentions[0], used=TYPES[1] in kinds)
    activation = SwiGLUOAI(keys.positive("swiglu_alpha", 1.702), keys.positive("swiglu_limit", 7.0))
    width = keys.size("dense_intermediate_size", 12_288)
    mixture = partial(
        sigmoid_experts,
        experts=keys.size(keys.spelled("num_local_experts", "num_experts"), 128),
        top=keys.size("num_experts_per_tok", 4),
        scale=keys.positive("routed_scaling_factor", 2.0),
    )
    shared = keys.size("shared_intermediate_size", 3072)

    def change(i: int, layer: Layer) -> Layer:
        attention, mlp = layer.attention, layer.mlp
        assert isinstance(attention, Attention)
        assert isinstance(mlp, Gated)
        mlp = replace(mlp, activation=activation)
        mixed = replace(mixture(mlp, width=mlp.width), shared=shared) if sparse[i] else None
        return replace(
            layer,
            attention=_indexed(attention, indexer) if kinds[i] == TYPES[1] else attention,
            mlp=mixed or replace(mlp, width=width),
        )

    return map_layers(base, change)


def _rotary_part(keys: Keys, head_size: int, context: int, *, theta: float) -> Rope:
    """Read rotary positions of the share of a head that partial_rotary_factor states.

    transformers doesn't read `rotary_dim`, and other code reads it alone. So both must state the same.
    """
    position = rope(keys, head_size, context, theta=theta, partial=1.0)
    keys.restated("rotary_dim", position.dims, f"the number of rotated elements of a head ({position.dims})")
    return position


def _in_transformers_words(keys: Keys) -> Keys:
    """Rename MiniMax's keys to transformers' names. Check the keys that must have one value."""
    keys.unused("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # of training
    keys.unused("num_mtp_modules", "num_nextn_predict_layers")
    # transformers takes SwiGLU's clamped form whatever hidden_act states.
    keys.harmless(
        hidden_act=("silu", "swigluoai"), use_qk_norm=(True,), qk_norm_type=("per_head",),
        use_gemma_norm=(True,), attention_output_gate=(False,), scoring_func=("sigmoid",),
        use_routing_bias=(True,), n_shared_experts=(1,), norm_topk_prob=(True,), sliding_window=(None,),
    )  # fmt: skip
    values = {**keys.values, "hidden_act": "silu"}
    _by_layer(keys, keys, "moe_layer_freq", "mlp_layer_types", SPARSE, values)
    if (stated := keys.get(NESTED, dict, None)) is None:
        return keys.replaced(values)
    inner = Keys(stated, f"{keys.where}: {NESTED}")
    inner.harmless(use_sparse_attention=(True,), sparse_score_type=("max",), sparse_init_block=(0,))
    for key, name in NAMES.items():
        if key in inner:
            values[name] = inner.get(key, int)
            if keys.stated(name, values[name]) != values[name]:
                raise keys.fail(name, f"the same as {NESTED}'s {key} ({values[name]})")
    _by_layer(inner, keys, "sparse_attention_freq", "layer_types", TYPES, values)
    without = inner.get("sparse_disable_index_value", list, None)
    if without is not None and without != inner.values.get("sparse_attention_freq"):
        raise inner.fail("sparse_disable_index_value", "the same as sparse_attention_freq")
    inner.finish({})
    return keys.replaced(values)


def _by_layer(
    source: Keys, keys: Keys, key: str, name: str, kinds: tuple[str, ...], values: dict[str, Any]
) -> None:
    """Write the layers' types under transformers' `name` into `values`, if MiniMax's `key` states them.

    The key has a 0 for each layer of the first of two kinds, and a 1 for each of the second.
    """
    marks, count = source.get(key, list, None), layer_count(keys)
    if marks is None:
        return
    if len(marks) != count or any(type(mark) is not int or mark not in (0, 1) for mark in marks):
        raise source.fail(key, f"a list of {count} entries, each 0 or 1")
    values[name] = [kinds[mark] for mark in marks]
    if keys.get(name, list, None) not in (None, values[name]):
        raise keys.fail(name, f"the list that {key} states, or absent")


def _indexer(keys: Keys, attention: Attention, *, used: bool) -> BlockIndexer:
    """Return the indexer of all layers that have one. Its sizes are checked only if a layer has one."""
    groups, dims = attention.kv_heads, getattr(attention.position, "dims", 0)
    indexer = BlockIndexer(
        keys.size("index_head_dim", 128),
        keys.size("index_block_size", 128),
        keys.size("index_topk_blocks", 16),
        keys.get("index_local_blocks", int, 1),
    )
    if used and keys.size("index_n_heads", 4) != groups:
        raise keys.fail("index_n_heads", f"the same as num_key_value_heads ({groups})")
    if used and indexer.size < dims:
        raise keys.fail("index_head_dim", f"at least the number of rotated elements of a head ({dims})")
    if used and not 0 <= indexer.local <= indexer.topk:
        raise keys.fail("index_local_blocks", f"from 0 to index_topk_blocks ({indexer.topk})")
    keys.unused("index_n_heads")
    return indexer


def _indexed(a: Attention, indexer: BlockIndexer) -> IndexedAttention:
    """Return attention to the blocks that an indexer chooses, in place of attention to all tokens."""
    assert isinstance(a.position, Rope)
    assert isinstance(a.pre, RMSNorm)
    return IndexedAttention(
        a.heads, a.kv_heads, a.head_size, a.position, indexer, a.pre.eps, **a.norms_around
    )


TEXT = TextModel(_text, sizes(200_064, 6144, mlp=3072, layers=60, heads=64))
# The whole model's names, and transformers' names in a text model alone.
NAMED = weight_map("""
    decoder.layers.{i}.attn.{wq,wk}_index <- layers.{i}.self_attn.index_{q,k}_proj.weight : transpose
    decoder.layers.{i}.attn.{q,k}_index_norm <- layers.{i}.self_attn.index_{q,k}_norm.weight
    decoder.layers.{i}.mlp.shared.{gate,up,down} <- layers.{i}.moe.{gate,up,down}_proj.weight : transpose
""").renamed({".moe.": ".block_sparse_moe.shared_experts."})
NAMED_ALONE = weight_map("""
    decoder.layers.{i}.attn.{wq,wk}_index <- layers.{i}.self_attn.indexer.{q,k}_proj.weight : transpose
    decoder.layers.{i}.attn.{q,k}_index_norm <- layers.{i}.self_attn.indexer.{q,k}_norm.weight
    decoder.layers.{i}.mlp.gate, up <- layers.{i}.mlp.gate_up_proj.weight : transpose
    decoder.layers.{i}.mlp.router <- layers.{i}.mlp.gate.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.gate.e_score_correction_bias
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.down_proj[{e}] : transpose
    decoder.layers.{i}.mlp.shared.gate, up <- layers.{i}.mlp.shared_experts.gate_up_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.mlp.shared_experts.down_proj.weight : transpose
""")
WEIGHTS = (
    add_one_to_norms(MINIMAX_M2 + NAMED + NAMED_ALONE)
    + LEFT_OUT
    + weight_map("""
    left out <- {patch_merge_mlp,mtp}.*
""")
)


def _types(keys: Keys, source: TensorSource) -> list[str]:
    """Return the type of each layer: with an indexer if the file has one for the layer."""
    names = set(source.names)
    return [TYPES[f"blk.{i}.indexer.q_proj.weight" in names] for i in range(layer_count(keys, "block_count"))]


WIDTH = "expert_feed_forward_length"
KEYS = {
    **PARTIAL,
    **experts("num_local_experts"),
    "model_type": fixed(MODEL_TYPES[1]),
    "intermediate_size": WIDTH,
    "dense_intermediate_size": "feed_forward_length",
    "shared_intermediate_size": Row(
        lambda keys, _: keys.size(WIDTH) * keys.size("expert_shared_count"), "expert_shared_count"
    ),
    "routed_scaling_factor": optional("expert_weights_scale", 1.0),
    "norm_topk_prob": "expert_weights_norm",
    "expert_gating_func": scores(SIGMOID),
    "mlp_layer_types": mlp_types(),
    "layer_types": Row(_types),
    "index_n_heads": "attention.indexer.head_count",
    "index_head_dim": "attention.indexer.key_length",
    "index_topk_blocks": "attention.indexer.top_k",
    "index_block_size": "attention.indexer.block_size",
    "index_local_blocks": "attention.indexer.local_blocks",
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.{wq,wk}_index <- blk.{i}.indexer.{q,k}_proj.weight : transpose
    decoder.layers.{i}.attn.{q,k}_index_norm <- blk.{i}.indexer.{q,k}_norm.weight
""")
)
GGUF = Gguf("minimax-m3", KEYS, GGUF_WEIGHTS)
