"""GLM-4.5, 4.6 and 4.7 (GLM Team 2025): experts beside a shared expert, chosen by sigmoids as in DeepSeek-V3.

The first layers have no experts. Half of each head is rotated. tfm reads the layer after the last, which
predicts further tokens, if an option asks for it (`ops.mtp`). If there are several such layers, tfm leaves
them all out.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ...config import Decoder, ExpertGroups, Layer, MoE
from ..config_readers.decoder import (
    decoder,
    map_attention,
    sigmoid_experts,
    with_experts,
    with_mtp,
)
from ..config_readers.gguf_keys import (
    FURTHER,
    PARTIAL,
    PERHAPS_SECTIONED,
    SIGMOID_EXPERTS,
    Row,
    fixed,
    has,
    optional,
    trunk_layers,
)
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.rope import rope
from ..weights.weight_map import WeightMap, weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2
from .qwen3 import with_qk_norm

MODEL_TYPES = ("glm4_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Glm4Moe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    modules = keys.get(keys.spelled("num_nextn_predict_layers", "num_mtp_layers"), int, 1)
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=131_072,
        eps=1e-5,
        positions=partial(rope, partial=0.5),
    )
    out_bias = keys.shows("attn_output.bias", stated=False)
    base = map_attention(base, lambda _, a: replace(a, out_bias=out_bias))
    base = with_sigmoid_experts(
        base,
        keys,
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 128),
        top=keys.size("num_experts_per_tok", 8),
        shared=keys.size("n_shared_experts", 1),
        sparse=keys.get("first_k_dense_replace", int, 1),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
    base = with_qk_norm(base) if keys.get("use_qk_norm", bool, False) else base
    return with_mtp(base, modules, sparse_layer(base))


def sparse_layer(config: Decoder) -> Layer | None:
    """Return the last layer if it has experts, otherwise None.

    Layers that predict further tokens always have experts, so their form is the last layer's."""
    return config.layers[-1] if isinstance(config.layers[-1].mlp, MoE) else None


def with_sigmoid_experts(
    base: Decoder,
    keys: Keys,
    *,
    experts: int,
    top: int,
    shared: int,
    sparse: int | Sequence[bool],
    renormalize: bool,
) -> Decoder:
    """Return the decoder with experts in its `sparse` layers. Sigmoids and biases choose the experts."""
    keys.get("output_router_logits", bool, False)  # of training
    mixture = partial(
        sigmoid_experts,
        experts=experts,
        top=top,
        width=keys.size("moe_intermediate_size", 1408),
        renormalize=renormalize,
        scale=keys.positive("routed_scaling_factor", 1.0),
        shared=shared,
        groups=ExpertGroups(keys.size("n_group", 1), keys.size("topk_group", 1)),
    )
    return with_experts(base, mixture, sparse)


# The layer after the last, by DeepSeek's names; its tables are copies of the model's.
MTP_INPUT = weight_map("""
    with mtp:
    mtp.{token,hidden}_norm <- layers.{n}.{enorm,hnorm}.weight
    mtp.project <- layers.{n}.eh_proj.weight : transpose
    mtp.norm.weight <- layers.{n}.shared_head.norm.weight
    embedding.table == layers.{n}.embed_tokens.weight
    head.table == layers.{n}.shared_head.head.weight
    embedding.table == layers.{n}.shared_head.head.weight
""")


def with_mtp_layer(base: WeightMap) -> WeightMap:
    """Return the weight map with the layer that predicts further tokens.

    The lines for this layer come before `base`, which would leave the layer out.
    """
    return base.of_mtp("layers.{n}.") + MTP_INPUT + base


WITHOUT_MTP = (
    QWEN2.renamed({"mlp.shared_expert.": "mlp.shared_experts."})
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.gate.e_score_correction_bias
    left out <- layers.{n}.*
""")
)
WEIGHTS = with_mtp_layer(WITHOUT_MTP)


GGUF_LAYERS = UNPERMUTED_QK_WEIGHTS.renamed({"ffn_norm": "post_attention_norm"}) + EXPERTS
# By the names of llama.cpp, which says where `MTP_INPUT` has DeepSeek's.
GGUF_MTP_INPUT = MTP_INPUT.renamed(
    {
        "layers.{n}.shared_head.head": "blk.{n}.nextn.shared_head_head",
        "layers.{n}.shared_head.norm": "blk.{n}.nextn.shared_head_norm",
        "layers.{n}.": "blk.{n}.nextn.",
    }
)
GGUF_WEIGHTS = (
    GGUF_LAYERS.of_mtp("blk.{n}.")
    + GGUF_MTP_INPUT
    + GGUF_LAYERS
    + weight_map("""
    left out <- blk.{n}.*
""")
)
KEYS = {
    **PARTIAL,
    **SIGMOID_EXPERTS,
    **PERHAPS_SECTIONED,
    "model_type": fixed("glm4_moe"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "num_nextn_predict_layers": optional(FURTHER, 0),
    "use_qk_norm": has("blk.0.attn_q_norm.weight"),
}
GGUF = Gguf("glm4moe", KEYS, GGUF_WEIGHTS, arrays=(SECTIONS,))
